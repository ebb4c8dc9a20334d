# SPDX-License-Identifier: Apache-2.0
"""Proofs: Amaranth's Assert, Assume and Cover, decided by the model checkers of ABC.

Amaranth writes RTLIL; Yosys makes an and-inverter graph of it; ABC decides; both come in the wheel of pyosys.
``proved`` means for all times: property-directed reachability (`pdr`) found an inductive invariant and
checked it, or the properties hold at first, and one cycle longer if they held for k cycles (`ind`).
``bounded`` means in the first so many cycles after reset (`bmc3`), ``reached`` that a cover can happen,
``refuted`` that an assertion fails. A bench starts in the state after reset and is never reset again.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import Assert, Assume, Cat, ClockDomain, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import wiring

PROVE_SECONDS = 300
"""CPU time of the longest search for a proof; what takes longer is stated with a bound."""
COVER_CYCLES = 200
"""A cover has to happen within so many cycles."""
INDUCTION_CYCLES = 20
"""Where an induction does not work, a failure is looked for within so many cycles."""
_FLAVOUR = re.compile(r'parameter \\FLAVOR "(\w+)"')
_FORMAT = re.compile(r'parameter \\FORMAT "(.*)"')
_CHECK = re.compile(r"^  cell \$check (\S+)\n(?:.*\n)*?  end\n", re.MULTILINE)
_PASSES = """
read_rtlil design.il
hierarchy -check -top top
flatten
proc
chformal -lower
delete t:$print
opt
memory -nomap
memory_nordff
opt_clean
{forget}
memory_map
setundef -undriven -anyseq
opt
write_rtlil flat.il
techmap
opt -fast
dffunmap
aigmap
opt_clean
write_aiger -B -zinit -map design.aim -ywmap design.json design.aig
"""
_SIMPLIFY = "scleanup; dc2; scorr; dc2"
_RUN_YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in sys.stdin.read().splitlines():
    libyosys.run_pass(line, design)
"""


class ProofError(AssertionError):
    """A property does not hold, cannot be decided, or a cover does not happen."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``answer`` proved, bounded, reached or refuted; ``cycles``: of the bound, or until it happened."""

    name: str
    answer: str
    cycles: int
    seconds: float

    def __str__(self) -> str:
        return self.answer if self.answer == "proved" else f"{self.answer}, {self.cycles} cycles"


class Bench(Elaboratable):
    """A part whose inputs may do anything that the Assume statements of ``elaborate`` allow.

    A subclass names the free inputs in its constructor and states its properties in ``describe``.
    ``forgotten``: ends of the names of memories whose contents do not matter; what is read there is anything.
    """

    forgotten: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.inputs: list[tuple[str, Signal]] = []
        self.clock: Any = ClockDomain("sync", reset_less=True)

    def free(self, *signals: Any) -> None:
        """These signals, driven by nobody, take any value in any cycle."""
        for each in signals:
            signal = Value.cast(each)
            assert isinstance(signal, Signal), f"{each!r} is no signal"
            self.inputs.append((signal.name, signal))

    def free_inputs(self, part: wiring.Component, but: tuple[str, ...] = ()) -> None:
        """All inputs of a part, but members whose path, joined by "__", begins with one of these names."""
        for path, member, signal in part.signature.flatten(part):
            name = "__".join(map(str, path))
            taken = any(name == each or name.startswith(f"{each}__") for each in but)
            if member.flow == wiring.In and not taken:
                self.inputs.append((name, Value.cast(signal)))  # type: ignore[arg-type]

    def any_constant(self, m: Module, shape: Any, name: str) -> Signal:
        """A number that is any at first and stays as it is."""
        chosen, held = Signal(shape, name=f"any_{name}"), Signal(shape, name=f"held_{name}")
        value, first = Signal(shape, name=name), Signal(init=1, name=f"first_{name}")
        self.free(chosen)
        m.d.comb += value.eq(Mux(first, chosen, held))
        m.d.sync += [held.eq(value), first.eq(0)]
        return value

    def describe(self, m: Module) -> None:
        """Put the part and its properties into ``m``."""
        raise NotImplementedError

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += self.clock
        self.describe(m)
        return m


