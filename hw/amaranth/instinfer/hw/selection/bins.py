# SPDX-License-Identifier: Apache-2.0
"""Histograms: counters per bin, and the search for the bin that a rank falls into."""

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.errors import require
from instinfer.abi.selection import KEY_BITS

from ..memory import COLLISION_FREE
from ..numeric.pipeline import stages
from .ports import KEEP_BITS

DIGIT_BITS = KEY_BITS // 2
BINS = 1 << DIGIT_BITS


RUNNING_CYCLES = 3
"""Of `running_largest`."""


def largest(m: Module, numbers: Iterable[Value], *, name: str) -> Value:
    """By a tree of comparisons, each in a cycle and its choice in the next: 2 * ``tree_levels`` cycles
    later."""
    values = list(numbers)
    for level in range(tree_levels(len(values))):
        late = [stages(m, value, 1, name=f"{name}_{level}_{at}")[1] for at, value in enumerate(values)]
        above = [exceeds_by_parts(m, a, b, name=f"{name}_above_{level}_{at}")
                 for at, (a, b) in enumerate(zip(values[::2], values[1::2], strict=False))]
        chosen = [Mux(bit, a, b) for bit, a, b in zip(above, late[::2], late[1::2], strict=False)]
        values = [stages(m, value, 1, name=f"{name}_chosen_{level}_{at}")[1]
                  for at, value in enumerate([*chosen, *late[2 * len(chosen):]])]
    return values[0]


def running_largest(m: Module, number: Value, *, first: Value, name: str) -> Value:
    """The largest number since the one that ``first`` came with: `RUNNING_CYCLES` later."""
    result = Signal.like(number, name=name)
    number_1, late = stages(m, number, 2, name=f"{name}_late")[1:]
    starts = stages(m, first, 1, name=f"{name}_first", reset=True)[1]
    # Whether ``late`` becomes the result. Whether the number behind it, ``number_1``, does too was looked at
    # a cycle before, against all that it may have to exceed: ``late``, what the result became then, or is.
    above = Signal(name=f"{name}_above")
    before = stages(m, above, 1, name=f"{name}_above")[1]
    than_late, than_new, than_result = (
        stages(m, exceeds(number, other), 1, name=f"{name}_than_{index}")[1]
        for index, other in enumerate((number_1, late, result)))
    m.d.sync += above.eq(starts | Mux(above, than_late, Mux(before, than_new, than_result)))
    with m.If(above):
        m.d.sync += result.eq(late)
    return result


