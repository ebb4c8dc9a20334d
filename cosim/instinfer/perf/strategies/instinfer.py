# SPDX-License-Identifier: Apache-2.0
"""This project's system: our drive, calibrated on its RTL, queues that the GPU drives itself."""

import dataclasses
import functools
from typing import Literal

from instinfer.abi.commands import Dtype, PolicyKind
from instinfer.abi.config import EngineConfig

from ..drive.appends import stripes_per_token
from ..drive.load import Job, spilled_words
from ..drive.step import DriveStep, layer_step, write_rate
from ..hardware import Csd, Machine
from ..models import Model
from ..provenance import Mark
from ..system import gpu
from ..system.ledger import Phase
from ..system.outcome import Outcome
from ..system.workload import Workload
from .base import Strategy, decode
from .offload import Frame
from .sharding import Shard, shards
from .sizes import GROUP, KEEP, SINKS, SKETCH_BYTES, WINDOW, kept_tokens

LAYER_SECONDS = 20e-6
"""GPU kernels' launches, doorbell, polling per layer and half-batch (assumed; the paper's host path takes
43 ms)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked of a system beyond its policy.

    ``layer_seconds``: the host's cost of a layer; ``way``: head, token or best, how drives share;
    ``tail_cores``: of the engines (`EngineConfig`); ``choosers``: of each, the engine has one; ``reread``:
    share of reads that ECC sends a second time; ``keep``: one token in so many is chosen by the sketch.
    """

    layer_seconds: float = LAYER_SECONDS
    way: str = "best"
    tail_cores: int = 1
    choosers: int = 1
    reread: float = 0.0
    keep: int = KEEP


DEFAULT = Options()
Policy = Literal["dense", "dense-int8", "sparf", "sketch"]