def opened(part: Any) -> Module:
    """The module of a part, to be added as a submodule; the parts inside are its ``submodules``."""
    part._MustUse__used = True
    module = part.elaborate(None)
    assert isinstance(module, Module)
    return module


def inner(module: Any, name: str) -> Signal:
    """A signal of that name that a module drives: for properties that tie a part's own state to a bench's."""
    found = [signal for signal in module._driving if signal.name == name]
    if len(found) != 1:
        names = sorted(signal.name for signal in module._driving)
        raise ProofError(f"{len(found)} signals {name!r}; there are {names}")
    return found[0]


def fsm_state(module: Any, name: str = "fsm") -> Value:
    """The state of a module's state machine of that name; its first state is 0."""
    statements: list[Any] = [each for group in module._statements.values() for each in group]
    tests = [each.test for each in statements
             if type(each).__name__ == "Switch" and getattr(each.test, "name", "") == f"{name}_state"]
    if not tests:
        raise ProofError(f"no state machine {name!r} in this module")
    return tests[0]


def fsm_numbers(module: Any, name: str = "fsm") -> dict[str, int]:
    """The states of a module's state machine of that name."""
    state: Any = fsm_state(module, name)
    numbers = {}
    for number in range(1 << len(state)):
        with contextlib.suppress(KeyError):  # no state has that number
            numbers[state.decoder(number).split("/")[0]] = number
    return numbers


def fsm_in(module: Any, *names: str) -> Value:
    """The module's only state machine is in one of these states."""
    numbers, state = fsm_numbers(module), fsm_state(module)
    return Cat(state == numbers[name] for name in names).any()


def mutated(part: Any, change: Callable[[Module, Any], None]) -> Any:
    """The same part, broken: ``change(module, part)`` comes behind its own statements and wins over them."""
    whole = part.elaborate

    def elaborate(platform: object) -> Module:
        m = whole(platform)
        change(m, part)
        return m

    part.elaborate = elaborate
    return part


def transfer(port: Any) -> Value:
    """A payload of a stream changes hands in this cycle."""
    return port.valid & port.ready


def _stays(m: Module, valid: Value, ready: Value, payload: Value, dropped: Value | int = 0) -> Value:
    """What was offered, not taken and not dropped in the cycle before is offered still."""
    waited, was = Signal(), Signal(len(payload))
    m.d.sync += [waited.eq(valid & ~ready & ~Value.cast(dropped)), was.eq(payload)]
    return ~waited | (valid & (payload == was))


def payload_of(port: Any) -> Value:
    return Value.cast(port.payload)


def assume_held(m: Module, port: Any, dropped: Value | int = 0) -> None:
    """The one who drives this stream keeps to the rule: valid and payload stay until the transfer, or until
    all is ``dropped``."""
    m.d.comb += Assume(_stays(m, port.valid, port.ready, payload_of(port), dropped), None)


def assert_held(m: Module, port: Any, name: str, payload: Value | None = None) -> None:
    """The part keeps to it."""
    m.d.comb += Assert(_stays(m, port.valid, port.ready, payload_of(port) if payload is None else payload),
                       f"{name}: valid and payload stay until ready")


def assert_stays(m: Module, valid: Value, ready: Value, payload: Value, name: str) -> None:
    """Likewise of a channel that is no stream object (AXI)."""
    m.d.comb += Assert(_stays(m, valid, ready, payload), f"{name}: VALID and payload stay until READY")


def waits(m: Module, waiting: Value, event: Value, limit: int, *, name: str) -> Signal:
    """How often ``event`` has happened while ``waiting``, up to ``limit`` + 1."""
    count = Signal(range(limit + 2), name=name)
    with m.If(~waiting):
        m.d.sync += count.eq(0)
    with m.Elif(event & (count != limit + 1)):
        m.d.sync += count.eq(count + 1)
    return count