def exceeds_by_parts(m: Module, a: Value, b: Value, *, name: str) -> Value:
    """`exceeds` of numbers of one shape, a cycle later: thirds of them are compared by themselves."""
    width = -(-len(a) // 3)
    above, equal = [], []
    for part in range(3):
        ours, theirs = (each[part * width:(part + 1) * width] for each in (a, b))
        if part == 2 and a.shape().signed:
            ours, theirs = ours.as_signed(), theirs.as_signed()
        above.append(stages(m, exceeds(ours, theirs), 1, name=f"{name}_above_{part}")[1])
        equal.append(stages(m, ours == theirs, 1, name=f"{name}_equal_{part}")[1])
    return above[2] | (equal[2] & (above[1] | (equal[1] & above[0])))


def exceeds(a: Value, b: Value) -> Value:
    """a > b, both signed or neither. The carry of one subtraction says so when signed numbers are moved up by
    half of their range; comparing them as they are takes a carry out of the middle of the chain."""
    if a.shape().signed:
        width = max(len(a), len(b))
        a, b = (Cat(each[:-1], each[-1].replicate(width - len(each)), ~each[-1]) for each in (a, b))
    return a > b


def added(m: Module, numbers: Iterable[Value], *, name: str) -> Value:
    """By a tree of additions with a register behind each: ``tree_levels`` cycles later."""
    values = list(numbers)
    for level in range(tree_levels(len(values))):
        values = [stages(m, Value.cast(sum(values[at:at + 2], start=Value.cast(0))), 1,
                         name=f"{name}_{level}_{at}")[1] for at in range(0, len(values), 2)]
    return values[0]


def tree_levels(count: int) -> int:
    return (count - 1).bit_length()


class BinCounter(wiring.Component):
    """A counter per bin in a block RAM. Each cycle one bin is counted up (``add``), set to zero (``zero``) or
    just looked at.

    ``count`` is that of the bin of ``latency`` cycles before, as it was before that cycle's operation.
    Throughput: one operation per cycle, the same bin again and again included. No back-pressure.

    Parameters
    ----------
    bins : counters, 2 or more
    count_max : a counter never exceeds it
    """

    latency = 5

    def __init__(self, *, bins: int, count_max: int) -> None:
        require(isinstance(bins, int) and bins >= 2, "bins", bins, "2 or more", "One bin needs no histogram.")
        self._bins, self._count = bins, range(count_max + 1)
        super().__init__({
            "bin": In(range(bins)), "add": In(1), "zero": In(1), "count": Out(range(count_max + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory: Memory = Memory(shape=len(self.count), depth=self._bins, init=[], attrs=COLLISION_FREE)
        m.submodules.memory = memory
        read, write = memory.read_port(), memory.write_port()
        before, older, after = Signal(self._count), Signal(self._count), Signal(self._count)
        bins = stages(m, self.bin, 6, name="bin")
        zeros = stages(m, self.zero, 4, name="zero", reset=True)
        writes = stages(m, self.add | self.zero, 6, name="writes", reset=True)
        read_1 = stages(m, read.data, 1, name="read")[1]
        stored = stages(m, after, 2, name="stored")
        # What the four cycles before wrote came too late for the read. The last of them is done only now.
        again = [stages(m, writes[2 + age] & (bins[2 + age] == bins[2]), 1, name=f"again_{age}")[1]
                 for age in (1, 2, 3, 4)]
        last = stages(m, again[0], 1, name="last")[1]
        m.d.sync += [
            older.eq(Mux(again[1], after, Mux(again[2], stored[1], Mux(again[3], stored[2], read_1)))),
            after.eq(Mux(zeros[4], 0, before + 1)), self.count.eq(before),
        ]
        m.d.comb += [
            read.addr.eq(bins[1]), before.eq(Mux(last, after, older)),
            write.addr.eq(bins[5]), write.data.eq(after), write.en.eq(writes[5]),
        ]
        return m


class BinScan(wiring.Component):
    """From bin ``top`` downwards: the first bin at which ``need`` or more have been counted.

    ``start`` takes ``top`` and ``need`` (1 or more); from the next cycle on ``bin`` asks the counters, whose
    ``counts`` of all lanes come `BinCounter.latency` cycles later. ``done`` comes with ``found``, the bin,
    and ``rest``, how many of it are needed: 1 to its count. Both stay until the next ``start``.

    Latency: ``latency`` cycles for the top bin and one more for each below. There must be ``need`` in all;
    where there are less, it ends at bin 0 (keys that come damaged from DRAM).

    Parameters
    ----------
    bins : of the histogram
    lanes : counters that are added up
    count_max : of one lane
    need_bits : of ``need``
    """

    def __init__(self, *, bins: int, lanes: int, count_max: int, need_bits: int) -> None:
        self._bins, self._lanes, self._count_max = bins, lanes, count_max
        self.latency = BinCounter.latency + tree_levels(lanes) + 3
        super().__init__({
            "start": In(1), "top": In(range(bins)), "need": In(need_bits),
            "bin": Out(range(bins)), "counts": In(range(count_max + 1)).array(lanes),
            "done": Out(1), "found": Out(range(bins)), "rest": Out(need_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = added(m, [self.counts[lane] for lane in range(self._lanes)], name="total")
        asked = Signal(self.latency - 2)
        # What is left of ``need``, less one, behind the bins up to ``found``, and before that; the next bin.
        left, before = Signal(signed(len(self.need) + 1)), Signal(signed(len(self.need) + 1))
        at, lowest, judges = Signal.like(self.found), Signal(), Signal()
        m.d.sync += [
            self.bin.eq(self.bin - 1), asked.eq(asked << 1 | asked[0]), judges.eq(asked[-1]), self.done.eq(0),
        ]
        with m.If(judges & (left[-1] | lowest)):
            m.d.sync += [asked.eq(0), judges.eq(0), self.done.eq(1), self.rest.eq(before + 1)]
        with m.Elif(asked[-1]):
            m.d.sync += [
                left.eq(left - total), before.eq(left), self.found.eq(at), lowest.eq(at == 0), at.eq(at - 1)]
        with m.If(self.start):
            m.d.sync += [self.bin.eq(self.top), at.eq(self.top), left.eq(self.need - 1), asked.eq(1)]
        return m


class KeyHistogram(wiring.Component):
    """Histograms of both digits of the candidates' keys, and the search for a rank in each.

    ``add`` counts the digits of a row, those of the histogram that ``low`` names. ``search``, `settle` cycles
    after the last of them or later, looks from the largest digit that was counted downwards for the one at
    which ``need`` digits have been met: ``done``, ``found`` and ``rest`` as of `BinScan`. ``clear`` zeroes
    both histograms; ``clearing`` is 1 for the 1024 cycles that takes, and after reset.

    One row per cycle, no back-pressure.

    Parameters
    ----------
    lanes : digits of a row
    rows : most rows that are added
    """

    def __init__(self, *, lanes: int, rows: int) -> None:
        self._lanes, self._rows = lanes, rows
        self._scan = BinScan(bins=BINS, lanes=lanes, count_max=rows, need_bits=KEEP_BITS)
        self.scan_latency = 1 + self._scan.latency
        self.settle = 1 + max(BinCounter.latency, 1 + 2 * tree_levels(lanes) + RUNNING_CYCLES)
        super().__init__({
            "low": In(1), "add": In(lanes), "digits": In(DIGIT_BITS).array(lanes),
            "search": In(1), "need": In(KEEP_BITS),
            "done": Out(1), "found": Out(DIGIT_BITS), "rest": Out(KEEP_BITS),
            "clear": In(1), "clearing": Out(1, init=1),  # type: ignore[call-arg]
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cleared = Signal(DIGIT_BITS + 1)
        with m.If(self.clearing):
            m.d.sync += cleared.eq(cleared + 1)
            with m.If(cleared.all()):
                m.d.sync += self.clearing.eq(0)
        with m.If(self.clear):
            m.d.sync += self.clearing.eq(1)
        m.submodules.scan = scan = self._scan
        counted: list[Any] = []
        adds = stages(m, self.add, 1, name="adds", reset=True)[1]
        for lane in range(self._lanes):
            m.submodules[f"bins_{lane}"] = counter = BinCounter(bins=2 * BINS, count_max=self._rows)
            digit = Signal(DIGIT_BITS, name=f"digit_{lane}")
            given = stages(m, self.digits[lane], 1, name=f"given_{lane}")[1]
            m.d.comb += [
                counter.zero.eq(self.clearing), counter.add.eq(adds[lane] & ~self.clearing),
                counter.bin.eq(Mux(self.clearing, cleared, Cat(Mux(adds[lane], given, scan.bin), self.low))),
                scan.counts[lane].eq(counter.count),
            ]
            m.d.sync += digit.eq(Mux(adds[lane], given, 0))
            counted.append(digit)
        search = stages(m, self.search, 1, name="search", reset=True)[1]
        need = stages(m, self.need, 1, name="need")[1]
        # While no digits come, the largest is 0.
        highest = running_largest(m, largest(m, counted, name="top"), first=search, name="highest")
        m.d.comb += [
            scan.start.eq(search), scan.top.eq(highest), scan.need.eq(need),
            self.done.eq(scan.done), self.found.eq(scan.found), self.rest.eq(scan.rest),
        ]
        return m
