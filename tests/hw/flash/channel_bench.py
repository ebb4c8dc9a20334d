# SPDX-License-Identifier: Apache-2.0
"""A flash channel with its NAND as one design, and what benches need to drive it."""

import dataclasses
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Const, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles
from numpy.typing import NDArray

from instinfer.abi.config import SLOT_DATA_BYTES, EngineConfig
from instinfer.abi.dims import DIMS_PER_PAGE
from instinfer.abi.layout import encode_stripe
from instinfer.abi.presets import presets
from instinfer.hw.flash.channel import ACTIVITY, FlashChannel
from instinfer.hw.flash.nand import NandPackage, NandPins, nand_sources
from instinfer.hw.flash.phy.powerup import PowerUp
from instinfer.hw.flash.phy.sdr import SdrPhy
from instinfer.hw.flash.scheduler import PULSES
from instinfer.hw.signatures import ChannelOp, PhyPort, channel_request, row_mask, slot_beat
from support import bundle, rng

ROOT = Path(__file__).resolve().parents[3]
NAND_VERILOG, NAND_CXX, NAND_HEADERS = nand_sources(ROOT)
BUILD: dict[str, Any] = {"verilog_sources": NAND_VERILOG, "cxx_sources": NAND_CXX, "headers": NAND_HEADERS,
                         "flags": ("-LDFLAGS", "-rdynamic")}
BASE = dataclasses.replace(presets()["tiny"], timeout_us=100)
"""A short time-out: it must pass several times."""
COUNTS = (*ACTIVITY, *PULSES, "tuple_errors", "beats", "cycles")