@dataclasses.dataclass(frozen=True)
class Followed:
    """A payload in a FIFO: ``active`` while it is inside; so many others ``ahead`` of it; its ``payload``."""

    active: Signal
    ahead: Signal
    payload: Signal


def follow(m: Module, fifo: Any, start: Value) -> Followed:
    """One payload that goes into a `StreamFIFO` while ``start`` is high is followed until it leaves, then
    another one."""
    takes, gives = transfer(fifo.i), transfer(fifo.o)
    active, ahead = Signal(), Signal.like(fifo.level)
    payload = Signal(len(payload_of(fifo.i)))
    with m.If(active):
        m.d.sync += [ahead.eq(ahead - gives), active.eq(~gives | (ahead != 0))]
    with m.Elif(start & takes):
        m.d.sync += [active.eq(1), payload.eq(payload_of(fifo.i)), ahead.eq(fifo.level - gives)]
    return Followed(active, ahead, payload)


def assume_fifo(m: Module, fifo: Any, followed: Followed | None = None) -> None:
    """What `tests/formal/stream/test_fifo.py` proves of a FIFO whose contents are forgotten here."""
    m.d.comb += Assume((fifo.level < 2) | fifo.o.valid, None)
    if followed is not None:
        m.d.comb += Assume(~(followed.active & fifo.o.valid & (followed.ahead == 0))
                           | (payload_of(fifo.o) == followed.payload), None)


def assume_contents(m: Module, fifo: Any) -> list[Signal]:
    """What is inside, oldest first, of a FIFO whose contents are forgotten: its level says how many of these
    count. It gives them in that order (`assume_fifo`, of every payload)."""
    width, takes, gives = len(payload_of(fifo.i)), transfer(fifo.i), transfer(fifo.o)
    entries = [Signal(width, name=f"entry_{place}") for place in range(fifo.depth)]
    for place, entry in enumerate(entries):
        with m.If(takes & (fifo.level - gives == place)):
            m.d.sync += entry.eq(payload_of(fifo.i))
        with m.Elif(gives):
            m.d.sync += entry.eq(entries[place + 1] if place + 1 < len(entries) else 0)
    m.d.comb += Assume(~fifo.o.valid | (payload_of(fifo.o) == entries[0]), None)
    assume_fifo(m, fifo)
    return entries


@dataclasses.dataclass(frozen=True)
class _Property:
    name: str
    flavour: str
    output: int


