# SPDX-License-Identifier: Apache-2.0
"""ONFI's SDR interface: operations of the PHY port become edges of the pins."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.onfi import SDR_MODES

from ...signatures import BusOp, PhyPort
from ..onfi import Command
from .cycles import sdr_modes
from .guard import BusGuard, in_mode
from .pins import SdrPins

FEATURE_BYTES = 4
SHORT = (Command.SET_FEATURES, Command.GET_FEATURES)
"""Behind these a beat has that many."""


class SdrPhy(wiring.Component):
    """Drives one flash bus in SDR (ONFI 4.0, "SDR data interface"), timing modes 0 to ``fastest``.

    Parameters
    ----------
    config : dies, clock, tCCS
    fastest : timing mode; slower ones can be chosen while it runs
    pad_delay_ns : longest way from a register through the pads and the board to the NAND and back

    Members
    -------
    mode : timing mode, at most ``fastest``; may change while ``busy`` is 0
    phy : the sequencer connects here. A beat of data is eight byte cycles, lowest byte first, but four
        behind EFh and EEh (set, get features), whose upper half is not sent and reads as 0
    pins : of the package

    The PHY keeps the times of `SdrCycles` by itself: a request waits until it may start. So tADL, tWHR, tRHW
    and (behind E0h) tCCS hold whatever the sequencer waits for, and ``phy.ready`` is 0 from a command,
    address or feature until R/B_n tells the truth, and for tRR after it rose. CE_n of the die used last
    stays low.

    Latency, in cycles of the mode's `SdrCycles`: a command is latched ``1 + write_low`` after it was taken;
    the first beat of data out arrives `beat_latency` after; a change of die adds ``select_write`` or
    ``select_read``. Throughput: ``write_low + write_high`` cycles per command, address or byte in,
    ``read_low + read_high`` per byte out, without a pause inside a request or between commands; data in
    pauses before a beat while ``write`` is not valid, and one cycle before the first one. Back-pressure:
    ``phy.write`` may stall at will, ``phy.read`` cannot.
    """

    def __init__(self, *, config: EngineConfig, fastest: int = SDR_MODES - 1, pad_delay_ns: int = 0):
        self._config = config
        self.modes = sdr_modes(fastest, clock_mhz=config.clock_mhz, column_ns=config.timing.tCCS,
                               pad_delay_ns=pad_delay_ns)
        super().__init__({
            "mode": In(range(SDR_MODES)), "phy": In(PhyPort(config.dies)), "pins": Out(SdrPins(config.dies)),
        })

    def beat_latency(self, mode: int) -> int:
        """Cycles from a DATA_OUT that is taken to its first beat, on a die that is selected."""
        cycles = self.modes[mode]
        return 2 + (BEAT_BYTES - 1) * cycles.read_byte + cycles.sample

    def elaborate(self, platform: object) -> Module:
        m = Module()
        phy, pins = self.phy, self.pins
        request = phy.request.payload
        m.submodules.guard = guard = BusGuard(dies=self._config.dies, modes=self.modes, short=SHORT)
        cycles = in_mode(m, self.modes, self.mode)
        op, die = Signal(BusOp), Signal(3)
        chosen = Signal()  # a die is selected
        left, index, last = (Signal(width, name=name) for width, name in (
            (12, "left"), (3, "index"), (3, "last")))
        shift = Signal(8 * BEAT_BYTES)
        timer = Signal(range(max(max(c.write_low, c.write_high, c.read_low, c.read_high, c.select_write,
                                     c.select_read) for c in self.modes)))
        idle, falls, rises = (Signal(name=name) for name in ("idle", "falls", "rises"))
        taken = phy.request.valid & phy.request.ready
        m.d.comb += last.eq(Mux(guard.is_short.bit_select(die, 1), FEATURE_BYTES - 1, BEAT_BYTES - 1))
        m.d.sync += pins.wp_n.eq(1)

        def begin(op: Any) -> None:
            with m.If(op == BusOp.DATA_IN):
                m.next = "FETCH"
            with m.Elif(op == BusOp.DATA_OUT):
                m.d.comb += falls.eq(1)
                m.d.sync += [pins.re_n.eq(0), timer.eq(cycles["read_low"] - 1)]
                m.next = "LOW"
            with m.Else():
                m.d.sync += [pins.we_n.eq(0), timer.eq(cycles["write_low"] - 1)]
                m.next = "LOW"

        def accept() -> None:
            m.d.comb += phy.request.ready.eq(guard.permitted)
            with m.If(taken):
                m.d.sync += [
                    op.eq(request.op), die.eq(request.die), left.eq(request.count), index.eq(0), chosen.eq(1),
                    pins.ce_n.eq(~(1 << request.die)[:self._config.dies]),
                    pins.cle.eq(request.op == BusOp.COMMAND), pins.ale.eq(request.op == BusOp.ADDRESS),
                    pins.dq.o.eq(request.byte), pins.dq.oe.eq(~request.op.as_value()[1]),
                ]
                with m.If(chosen & (die == request.die)):
                    begin(request.op)
                with m.Else():
                    m.d.sync += timer.eq(Mux(request.op == BusOp.DATA_OUT, cycles["select_read"],
                                             cycles["select_write"]) - 1)
                    m.next = "SELECT"

        def send(beat: Any) -> None:
            m.d.sync += [pins.dq.o.eq(beat[:8]), shift.eq(beat >> 8), pins.dq.oe.eq(1)]
            m.d.sync += [pins.we_n.eq(0), timer.eq(cycles["write_low"] - 1)]
            m.next = "LOW"

        def fetch() -> None:
            m.d.comb += phy.write.ready.eq(1)
            with m.If(phy.write.valid):
                send(phy.write.payload)
            with m.Else():
                m.next = "FETCH"

        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += idle.eq(1)
                accept()
            with m.State("SELECT"), m.If(timer == 0):
                begin(op)
            with m.State("FETCH"):
                fetch()
            with m.State("LOW"), m.If(timer == 0):
                m.d.comb += rises.eq(1)
                m.d.sync += [pins.we_n.eq(1), pins.re_n.eq(1), timer.eq(
                    Mux(op == BusOp.DATA_OUT, cycles["read_high"], cycles["write_high"]) - 1)]
                m.next = "HIGH"
            with m.State("HIGH"), m.If(timer == 0):
                with m.If(op.as_value()[1] & (index != last)):
                    m.d.sync += index.eq(index + 1)
                    with m.If(op == BusOp.DATA_OUT):
                        begin(op)
                    with m.Else():
                        send(shift)
                with m.Elif(op.as_value()[1] & (left != 1)):
                    m.d.sync += [index.eq(0), left.eq(left - 1)]
                    with m.If(op == BusOp.DATA_OUT):
                        begin(op)
                    with m.Else():
                        fetch()
                with m.Else():
                    m.d.sync += [pins.cle.eq(0), pins.ale.eq(0), pins.dq.oe.eq(0)]
                    m.next = "IDLE"
                    accept()
        m.d.comb += [
            guard.cycles_mode.eq(self.mode), guard.op.eq(op), guard.die.eq(die), guard.byte.eq(pins.dq.o),
            guard.chosen.eq(chosen), guard.ends.eq(rises), guard.idle.eq(idle),
            guard.request_op.eq(request.op), guard.request_die.eq(request.die),
            guard.ready_busy_n.eq(pins.ready_busy_n), phy.ready.eq(guard.ready),
        ]
        pending = self._capture(m, cycles, falls, last)
        m.d.comb += phy.busy.eq(~idle | pending)
        return m

    def _capture(self, m: Module, cycles: Mapping[str, Any], falls: Any, last: Any) -> Any:
        """Takes DQ ``sample`` cycles behind each falling edge of RE_n; 1 while one is on its way."""
        depth = max(each.sample for each in self.modes) + 1
        line = Signal(depth)
        data, place, take = Signal(8), Signal(3), Signal()
        m.d.sync += [line.eq(falls | line << 1), data.eq(self.pins.dq.i), self.phy.read.valid.eq(0)]
        m.d.comb += take.eq(line.bit_select(cycles["sample"], 1))
        # Behind the tap the edges are of the past.
        with m.If(take):
            m.d.sync += [self.phy.read.payload.word_select(place, 8).eq(data), place.eq(place + 1)]
            with m.If(place == 0):
                m.d.sync += self.phy.read.payload[8:].eq(0)
            with m.If(place == last):
                m.d.sync += [place.eq(0), self.phy.read.valid.eq(1)]
        waiting = [Mux(cycles["sample"] >= index, line[index], 0) for index in range(depth)]
        return sum(waiting[1:], start=waiting[0]) != 0
