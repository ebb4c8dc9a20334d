# SPDX-License-Identifier: Apache-2.0
"""ONFI's NV-DDR2 interface: operations of the PHY port become edges of the pins."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.onfi import NVDDR2_MODES

from ...signatures import BusOp, PhyPort
from ..onfi import Command
from .guard import BusGuard, in_mode
from .nvcycles import nvddr2_modes
from .pins import NvDdr2Pins
from .strobe import StrobeCapture

SHORT = (Command.SET_FEATURES, Command.GET_FEATURES, Command.READ_ID)
"""Behind these each byte is sent twice (ONFI, "repeat bytes"): a beat has four."""
HIGH, LOW, PULSE, LATE_PULSE = 0b1111, 0b0000, 0b0011, 0b0110
"""Quarters of a cycle, the first one lowest."""


class NvDdr2Phy(wiring.Component):
    """Drives one flash bus in NV-DDR2 (ONFI 4.0), timing modes 0 to ``fastest``, DQS and RE_n single-ended.

    Parameters
    ----------
    config : dies, clock, tCCS
    fastest : timing mode; slower ones can be chosen while it runs
    pad_delay_ns : longest way from a register through the pads and the board to the NAND and back

    Members
    -------
    mode : timing mode, at most ``fastest``; may change while ``busy`` is 0
    phy : the sequencer connects here. A beat of data is eight transfers, lowest byte first; behind EFh, EEh
        and 90h four bytes, each twice, whose upper half is not sent and reads as 0
    pins : of the pad layer
    lost : pulse: two bytes were read as FFh, since their strobe did not come

    FFh is sent as FCh, the reset that leaves a die in NV-DDR2. The times are those of `NvDdr2Cycles`; what
    holds for a request that waits, for ``phy.ready`` and for ``phy.busy`` is as in `SdrPhy`. CE_n of the die
    used last stays low behind commands and addresses; data end with CE_n high, which ends the burst. DQS is
    driven, high at rest, but for data out. Data in: DQS low (preamble), its edges in the middle of each byte,
    low (postamble). Data out: RE_n low (preamble, until DQS is driven), an edge per byte, low (postamble)
    until all strobes were seen or cannot come any more.

    Latency, in cycles of the mode's `NvDdr2Cycles`: a command is latched ``1 + write_low`` after it was taken
    (``select_write`` more on another die, or behind data); beats as `beat_latency`, the last one of a burst
    up to ``latest + 4`` later than the others. Throughput: a beat per ``beat`` cycles, data out also across
    requests of one die that wait at the port; ``write_low + write_high`` per command or address.
    Back-pressure: ``phy.write`` may stall at will (DQS pauses, low), ``phy.read`` cannot.
    """

    def __init__(self, *, config: EngineConfig, fastest: int, pad_delay_ns: int = 0):
        self._config = config
        self.modes = nvddr2_modes(fastest, clock_mhz=config.clock_mhz, column_ns=config.timing.tCCS,
                                  pad_delay_ns=pad_delay_ns)
        super().__init__({
            "mode": In(range(NVDDR2_MODES)), "phy": In(PhyPort(config.dies)),
            "pins": Out(NvDdr2Pins(config.dies)), "lost": Out(1),
        })

    def beat_latency(self, mode: int) -> tuple[int, int]:
        """Least and most cycles from a DATA_OUT of one beat that is taken, on a selected die, to its beat."""
        c = self.modes[mode]
        toggles = c.wake + c.preamble_out + c.beat
        return toggles + 4, toggles + c.latest + 8

    def elaborate(self, platform: object) -> Module:
        m = Module()
        phy, pins, request = self.phy, self.pins, self.phy.request.payload
        m.submodules.guard = guard = BusGuard(dies=self._config.dies, modes=self.modes, short=SHORT)
        m.submodules.capture = capture = StrobeCapture()
        c = in_mode(m, self.modes, self.mode)
        op, die, byte, chosen = Signal(BusOp), Signal(3), Signal(8), Signal()
        left, transfer, part = Signal(12), Signal(range(BEAT_BYTES)), Signal(range(max(
            each.transfer for each in self.modes)))
        shift = Signal(8 * BEAT_BYTES)
        timer = Signal(range(max(max(each.write_low, each.write_high, each.select_in, each.wake, each.latest,
                                     each.hold_in, each.hold_out, each.rest) for each in self.modes)))
        idle, ends, gate, running, beat_ends = (
            Signal(name=name) for name in ("idle", "ends", "gate", "running", "beat_ends"))
        taken = phy.request.valid & phy.request.ready
        short = guard.is_short.bit_select(die, 1)
        mine = chosen & (die == request.die)
        m.d.sync += pins.wp_n.eq(1)

        def wait(state: str, cycles: Any) -> None:
            m.d.sync += timer.eq(cycles - 1)
            m.next = state

        def begin(op: Any) -> None:
            with m.If(op == BusOp.DATA_IN):
                m.d.sync += [pins.dqs.o.eq(LOW), pins.dq.oe.eq(1)]
                wait("PREAMBLE_IN", c["preamble_in"])
            with m.Elif(op == BusOp.DATA_OUT):
                m.d.sync += pins.dqs.oe.eq(0)
                m.next = "RELEASE"
            with m.Else():
                m.d.sync += pins.we_n.eq(0)
                wait("LOW", c["write_low"])

        def accept() -> None:
            m.d.comb += phy.request.ready.eq(guard.permitted)
            sent = Mux((request.op == BusOp.COMMAND) & (request.byte == Command.RESET),
                       Command.SYNCHRONOUS_RESET, request.byte)
            with m.If(taken):
                m.d.sync += [
                    op.eq(request.op), die.eq(request.die), byte.eq(sent), left.eq(request.count),
                    chosen.eq(1), pins.ce_n.eq(~(1 << request.die)[:self._config.dies]),
                    pins.cle.eq(request.op == BusOp.COMMAND), pins.ale.eq(request.op == BusOp.ADDRESS),
                    pins.dq.o.eq(sent.replicate(2)), pins.dq.oe.eq(~request.op.as_value()[1]),
                ]
                with m.If(mine):
                    begin(request.op)
                with m.Else():
                    wait("SELECT", Mux(request.op == BusOp.DATA_OUT, c["select_out"],
                                       Mux(request.op == BusOp.DATA_IN, c["select_in"], c["select_write"])))

        def fetch() -> None:
            m.d.comb += phy.write.ready.eq(1)
            data = phy.write.payload
            twice = Cat(data.word_select(index // 2, 8) for index in range(BEAT_BYTES))
            with m.If(phy.write.valid):
                m.d.sync += shift.eq(Mux(short, twice, data))
                m.next = "RUN_IN"
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
            with m.State("LOW"), m.If(timer == 0):
                m.d.comb += ends.eq(1)
                m.d.sync += pins.we_n.eq(1)
                wait("HIGH", c["write_high"])
            with m.State("HIGH"), m.If(timer == 0):
                m.d.sync += [pins.cle.eq(0), pins.ale.eq(0), pins.dq.oe.eq(0)]
                m.next = "IDLE"
                accept()
            with m.State("PREAMBLE_IN"), m.If(timer == 0):
                fetch()
            with m.State("FETCH"):
                m.d.sync += pins.dqs.o.eq(LOW)
                fetch()
            with m.State("RUN_IN"):
                m.d.comb += running.eq(1)
                self._send(m, c, transfer, part, shift)
                with m.If(beat_ends):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left != 1):
                        fetch()
                    with m.Else():
                        m.d.comb += ends.eq(1)
                        wait("POSTAMBLE_IN", c["postamble_in"] + 1)
            with m.State("POSTAMBLE_IN"):
                m.d.sync += pins.dqs.o.eq(LOW)
                with m.If(timer == 0):
                    m.d.sync += pins.ce_n.eq(~0)
                    wait("HOLD_IN", c["hold_in"])
            with m.State("HOLD_IN"), m.If(timer == 0):
                m.d.sync += [pins.dqs.o.eq(HIGH), pins.dq.oe.eq(0)]
                wait("REST", c["rest"])
            with m.State("RELEASE"):
                m.d.sync += pins.re_n.eq(LOW)
                wait("WAKE", c["wake"])
            with m.State("WAKE"), m.If(timer == 0):
                m.d.sync += gate.eq(1)
                wait("PREAMBLE_OUT", c["preamble_out"])
            with m.State("PREAMBLE_OUT"), m.If(timer == 0):
                m.next = "RUN_OUT"
            with m.State("RUN_OUT"):
                m.d.comb += running.eq(1)
                m.d.sync += pins.re_n.eq(Mux(c["fast"], PULSE, Mux(transfer[0], LOW, HIGH)))
                m.d.comb += capture.asked.eq(c["fast"] | ~transfer[0] & (part == 0))
                with m.If(beat_ends):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        goes_on = mine & (request.op == BusOp.DATA_OUT)
                        m.d.comb += phy.request.ready.eq(goes_on)
                        with m.If(taken):
                            m.d.sync += left.eq(request.count)
                        with m.Else():
                            wait("POSTAMBLE_OUT", c["latest"] + 1)
            with m.State("POSTAMBLE_OUT"):
                m.d.sync += pins.re_n.eq(LOW)
                with m.If(timer == 0):
                    m.d.comb += capture.quiet.eq(1)
                    with m.If(capture.pending == 0):
                        m.d.sync += [gate.eq(0), pins.ce_n.eq(~0)]
                        wait("HOLD_OUT", c["hold_out"])
            with m.State("HOLD_OUT"), m.If(timer == 0):
                m.d.comb += ends.eq(1)
                m.d.sync += pins.re_n.eq(HIGH)
                wait("REST", c["rest"])
            with m.State("REST"), m.If(timer == 0):
                m.d.sync += [pins.dqs.oe.eq(1), chosen.eq(0)]
                m.next = "IDLE"
        self._count(m, c, transfer, part, running, beat_ends)
        self._collect(m, capture, short)
        m.d.comb += [
            guard.cycles_mode.eq(self.mode), guard.op.eq(op), guard.die.eq(die), guard.byte.eq(byte),
            guard.chosen.eq(chosen), guard.ends.eq(ends), guard.idle.eq(idle),
            guard.request_op.eq(request.op), guard.request_die.eq(request.die),
            guard.ready_busy_n.eq(pins.ready_busy_n), phy.ready.eq(guard.ready), phy.busy.eq(~idle),
            capture.strobe.eq(pins.strobe), capture.rise.eq(pins.dq.rise), capture.fall.eq(pins.dq.fall),
            capture.gate.eq(gate), self.lost.eq(capture.lost),
        ]
        return m

    def _count(self, m: Module, c: Mapping[str, Any], transfer: Any, part: Any, running: Any,
               beat_ends: Any) -> None:
        """The place in a beat."""
        turns = part == c["transfer"] - 1
        m.d.comb += beat_ends.eq(
            running & Mux(c["fast"], transfer == BEAT_BYTES - 2, (transfer == BEAT_BYTES - 1) & turns))
        with m.If(running):
            m.d.sync += [transfer.eq(transfer + Mux(c["fast"], 2, turns)), part.eq(Mux(turns, 0, part + 1))]

    def _send(self, m: Module, c: Mapping[str, Any], transfer: Any, part: Any, shift: Any) -> None:
        """A cycle of data in: DQ moves with a transfer, DQS in its middle."""
        dq, dqs = self.pins.dq.o, self.pins.dqs.o
        before, after = transfer[0].replicate(4), (~transfer[0]).replicate(4)
        half = c["transfer"] // 2
        middle = Mux(c["transfer"] % 2, Cat(before[:2], after[2:]), after)
        with m.If(c["fast"]):
            m.d.sync += [dq.eq(shift[:16]), dqs.eq(LATE_PULSE), shift.eq(shift >> 16)]
        with m.Else():
            m.d.sync += [dq.eq(shift[:8].replicate(2)),
                         dqs.eq(Mux(part == half, middle, Mux(part < half, before, after)))]
            with m.If(part == c["transfer"] - 1):
                m.d.sync += shift.eq(shift >> 8)

    def _collect(self, m: Module, capture: StrobeCapture, short: Any) -> None:
        """Four pairs become a beat."""
        read, place = self.phy.read, Signal(2)
        m.d.sync += read.valid.eq(0)
        with m.If(capture.valid):
            m.d.sync += [place.eq(place + 1), read.valid.eq(place == 3)]
            with m.If(short):
                m.d.sync += [read.payload[32:].eq(0), read.payload.word_select(place, 8).eq(capture.pair[:8])]
            with m.Else():
                m.d.sync += read.payload.word_select(place, 16).eq(capture.pair)