class Design:
    """A bench as an and-inverter graph, in a folder of its own."""

    def __init__(self, bench: Bench, folder: Path):
        self.folder = folder
        ports: dict[str, Any] = {"clk": (bench.clock.clk, None)}
        fragment = bench.elaborate(None)
        for number, (name, signal) in enumerate(bench.inputs):
            ports[f"{name}" if name not in ports else f"{name}_{number}"] = (signal, None)
        names: dict[str, tuple[str, str]] = {}
        text = _CHECK.sub(functools.partial(_rewrite_check, names),
                          rtlil.convert(fragment, name="top", ports=ports, emit_src=False))
        (folder / "design.il").write_text(text)
        forget = "\n".join(f"delete c:*{each}" for each in bench.forgotten)
        self._yosys(_PASSES.replace("{forget}", forget))
        order = json.loads((folder / "design.json").read_text())["asserts"]
        self.properties = []
        for output, path in enumerate(order):
            name, flavour = names[path[-1].lstrip("\\")]
            self.properties.append(_Property(name, flavour, output))
        found = {each.name for each in self.properties}
        if len(found) != len(self.properties):
            raise ProofError("two properties have the same name: "
                             f"{sorted(each.name for each in self.properties)}")

    def _yosys(self, passes: str) -> None:
        run = subprocess.run([sys.executable, "-c", _RUN_YOSYS], input=passes.strip(), cwd=self.folder,
                             capture_output=True, text=True, check=False)
        if run.returncode:
            raise ProofError(f"Yosys failed:\n{(run.stdout + run.stderr)[-2000:]}")

    def _abc(self, outputs: list[int], commands: str, cpu_seconds: int) -> tuple[str, float]:
        """What ABC says of these outputs, and its CPU seconds; it is stopped when they are spent."""
        (self.folder / "small.aig").unlink(missing_ok=True)
        script = f"read_aiger design.aig; fold; cone -a -N {','.join(map(str, outputs))}; {commands}"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(
            ["bash", "-c", f'ulimit -t {cpu_seconds} && exec "$@"', "abc", str(_abc_program()), "-c", script],
            cwd=self.folder, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if "cmd error" in run.stdout or 0 < run.returncode < 128:
            raise ProofError(f"ABC failed: {script}\n{(run.stdout + run.stderr)[-2000:]}")
        return run.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def decide(self, item: _Property, bound: int | None, seconds: int) -> Verdict:
        """One property.

        Raises:
            ProofError: it is neither proved nor refuted in ``seconds`` of CPU time, or a cover not reached.
        """
        if item.flavour == "cover":
            bound = COVER_CYCLES
        engine = "pdr" if bound is None else f"bmc3 -F {bound}"
        text, spent = self._abc([item.output], f"{_SIMPLIFY}; write_aiger small.aig; {engine}", seconds)
        failed = re.search(r"asserted in frame (\d+)", text)
        if failed:
            cycles = int(failed[1]) + 1
            return Verdict(item.name, "reached" if item.flavour == "cover" else "refuted", cycles, spent)
        if self._proved(text):
            if item.flavour != "cover":
                return Verdict(item.name, "proved", 0, spent)
            raise ProofError(f"can never happen: {item.name}")
        done = re.search(r"No output (?:failed|asserted) in (\d+) frames", text)
        if bound is not None and done and int(done[1]) >= bound:
            if item.flavour != "cover":
                return Verdict(item.name, "bounded", bound, spent)
            raise ProofError(f"does not happen within {bound} cycles: {item.name}")
        raise ProofError(f"not decided in {seconds} s: {item.name}; state a bound\n{text[-500:]}")

    def prove_together(self, items: list[_Property], seconds: int) -> list[Verdict] | None:
        """All of them by one invariant, which is quicker than one by one; None if that does not work."""
        text, spent = self._abc([item.output for item in items],
                                f"orpos; {_SIMPLIFY}; write_aiger small.aig; pdr", seconds)
        if not self._proved(text):
            return None
        return [Verdict(item.name, "proved", 0, spent / len(items)) for item in items]

    def induct(self, items: list[_Property], steps: int, seconds: int) -> list[Verdict] | None:
        """All of them by induction: none fails at first, nor behind any ``steps`` cycles in which none fails.
        None if that does not work. Sums are quicker so, since `pdr` knows no words."""
        frames = steps + 1
        text, spent = self._abc([item.output for item in items],
                                f"orpos; scleanup; dc2; bmc3 -F {frames}; ind -F {frames}", seconds)
        if f"No output asserted in {frames} frames" not in text or "Networks are equivalent" not in text:
            return None
        return [Verdict(item.name, "proved", 0, spent / len(items)) for item in items]

    def _proved(self, text: str) -> bool:
        """An invariant was found; or, after simplification (`scorr` is an induction over equal signals), the
        output is 0."""
        small = self.folder / "small.aig"
        if "Property proved" in text or not small.exists():
            return "Property proved" in text
        lines = small.read_bytes().split(b"\n")
        return lines[1 + int(lines[0].split()[3])] == b"0"

    def trace(self, item: _Property, path: Path) -> None:
        """The shortest run to the failure, as a VCD file."""
        self._abc([item.output], "bmc3; write_cex -a cex.aiw", PROVE_SECONDS)
        self._yosys("read_rtlil flat.il\nsim -clock clk -r cex.aiw -map design.aim -vcd trace.vcd")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((self.folder / "trace.vcd").read_bytes())


def _rewrite_check(names: dict[str, tuple[str, str]], match: re.Match[str]) -> str:
    """Give a property a name that Yosys keeps; a cover becomes the assertion that it never happens."""
    text = match[0]
    flavour, form = _FLAVOUR.search(text), _FORMAT.search(text)
    assert flavour is not None
    assert form is not None
    label = f"property_{len(names)}"
    names[label] = (form[1] or f"({flavour[1]})", flavour[1])
    text = text.replace(f"cell $check {match[1]}", f"cell $check \\{label}", 1)
    if flavour[1] != "cover":
        return text
    wire, test = f"\\not_{label}", re.search(r"connect \\A (.*)", text)
    assert test is not None
    return (f"  wire {wire}\n  cell $not \\invert_{label}\n    parameter \\A_SIGNED 0\n"
            f"    parameter \\A_WIDTH 1\n    parameter \\Y_WIDTH 1\n    connect \\A {test[1]}\n"
            f"    connect \\Y {wire}\n  end\n"
            + text.replace('\\FLAVOR "cover"', '\\FLAVOR "assert"').replace(test[0], f"connect \\A {wire}"))


@functools.cache
def _abc_program() -> Path:
    spec = importlib.util.find_spec("pyosys")
    if spec is None or spec.origin is None:
        raise ProofError("pyosys is missing: run scripts/setup.sh")
    return Path(spec.origin).parent / "yosys-abc"


@contextlib.contextmanager
def _designed(bench: Bench) -> Iterator[Design]:
    with tempfile.TemporaryDirectory(prefix="formal_") as folder:
        yield Design(bench, Path(folder))


def prove(bench: Bench, *, bounds: Mapping[str, int] | None = None, steps: int = 0,
          traces: Path | None = None, seconds: int = PROVE_SECONDS) -> list[Verdict]:
    """All properties of a bench; those in ``bounds`` for the first so many cycles only, the others by
    induction over ``steps`` cycles if that is not 0.

    Raises:
        ProofError: an assertion fails (then ``traces`` gets the waveform), is not decided, or a cover is
            never reached.
    """
    bounds = bounds or {}
    with _designed(bench) as design:
        unknown = set(bounds) - {each.name for each in design.properties}
        if unknown:
            raise ProofError(f"bounds for properties that do not exist: {sorted(unknown)}")
        together = [item for item in design.properties
                    if item.flavour == "assert" and item.name not in bounds]
        verdicts: list[Verdict] = []
        if together and steps:
            verdicts = design.induct(together, steps, seconds) or []
        elif together:
            verdicts = design.prove_together(together, seconds) or []
        done = list(together) if verdicts else []
        unproved = bool(steps and together and not done)
        for item in design.properties:
            if item in done:
                continue
            bound = INDUCTION_CYCLES if unproved and item in together else bounds.get(item.name)
            verdict = design.decide(item, bound, seconds)
            if verdict.answer == "refuted":
                where = ""
                if traces is not None:
                    path = traces / f"{re.sub('[^a-z0-9]+', '_', item.name.lower())}.vcd"
                    design.trace(item, path)
                    where = f"; waveform: {path}"
                raise ProofError(f"fails after {verdict.cycles} cycles: {item.name}{where}")
            verdicts.append(verdict)
        if unproved:
            raise ProofError(f"no induction over {steps} cycles, and nothing fails in {INDUCTION_CYCLES}: "
                             "a property is missing that tells what states there are")
        return verdicts


def refute(bench: Bench, name: str, *, bound: int | None = None, seconds: int = PROVE_SECONDS) -> Verdict:
    """The property of that name fails on a bench that was broken on purpose; within ``bound`` cycles.

    Raises:
        ProofError: it holds, or there is none.
    """
    with _designed(bench) as design:
        for item in design.properties:
            if item.name == name:
                verdict = design.decide(item, bound, seconds)
                if verdict.answer != "refuted":
                    raise ProofError(f"holds although the part is broken: {name}")
                return verdict
        raise ProofError(f"no property {name!r}; there are {sorted(p.name for p in design.properties)}")
