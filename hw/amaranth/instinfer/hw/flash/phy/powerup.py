# SPDX-License-Identifier: Apache-2.0
"""From power-on to the fastest timing mode that all dies of a bus have, in SDR or in NV-DDR2."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import BEAT_BYTES, EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.onfi import (
    CRC_INIT,
    CRC_POLYNOMIAL,
    FEATURE_TIMING_MODE,
    NVDDR2_MODES,
    PARAMETER_BYTES,
    PARAMETER_COMMANDS,
    PARAMETER_COPIES,
    PARAMETER_CRC,
    PARAMETER_HAS_FEATURES,
    PARAMETER_NVDDR2_MODES,
    PARAMETER_SDR_MODES,
    PARAMETER_SIGNATURE,
    SDR_MODES,
    DataInterface,
)

from ...signatures import BusOp, PhyPort
from ..onfi import Command

POWER_UP_FAULT = data.StructLayout({"no_answer": 1, "bad_parameters": 1, "unsupported": 1, "refused": 1})
"""``no_answer``: R/B_n of a die stayed low; it is left alone. ``bad_parameters``: no copy of a die's
parameter page is whole; the bus stays in timing mode 0 of SDR. ``unsupported``: the dies have no common mode
(it is mode 0 of SDR), or none that is fast enough. ``refused``: a die did not confirm the mode it was given;
mode 0 of SDR."""


class Phase(enum.Enum, shape=2):
    """What every die goes through before the next one is begun."""

    RESET = 0
    PAGE = 1
    SET = 2
    CHECK = 3


COMMANDS = (Command.RESET, Command.PARAMETER_PAGE, Command.SET_FEATURES, Command.GET_FEATURES)
"""Of the phases."""


class PowerUp(wiring.Component):
    """Resets the dies, reads their parameter pages, sets a timing mode and then lets the channel through.

    Per die: FFh; ECh 00h, up to three copies of the page, checksum and signature; then, with the fastest
    mode that all of them list, EFh 01h, EEh 01h, all in mode 0; then the PHY changes its mode (ONFI 4.0,
    "Read Parameter Page", "Set Features", "Timing Mode"). FFh in SDR leaves the mode as it is, so the channel
    may reset its dies later. On the way to NV-DDR2 the PHY changes behind EFh of all dies, so EEh is the
    first thing that is said in NV-DDR2; when a die does not confirm, the PHY goes back, and FFh in mode 0
    of SDR takes all dies with it.

    Parameters
    ----------
    config : dies, time-out
    fastest : timing mode that PHY and board can do
    slowest : slower ones are taken, but count as ``unsupported``
    interface : whose timing modes these are

    Members
    -------
    channel : a channel connects here; ``busy`` until ``done``, nothing is taken before
    phy : the PHY, which must keep tADL, tWHR, tCCS by itself and give beats of data 8 cycles apart in mode 0
    mode, nvddr2 : timing mode of the PHY, and whether it is in NV-DDR2
    done : the channel is let through; stays 1 until the domain is reset
    fault : see `POWER_UP_FAULT`; valid with ``done``
    faulty : dies that caused one

    Latency: tRST, tR and 256 bytes in mode 0 per die, two features per die; a die that stays busy costs the
    time-out for each operation, once. Afterwards none: ``channel`` is ``phy``.
    """

    def __init__(self, *, config: EngineConfig, fastest: int = SDR_MODES - 1, slowest: int = 0,
                 interface: DataInterface = DataInterface.SDR):
        self._modes = SDR_MODES if interface == DataInterface.SDR else NVDDR2_MODES
        require(isinstance(fastest, int) and fastest in range(self._modes), "fastest", fastest,
                f"a timing mode, 0 to {self._modes - 1}", "Take the PHY's.")
        require(isinstance(slowest, int) and 0 <= slowest <= fastest, "slowest", slowest,
                f"a timing mode from 0 to fastest = {fastest}", "0 accepts every package.")
        self._config, self._fastest, self._slowest, self._interface = config, fastest, slowest, interface
        super().__init__({
            "channel": In(PhyPort(config.dies)), "phy": Out(PhyPort(config.dies)),
            "mode": Out(range(self._modes)), "nvddr2": Out(1), "done": Out(1), "fault": Out(POWER_UP_FAULT),
            "faulty": Out(config.dies),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, phy, channel = self._config, self.phy, self.channel
        fast = self._interface == DataInterface.NV_DDR2
        # Mode 0 of SDR is what a package has without being asked.
        named = range(self._modes) if fast else range(1, self._modes)
        limit = config.timeout_us * config.clock_mhz
        phase, die, watch = Signal(Phase), Signal(range(max(2, config.dies))), Signal(range(limit + 1))
        absent, common = Signal(config.dies), Signal(self._modes, init=(1 << self._fastest + 1) - 1)
        copy, target = Signal(range(PARAMETER_COPIES)), Signal(range(self._modes))
        usable, back = Signal(self._modes), Signal()
        feature = target | self._interface << 4
        whole, ended, modes, first = self._examine(m, phase)
        request = Signal.like(phy.request.payload)
        asks = Signal()
        answers = Signal()
        m.d.comb += [
            answers.eq(phy.ready.bit_select(die, 1)), request.die.eq(die),
            usable.eq(Mux(absent.all() | self.fault.bad_parameters, 0, common)),
            phy.request.payload.eq(Mux(self.done, channel.request.payload, request)),
            phy.request.valid.eq(Mux(self.done, channel.request.valid, asks)),
            channel.request.ready.eq(phy.request.ready & self.done),
            phy.write.payload.eq(Mux(self.done, channel.write.payload, feature)),
            phy.write.valid.eq(channel.write.valid | ~self.done),
            channel.write.ready.eq(phy.write.ready & self.done), channel.busy.eq(phy.busy | ~self.done),
            channel.read.valid.eq(phy.read.valid & self.done), channel.read.payload.eq(phy.read.payload),
            channel.ready.eq(phy.ready),
        ]

        def ask(op: BusOp, then: str, **fields: Any) -> None:
            m.d.comb += [asks.eq(1), request.op.eq(op), *(request[name].eq(v) for name, v in fields.items())]
            with m.If(phy.request.ready):
                m.next = then

        def blame(fault: str) -> None:
            m.d.sync += [self.fault[fault].eq(1), self.faulty.bit_select(die, 1).eq(1)]

        with m.FSM():
            with m.State("COMMAND"):
                m.d.sync += [watch.eq(0), copy.eq(0)]
                with m.If(absent.bit_select(die, 1)):
                    m.next = "NEXT"
                with m.Else():
                    ask(BusOp.COMMAND, "ADDRESS", byte=Array(COMMANDS)[phase.as_value()])
            with m.State("ADDRESS"):
                with m.If(phase == Phase.RESET):
                    m.next = "WAIT"
                with m.Else():
                    ask(BusOp.ADDRESS, "WRITE", byte=Mux(phase == Phase.PAGE, 0, FEATURE_TIMING_MODE))
            with m.State("WRITE"):
                with m.If(phase == Phase.SET):
                    ask(BusOp.DATA_IN, "WAIT", count=1)
                with m.Else():
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += watch.eq(watch + 1)
                with m.If(answers & ~phy.busy):
                    m.next = "NEXT"
                    with m.If((phase == Phase.PAGE) | (phase == Phase.CHECK)):
                        m.next = "READ"
                with m.Elif(watch == limit):
                    blame("no_answer")
                    m.d.sync += absent.bit_select(die, 1).eq(1)
                    m.next = "NEXT"
            with m.State("READ"):
                ask(BusOp.DATA_OUT, "EXAMINE",
                    count=Mux(phase == Phase.PAGE, PARAMETER_BYTES // BEAT_BYTES, 1))
            with m.State("EXAMINE"), m.If(ended & ~phy.busy):
                m.next = "NEXT"
                with m.If((phase == Phase.CHECK) & (first != feature)):
                    blame("refused")
                with m.Elif(phase == Phase.CHECK):
                    pass
                with m.Elif(whole):
                    m.d.sync += common.eq(common & modes)
                with m.Elif(copy == PARAMETER_COPIES - 1):
                    blame("bad_parameters")
                with m.Else():
                    m.d.sync += copy.eq(copy + 1)
                    m.next = "READ"
            with m.State("NEXT"):
                m.d.sync += die.eq(die + 1)
                m.next = "COMMAND"
                with m.If(die == config.dies - 1):
                    m.d.sync += die.eq(0)
                    with m.Switch(phase):
                        with m.Case(Phase.RESET):
                            m.d.sync += phase.eq(Phase.PAGE)
                            with m.If(back):
                                m.next = "RUN"
                        with m.Case(Phase.PAGE):
                            m.next = "CHOOSE"
                        with m.Case(Phase.SET):
                            m.d.sync += phase.eq(Phase.CHECK)
                            if fast:
                                m.d.sync += [self.mode.eq(target), self.nvddr2.eq(1)]
                        with m.Case(Phase.CHECK):
                            m.next = "RETURN" if fast else "SWITCH"
            with m.State("CHOOSE"):
                for mode in named:
                    with m.If(usable[mode]):
                        m.d.sync += target.eq(mode)
                m.d.sync += phase.eq(Phase.SET)
                m.next = "COMMAND"
                with m.If(usable[named[0]:] == 0):
                    m.next = "RUN"
                with m.If((usable[self._slowest:] == 0) & ~absent.all() & ~self.fault.bad_parameters):
                    m.d.sync += self.fault.unsupported.eq(1)
            with m.State("SWITCH"):
                # Slow times suit a die in any mode; fast ones only those that confirmed theirs.
                with m.If(~self.fault.refused):
                    m.d.sync += self.mode.eq(target)
                m.next = "RUN"
            with m.State("RETURN"):
                m.next = "RUN"
                with m.If(self.fault.refused):
                    m.d.sync += [self.mode.eq(0), self.nvddr2.eq(0), back.eq(1), phase.eq(Phase.RESET)]
                    m.next = "COMMAND"
            with m.State("RUN"):
                m.d.comb += self.done.eq(1)
        return m

    def _examine(self, m: Module, phase: Any) -> tuple[Any, Any, Any, Any]:
        """Looks at what is read, a byte per cycle: was the page whole, did it (or the feature) end, the modes
        it lists, the first byte."""
        read = self.phy.read
        rest, byte = Signal(8 * BEAT_BYTES), Signal(8)
        at, here = Signal(range(PARAMETER_BYTES)), Signal(range(BEAT_BYTES + 1))
        crc, good, features = Signal(16), Signal(), Signal()
        whole, ended, modes, first = Signal(), Signal(), Signal(self._modes), Signal(8)
        fast = self._interface == DataInterface.NV_DDR2
        m.d.comb += byte.eq(rest[:8])
        with m.If(read.valid):
            m.d.sync += [rest.eq(read.payload), here.eq(BEAT_BYTES)]
        with m.Elif(here != 0):
            m.d.sync += [here.eq(here - 1), rest.eq(rest >> 8), at.eq(at + 1), crc.eq(_crc_step(crc, byte))]
            for index, letter in enumerate(PARAMETER_SIGNATURE):
                with m.If((at == index) & (byte != letter)):
                    m.d.sync += good.eq(0)
            with m.If(at == 0):
                m.d.sync += [first.eq(byte), crc.eq(_crc_step(CRC_INIT, byte)),
                             good.eq(byte == PARAMETER_SIGNATURE[0])]
            with m.If(at == PARAMETER_COMMANDS):
                m.d.sync += features.eq(byte[PARAMETER_HAS_FEATURES])
            with m.If(at == (PARAMETER_NVDDR2_MODES if fast else PARAMETER_SDR_MODES)):
                m.d.sync += modes.eq(Mux(features, byte, 0 if fast else byte & 1))
            for index in range(2):
                with m.If(at == PARAMETER_CRC + index):
                    m.d.sync += [crc.eq(crc), good.eq(good & (byte == crc.word_select(index, 8)))]
        # A page ends with its last byte, a feature with its beat.
        last = Mux(phase == Phase.PAGE, PARAMETER_BYTES - 1, BEAT_BYTES - 1)
        with m.If(self.phy.request.valid & self.phy.request.ready):
            m.d.sync += [ended.eq(0), at.eq(0)]
        with m.Elif((here != 0) & ~read.valid & (at == last)):
            m.d.sync += ended.eq(1)
        m.d.comb += whole.eq(good)
        return whole, ended, modes, first


def _crc_step(crc: Any, byte: Any) -> Any:
    """ONFI's CRC-16 after one more byte, most significant bit first."""
    bits = [crc >> index & 1 for index in range(16)] if isinstance(crc, int) else [crc[i] for i in range(16)]
    for index in reversed(range(8)):
        feedback = bits[15] ^ byte[index]
        bits = [feedback & (CRC_POLYNOMIAL >> place & 1) ^ (bits[place - 1] if place else 0)
                for place in range(16)]
    return Cat(*bits)