class SdrNand(wiring.Component):
    """A NAND behind its pins, with PHY and power-up: the ports of `NandPackage`, and what the power-up
    says. ``restart`` resets the two, not the NAND; DQ come ``pad_cycles`` late."""

    def __init__(self, config: EngineConfig, *, pad_cycles: int = 0, slowest: int = 0):
        self._config, self._pad_cycles = config, pad_cycles
        self._power_up = PowerUp(config=config, slowest=slowest)
        self.phy_of_bus = SdrPhy(config=config, pad_delay_ns=-(-pad_cycles * 1000 // config.clock_mhz))
        members = self._power_up.signature.members
        super().__init__({
            "channel": In(8), "phy": In(PhyPort(config.dies)), "errors": Out(32), "restart": In(1),
            **{name: members[name] for name in ("mode", "done", "fault", "faulty")},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        power_up, phy = self._power_up, self.phy_of_bus
        m.submodules.power_up = ResetInserter(self.restart)(power_up)
        m.submodules.phy = ResetInserter(self.restart)(phy)
        m.submodules.nand = nand = NandPins(self._config)
        wiring.connect(m, wiring.flipped(self.phy), power_up.channel)
        wiring.connect(m, power_up.phy, phy.phy)
        dq = nand.pins.dq.i
        for _ in range(self._pad_cycles):
            late = Signal(8)
            m.d.sync += late.eq(dq)
            dq = late
        m.d.comb += [
            phy.pins.dq.i.eq(dq), nand.pins.dq.o.eq(phy.pins.dq.o), nand.pins.dq.oe.eq(phy.pins.dq.oe),
            phy.pins.ready_busy_n.eq(nand.pins.ready_busy_n),
            *(getattr(nand.pins, name).eq(getattr(phy.pins, name))
              for name in ("ce_n", "cle", "ale", "we_n", "re_n", "wp_n")),
            phy.mode.eq(power_up.mode), nand.channel.eq(self.channel), self.errors.eq(nand.errors),
            *(getattr(self, name).eq(getattr(power_up, name))
              for name in ("mode", "done", "fault", "faulty")),
        ]
        return m


class ChannelWithNand(wiring.Component):
    """The channel's own ports, a count of each of its pulses, and what the bus itself did: ``beats`` that
    were moved, ``last_beat`` and ``first_beat`` in cycles since reset. ``nand``: the package, with the ports
    of `NandPackage` and perhaps a clock ``tick``; a wide one unless given."""

    def __init__(self, config: EngineConfig, nand: Any = None):
        self._channel = FlashChannel(config=config)
        self._nand = nand or NandPackage(config)
        self._has_tick = "tick" in self._nand.signature.members
        kept = ("enable", "requests", "masks", "slots", "fault", "events", "program_data")
        members = self._channel.signature.members
        super().__init__({
            **{name: members[name] for name in kept}, **{f"count_{name}": Out(32) for name in COUNTS},
            "bus_trace": members["trace"], "nand_errors": Out(32), "channel": In(8),
            "bus_ready": Out(config.dies), "first_beat": Out(32), "last_beat": Out(32),
            **({"tick": In(1)} if self._has_tick else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = channel = self._channel
        m.submodules.nand = nand = self._nand
        wiring.connect(m, channel.phy, nand.phy)
        for name in ("requests", "masks", "slots", "fault", "events", "program_data"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(channel, name))
        if self._has_tick:
            m.d.comb += nand.tick.eq(self.tick)
        read, write = nand.phy.read.valid, nand.phy.write.valid & nand.phy.write.ready
        pulses = {name: getattr(channel, name) for name in (*ACTIVITY, *PULSES, "tuple_errors")}
        pulses |= {"beats": read | write, "cycles": Const(1)}
        for name, pulse in pulses.items():
            count = getattr(self, f"count_{name}")
            m.d.sync += count.eq(count + pulse)
        seen = Signal()
        with m.If(pulses["beats"]):
            m.d.sync += [self.last_beat.eq(self.count_cycles), seen.eq(1)]
            with m.If(~seen):
                m.d.sync += self.first_beat.eq(self.count_cycles)
        m.d.comb += [
            channel.enable.eq(self.enable), self.nand_errors.eq(nand.errors), nand.channel.eq(self.channel),
            self.bus_trace.eq(channel.trace), self.bus_ready.eq(nand.phy.ready),
        ]
        return m


def blocks(config: EngineConfig) -> wiring.Component:
    """A channel on its NAND and a NAND alone, in one build."""
    return bundle(channel=ChannelWithNand(config), nand=NandPackage(config))


class Stripe:
    """A stripe's place, owner and data, and the requests and slots that follow from them."""

    def __init__(self, config: EngineConfig, generator: np.random.Generator, *, die: int, block: int,
                 page: int, int8: bool = False, sketch: bool = False, dims: bool = False):
        self.config, self.die, self.block, self.page = config, die, block, page
        self.generation, self.layer, self.head, self.stripe = (
            int(generator.integers(1 << bits)) for bits in (16, 16, 8, 16))
        self.data = generator.integers(0, 256, config.stripe_data_bytes, np.uint8)
        self.scales = generator.integers(0, 256, config.stripe_scale_bytes, np.uint8) if int8 else None
        self.sketch, self.dims = sketch, dims

    @property
    def whole(self) -> bool:
        """Its slots are moved one by one and leave the ring whole."""
        return self.sketch or self.dims

    def slots_of(self, places: int, count: int) -> list[int]:
        """The first ``count`` slots of each of these places of dims."""
        each = self.config.slots_per_page // DIMS_PER_PAGE
        return [place * each + slot for place in range(DIMS_PER_PAGE * self.config.planes)
                if places >> place & 1 for slot in range(count)]

    def encoded(self) -> NDArray[np.uint8]:
        return encode_stripe(self.config, self.data, generation=self.generation, layer=self.layer,
                             head=self.head, stripe=self.stripe, scales=self.scales, sketch=self.sketch,
                             dims=self.dims)

    def store(self, store: Any) -> None:
        """Into the NAND's storage, past the bus."""
        for plane, slots in enumerate(self.encoded()):
            store.write(self.die, plane, self.block, self.page, slots)

    def stored_in(self, store: Any) -> bool:
        used = self.config.slots_per_page * self.config.slot_bytes
        return all((store.read(self.die, plane, self.block, self.page)[:used] == slots.reshape(-1)).all()
                   for plane, slots in enumerate(self.encoded()))

    def request(self, op: ChannelOp, *, owner: Mapping[str, int] | None = None, **fields: int) -> int:
        """``owner`` replaces parts of the true one."""
        own = {"generation": self.generation, "layer": self.layer, "head": self.head, "stripe": self.stripe}
        values = {"op": op, "die": self.die, "block": self.block, "page": self.page, "passes": 1,
                  "owner": {**own, **(owner or {})}, "int8": int(self.scales is not None),
                  "sketch": int(self.sketch), "dims": int(self.dims), **fields}
        return int(channel_request(self.config).const(values).as_bits())

    def rows_per_slot(self, wide: int) -> int:
        return (4 if wide else 8) << (self.scales is not None)

    def masks(self, rows: Mapping[int, int]) -> list[int]:
        """Row masks of a masked read: ``rows`` by pair."""
        layout = row_mask(self.config)
        return [int(layout.const({"die": self.die, "pair": pair, "rows": mask}).as_bits())
                for pair, mask in rows.items()]

    def beats(self, *, tokens: int, wide: int, head_slot: int, passes: int, read_back: int = 0,
              bad_slots: frozenset[int] = frozenset(), stripe: int | None = None,
              rows: Mapping[int, int] | None = None, keys: int = 0,
              places: int = 0) -> list[dict[str, int]]:
        """The beats that a read must give; ``data`` is missing where it has no meaning. ``stripe``: what the
        request calls it; ``rows``: masks of a masked read by pair; ``places``: of dims, a bit each."""
        per_slot = self.rows_per_slot(wide)
        if rows is None:
            rows = {pair: (1 << min(per_slot, tokens - pair * per_slot)) - 1
                    for pair in range(-(-tokens // per_slot))}
        units: list[tuple[tuple[int, int], ...]]
        if self.sketch:
            units = [((slot, 0),) for slot in range(tokens)]
        elif self.dims:
            units = [((slot, 0),) for slot in self.slots_of(places, tokens)]
        else:
            units = [((2 * pair, 0), (2 * pair + 1, 1))[:2 - keys] for pair in sorted(rows)]
        result = []
        for unit in units:
            for turn in range(passes):
                for slot, kind in unit:
                    wanted = [row for row in range(per_slot) if rows.get(slot // 2, 0) >> row & 1]
                    bad = bool(bad_slots & {slot, slot - kind}) or not (wanted or self.whole)
                    end = turn == passes - 1 and (slot, kind) == units[-1][-1]
                    fields = {"head_slot": (head_slot + turn) % self.config.head_slots,
                              "base_slot": head_slot, "wide": wide, "stripe_end": int(end),
                              "read_back": read_back, "keys": keys}
                    number = self.stripe if stripe is None else stripe
                    result += self._slot_beats(slot, kind, [] if bad else wanted, fields, number=number,
                                               bad=bad)
        return result

    def _slot_beats(self, slot: int, kind: int, wanted: list[int], fields: dict[str, int], *, number: int,
                    bad: bool) -> list[dict[str, int]]:
        config, int8 = self.config, self.scales is not None
        words = self.data.reshape(-1, SLOT_DATA_BYTES).view("<u8")[slot]
        row_beats = len(words) // self.rows_per_slot(fields["wide"])
        group = number * config.slots_per_stripe + slot if self.whole else (
            number * (config.slots_per_stripe // 2) + slot // 2)
        fields = {**fields, "die": self.die, "kind": kind, "int8": int(int8), "sketch": int(self.sketch),
                  "dims": int(self.dims), "rows": 0 if bad else 16 if self.whole else len(wanted),
                  "group": group & (1 << slot_beat(config)["group"].width) - 1}
        beats: list[dict[str, int]] = [fields] if bad else []
        if self.whole and not bad:
            beats = [{**fields, "data": int(word)} for word in words]
        for row in wanted if not self.whole else ():
            scale = {} if self.scales is None else {"scale": int(self.scales.view("<u2")[slot * 16 + row])}
            beats += [{**fields, **scale, "data": int(word)}
                      for word in words[row * row_beats:(row + 1) * row_beats]]
        return [{**beat, "last": int(index == len(beats) - 1)} for index, beat in enumerate(beats)]


def unpack(config: EngineConfig, payloads: list[int]) -> list[dict[str, int]]:
    """Received slot beats as dictionaries."""
    layout = slot_beat(config)
    fields = {name: (field.offset, field.width) for name, field in layout}
    return [{name: payload >> low & (1 << width) - 1 for name, (low, width) in fields.items()}
            for payload in payloads]


def check_slots(config: EngineConfig, received: list[int], expected: dict[int, list[dict[str, int]]]) -> None:
    """Each die's beats are the expected ones in order, and slots of dies mix at the edges of runs only."""
    by_die: dict[int, deque[dict[str, int]]] = {die: deque(beats) for die, beats in expected.items()}
    previous: dict[str, int] = {"last": 1, "die": 0, "kind": 1}
    for number, beat in enumerate(unpack(config, received)):
        wanted = by_die[beat["die"]].popleft()
        wrong = {name: (beat[name], value) for name, value in wanted.items() if beat[name] != value}
        assert not wrong, f"beat {number}: {wrong}, got {beat}"
        if beat["die"] != previous["die"]:
            assert previous["last"] == 1, "a slot was interrupted"
            alone = previous.get("sketch") or previous.get("dims") or previous.get("keys")
            assert previous["kind"] == 1 or alone, "a pair was interrupted"
        previous = beat
    assert not any(by_die.values()), {die: len(beats) for die, beats in by_die.items()}


class Reads:
    """Random reads and the beats they must give. ``channel`` has ``dut``, ``config``, ``requests``, ``masks``
    and ``slots`` (streams), and ``until``."""

    def __init__(self, channel: Any, label: str):
        self._channel, self._config, self._random = channel, channel.config, rng(label)
        self.expected: dict[int, list[dict[str, int]]] = {die: [] for die in range(self._config.dies)}

    async def send_masked(self, stripe: Stripe, rows: Mapping[int, int], *, wide: int,
                          passes: int = 1, keys: bool = False) -> None:
        """Masks belong to the next request: they go when the last one, and it goes when they, were taken."""
        await self._channel.requests.drained()
        self._channel.masks.send(*stripe.masks(rows))
        await self._channel.masks.drained()
        self.send(stripe, tokens=1, wide=wide, passes=passes, rows=rows, keys=keys)

    def send(self, stripe: Stripe, *, tokens: int | None = None, wide: int | None = None, passes: int = 1,
             bad_slots: frozenset[int] = frozenset(), owner: Mapping[str, int] | None = None,
             raw: bool = False, rows: Mapping[int, int] | None = None, keys: bool = False,
             places: int = 0) -> None:
        wide = int(self._random.integers(2)) if wide is None else wide
        limit = (self._config.slots_per_stripe if stripe.sketch
                 else self._config.slots_per_stripe // 2 * stripe.rows_per_slot(wide))
        tokens = int(self._random.integers(1, limit + 1)) if tokens is None else tokens
        shape = {"tokens": tokens, "wide": wide, "passes": passes,
                 "head_slot": int(self._random.integers(self._config.head_slots)),
                 "read_back": int(passes == 1 and (raw or self._random.integers(2)))}
        masked = {} if rows is None else {"masked": 1, "pairs": sum(1 << pair for pair in rows)}
        if stripe.dims:
            masked = {"pairs": places}
        self._channel.requests.send(
            stripe.request(ChannelOp.READ, **shape, **masked, raw=int(raw), keys=int(keys), owner=owner))
        self.expected[stripe.die] += stripe.beats(**shape, bad_slots=bad_slots, rows=rows, keys=int(keys),
                                                   stripe=(owner or {}).get("stripe"), places=places)

    async def check(self) -> None:
        total = sum(map(len, self.expected.values()))
        await self._channel.until(lambda: len(self._channel.slots.received) >= total)
        await ClockCycles(self._channel.dut.clk, 300)
        check_slots(self._config, self._channel.slots.received, self.expected)