class InstInfer(Strategy):
    """Attention in our drives.

    Source: this repository. Assumes: two half-batches that keep GPU and drives both busy, or turns where that
    is faster; drive times from the calibrated model, its choices anywhere, uniformly; appends programmed
    beside reads. Layers' and heads' stripe buffers (docs/architecture.md "Layout") limit how many sequences
    run at once, the others follow in waves, as all of them need the same time. ``sparf``: the paper's 1/8
    in our layout (head_dim / 8 dims, a sixteenth of the tokens, fp16); ``sketch``: `sizes`, int8. With tokens
    split over drives each one chooses among its own.
    """

    csds = True

    def __init__(self, policy: Policy, options: Options = DEFAULT, *, name: str | None = None) -> None:
        self.policy = policy
        self.options = options
        self.name = name or f"instinfer-{policy}"

    def job(self, model: Model, context: int, heads: int, commands: int) -> Job:
        """Attentions of one layer on one drive."""
        dense = Job(tokens=context, heads=heads, queries=model.queries, head_dim=model.head_dim,
                    commands=commands, dtype=Dtype.FP16 if self.policy in ("dense", "sparf") else Dtype.INT8)
        if self.policy == "sketch":
            keep = kept_tokens(context, self.options.keep)
            return dataclasses.replace(dense, kind=PolicyKind.SKETCH, keep=keep, group=GROUP, window=WINDOW,
                                       sinks=SINKS)
        if self.policy == "sparf":
            return dataclasses.replace(dense, kind=PolicyKind.SPARF, keep=max(1, context // 16),
                                       dims=max(1, model.head_dim // 8), window=WINDOW, sinks=SINKS)
        return dense

    def stored_bytes(self, model: Model, tokens: int) -> float:
        """Flash of one sequence over all drives."""
        row = model.kv_token_bytes
        each = {"dense": row, "sparf": 1.5 * row, "dense-int8": row / 2,
                "sketch": row / 2 + model.kv_heads * SKETCH_BYTES}[self.policy]
        return tokens * model.layers * each

    def run(self, machine: Machine, work: Workload) -> Outcome:
        """The fastest way to split over drives."""
        ways = shards(work.model, machine.csds, way=self.options.way)
        tried = [self._run(machine, work, shard) for shard in ways]
        return max(tried, key=lambda outcome: outcome.tokens_per_second(work))

    def _run(self, machine: Machine, work: Workload, shard: Shard) -> Outcome:
        model, csd = work.model, machine.csd
        kinds = 2 if self.policy == "sketch" else 1
        buffers = model.layers * shard.heads * kinds
        at_once = min(csd.engine.stripe_buffers // buffers, csd.engine.max_sequences)
        stored = self.stored_bytes(model, work.longest)
        drives = shard.by_head * shard.by_token
        memory = {"csd": stored * work.batch, "csd stripe buffers": float(
            min(work.batch, max(1, at_once)) * buffers * csd.engine.stripe_data_bytes)}
        if at_once < 1:
            return Outcome.oom(self.name, f"one sequence needs {buffers} stripe buffers, the drive has "
                                          f"{csd.engine.stripe_buffers}", memory)
        running = min(work.batch, at_once)
        part = dataclasses.replace(work, batch=running)
        flight = gpu.activations(part, running)
        weights = gpu.place_weights(machine, part, gpu_taken=flight)
        memory["gpu"] = flight + (model.weight_bytes * weights.gpu if weights else 0.0)
        if weights is None:
            return Outcome.oom(self.name, "the weights in use do not fit on the GPU", memory)
        if stored * running > csd.capacity * drives:
            return Outcome.oom(self.name, f"{stored * running / 1e9:.0f} GB of cache do not fit the drives",
                               memory)
        frame = Frame(machine, part, weights)
        found = Outcome(self.name, self._prefill(frame, shard), Phase(), memory=memory, mark=Mark.MODELLED)
        bound: dict[str, int] = {}

        def step(context: int) -> Phase:
            phase, by = self._step(frame, shard, context)
            bound[by] = bound.get(by, 0) + 1
            return phase

        found.decode = decode(part, step)
        waves = work.batch / running
        for phase in (found.prefill, found.decode):
            once = dataclasses.replace(phase, uses=dict(phase.uses), parts=dict(phase.parts))
            phase.add(once, waves - 1)
        found.limits = [f"bound by {max(bound, key=lambda name: bound[name])}"]
        if waves > 1:
            found.limits.append(f"{running} sequences at once: more need more stripe buffers; "
                                f"{waves:.1f} waves")
        if shard.tokens(work.longest) > csd.engine.max_context:
            found.limits.append(f"{shard.tokens(work.longest)} tokens of a head on a drive: the engine is "
                                f"built for {csd.engine.max_context}")
        words = spilled_words(csd.engine, self.job(model, shard.tokens(work.longest), shard.heads, 1))
        if words:
            found.limits.append(f"{words} words of a head's scores wait in device DRAM")
        found.details = {"drives_by_head": shard.by_head, "drives_by_token": shard.by_token,
                         "sequences_at_once": running, "weights_on_gpu": weights.gpu,
                         **self._wear(csd, model, work, shard)}
        return found

    def _prefill(self, frame: Frame, shard: Shard) -> Phase:
        machine, work = frame.machine, frame.work
        model, csd = work.model, machine.csd
        rate = write_rate(csd.engine)

        def write(phase: Phase, tokens: int) -> float:
            records = work.batch * tokens * self.stored_bytes(model, 1) / model.layers
            sent = records / (1.5 if self.policy == "sparf" else 1.0)
            phase.use("csd down", sent)
            phase.use("pcie up", sent)
            share = shard.heads / model.kv_heads / shard.by_token
            # Rounding of heads: the fullest drive sets the pace.
            return max(sent * share / csd.link.rate, records * share / rate, sent / machine.pcie.rate)

        return frame.prefill(write)

    def _step(self, frame: Frame, shard: Shard, context: int) -> tuple[Phase, str]:
        machine, work = frame.machine, frame.work
        model, csd = work.model, machine.csd
        drives = shard.by_head * shard.by_token
        real = model.kv_heads / (shard.heads * shard.by_head)
        tokens = shard.tokens(context)

        def drive(batch: int) -> DriveStep:
            return _layer_step(csd.engine, self.job(model, tokens, shard.heads, batch),
                               batch / shard.by_token, real, self.options)

        down = 2.0 * model.head_dim * (model.heads * shard.by_token + 2 * model.kv_heads)
        if self.policy == "sketch":
            down += 32.0 * (model.heads * shard.by_token + model.kv_heads)
        up = float(shard.merge_bytes(model))

        def moving(batch: int) -> float:
            share = batch / drives * (shard.heads * shard.by_head / model.kv_heads)
            return max(down * share / csd.link.rate, down * batch / machine.pcie.rate) + max(
                up * share / csd.link.rate, up * batch / machine.pcie.rate)

        one, two = Phase(), Phase()
        whole = drive(work.batch)
        turns, streaming = frame.layer(one)
        host = self.options.layer_seconds
        serial = max(turns, streaming) + moving(work.batch) + whole.seconds + host
        best, parts, phase, by = serial, {"gpu": turns, "weights": streaming, "link": moving(work.batch),
                                          "drive": whole.seconds, "host": host}, one, whole
        steps = [whole]
        if work.batch > 1:
            larger = -(-work.batch // 2)
            halves = [drive(larger), drive(work.batch - larger)]
            computing, streaming = frame.layer(two, passes=2)
            busy = sum(half.seconds for half in halves)
            chain = computing / 2 + moving(larger) + halves[0].seconds + host
            overlapped = max(computing, streaming + moving(work.batch), busy, chain)
            if overlapped < serial:
                best, phase, steps = overlapped, two, halves
                parts = {"gpu": computing, "weights": streaming, "link": moving(work.batch), "drive": busy,
                         "host": 2 * host}
        for name, amount in (("csd down", down), ("pcie up", down), ("csd up", up), ("pcie down", up)):
            phase.use(name, amount * work.batch)
        for each in steps:
            phase.use("flash buses", each.bus_bytes * drives)
            phase.use("flash dies", each.die_seconds * drives)
        longest = max(parts, key=lambda name: parts[name])
        return frame.step(phase, best, parts), f"drive: {by.bound_by}" if longest == "drive" else longest

    def _wear(self, csd: Csd, model: Model, work: Workload, shard: Shard) -> dict[str, float]:
        """Endurance: programs and senses per decoded token, and what they mean for the drives."""
        engine = csd.engine
        tokens = shard.tokens((work.prompt + work.longest) // 2)
        job = self.job(model, tokens, shard.heads, 1)
        step = _layer_step(engine, job, 0.0, model.kv_heads / (shard.heads * shard.by_head))
        drives = shard.by_head * shard.by_token
        written = stripes_per_token(engine, job) * model.kv_heads * model.layers * engine.stripe_data_bytes
        senses = step.stripes * model.layers * drives
        # A block of all planes holds `pages` stripes; each sense disturbs one block.
        stored = self.stored_bytes(model, work.longest)
        blocks = max(1.0, stored / (engine.pages * engine.stripe_data_bytes))
        scrubbed = senses / csd.disturb * engine.pages * engine.stripe_data_bytes
        return {"written_bytes_per_token": written, "senses_per_token": senses,
                "senses_per_block_and_token": senses / blocks, "scrub_bytes_per_token": scrubbed,
                "tokens_to_wear_out": csd.endurance * csd.capacity * drives / (written + scrubbed)}


@functools.lru_cache(maxsize=4096)
def _layer_step(engine: EngineConfig, job: Job, appended: float, share: float,
                options: Options = DEFAULT) -> DriveStep:
    engine = dataclasses.replace(engine, tail_cores=options.tail_cores)
    return layer_step(engine, job, appended=appended, share=share, reread=options.reread,
                      choosers=options.choosers)
