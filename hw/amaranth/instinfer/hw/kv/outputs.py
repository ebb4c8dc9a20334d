# SPDX-License-Identifier: Apache-2.0
"""Attention output of one pass, from the normaliser to host memory."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..signatures import MemoryWritePort, merge_request, result_beat
from .blender import MEAN_JOB
from .ports import DRAM_BITS, TOKEN_BITS

OUTPUT = data.StructLayout({
    "address": 64, "rows": 4, "beats": 4, "head_slot": 3, "mean_v": 1, "sums": DRAM_BITS,
    "tokens": TOKEN_BITS,
})
"""A pass: ``rows`` rows of ``beats`` 32-byte beats. ``mean_v``: they are blended with the mean of V over
``tokens`` tokens, whose sums lie from ``sums`` on."""
OUTPUT_END = data.StructLayout({"error": 1, "internal": 1})
"""Host memory refused a beat; device DRAM did."""


class OutputWriter(wiring.Component):
    """Has one head slot merged, collects its rows and writes them to host memory.

    Parameters
    ----------
    config : the engine's configuration

    Members
    -------
    outputs : passes
    ends : one per pass, when host memory has answered
    collected : pulse, all results are in: the head slot may be used again
    merge, results : the merger, its results by way of a `MeanBlender`
    means, mean_failed : a `MeanBlender`; a mean is made before each merge of an output with mean-V
    memory : host memory

    Latency: the merger's, then a cycle per 32-byte beat and a round trip of host memory. Back-pressure:
    results are taken always.
    """

    def __init__(self, *, config: EngineConfig):
        self.config = config
        super().__init__({
            "outputs": In(stream.Signature(OUTPUT)),
            "ends": Out(stream.Signature(OUTPUT_END)),
            "collected": Out(1),
            "merge": Out(stream.Signature(merge_request(config))),
            "results": In(stream.Signature(result_beat(config))),
            "means": Out(stream.Signature(MEAN_JOB)), "mean_failed": In(1),
            "memory": Out(MemoryWritePort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        output, result = self.outputs.payload, self.results.payload
        row, beat = Signal(3), Signal(3)
        next_row, next_beat = Signal(3), Signal(3)
        averaged = Signal()
        banks = []
        for bank in range(4):
            cells: memory.Memory = memory.Memory(shape=64, depth=8 * 8, init=[])
            m.submodules[f"bank_{bank}"] = cells
            write, read = cells.write_port(), cells.read_port()
            m.d.comb += [
                write.en.eq(self.results.valid & self.results.ready & (result.group[:2] == bank)),
                write.addr.eq(Cat(result.group[2:], result.query)),
                write.data.eq(result.data), read.addr.eq(Cat(next_beat, next_row)),
            ]
            banks.append(read.data)
        target = self.memory
        last = (row == output.rows - 1) & (beat == output.beats - 1)
        m.d.comb += [
            self.merge.payload.head_slot.eq(output.head_slot), self.merge.payload.queries.eq(output.rows),
            self.merge.payload.groups.eq(output.beats << 2),
            self.means.payload.sums.eq(output.sums), self.means.payload.tokens.eq(output.tokens),
            self.means.payload.beats.eq(output.beats << 2),
            target.request.payload.address.eq(output.address),
            target.request.payload.beats.eq(output.rows * output.beats),
            target.data.payload.data.eq(Cat(banks)), target.data.payload.strobe.eq(~0),
            target.data.payload.last.eq(last),
            next_row.eq(row), next_beat.eq(beat),
        ]
        m.d.sync += [row.eq(next_row), beat.eq(next_beat)]
        with m.FSM():
            with m.State("MERGE"):
                m.d.comb += [
                    self.merge.valid.eq(self.outputs.valid & (averaged | ~output.mean_v)),
                    self.means.valid.eq(self.outputs.valid & output.mean_v & ~averaged),
                ]
                m.d.sync += [row.eq(0), beat.eq(0)]
                with m.If(self.means.valid & self.means.ready):
                    m.d.sync += averaged.eq(1)
                with m.If(self.merge.valid & self.merge.ready):
                    m.next = "COLLECT"
            with m.State("COLLECT"):
                m.d.comb += self.results.ready.eq(1)
                m.d.sync += averaged.eq(0)
                with m.If(self.results.valid & result.last):
                    m.d.comb += self.collected.eq(1)
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += target.request.valid.eq(1)
                with m.If(target.request.ready):
                    m.next = "MOVE_BEAT"
            with m.State("MOVE_BEAT"):
                m.d.comb += target.data.valid.eq(1)
                with m.If(target.data.ready):
                    m.d.comb += next_beat.eq(beat + 1)
                    with m.If(beat == output.beats - 1):
                        m.d.comb += [next_beat.eq(0), next_row.eq(row + 1)]
                    with m.If(last):
                        m.next = "WAIT_FOR_ANSWER"
            with m.State("WAIT_FOR_ANSWER"):
                m.d.comb += [
                    self.ends.valid.eq(target.response.valid), target.response.ready.eq(self.ends.ready),
                    self.ends.payload.error.eq(target.response.payload.error),
                    self.ends.payload.internal.eq(output.mean_v & self.mean_failed),
                ]
                with m.If(self.ends.valid & self.ends.ready):
                    m.d.comb += self.outputs.ready.eq(1)
                    m.next = "MERGE"
        return m
