# SPDX-License-Identifier: Apache-2.0
"""The second factor of every multiplier: query integers for key slots, weights for value slots."""

from amaranth.hdl import C, Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import QUERY_BITS, WEIGHT_BITS
from instinfer.abi.config import EngineConfig

from ..signatures import LANES
from .ports import GROUP_BITS, PAIR_BITS, ROW_BITS, query_shape


class OperandMemory(wiring.Component):
    """A memory per query that holds the query rows of all head slots and the weights of one pair.

    A read (``key``, ``head_slot``, ``group`` or ``row``) has latency 1: for key slots the four query
    integers of the group, for value slots the row's weight in all lanes. Query writes (at most every second
    cycle) go first; weights wait in a queue, and ``waiting`` says so.
    """

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query = query_shape(config)
        super().__init__({
            "query_valid": In(1), "query_slot": In(range(config.head_slots)), "query_index": In(query),
            "query_group": In(GROUP_BITS), "query_pairs": In(PAIR_BITS).array(LANES // 2),
            "weight_valid": In(1), "weight_index": In(query), "weight_row": In(ROW_BITS),
            "weight": In(WEIGHT_BITS), "waiting": Out(1),
            "key": In(1), "head_slot": In(range(config.head_slots)), "group": In(GROUP_BITS),
            "row": In(ROW_BITS),
            "factors": Out(signed(QUERY_BITS)).array(config.queries, LANES),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queries = self._config.queries
        index_bits = len(self.query_index)
        width = WEIGHT_BITS + ROW_BITS + index_bits
        m.submodules.weights = queue = SyncFIFO(width=width, depth=max(2, queries))
        weight, row, index = (queue.r_data[:WEIGHT_BITS], queue.r_data[WEIGHT_BITS:WEIGHT_BITS + ROW_BITS],
                              queue.r_data[WEIGHT_BITS + ROW_BITS:])
        m.d.comb += [
            queue.w_data.eq(Cat(self.weight, self.weight_row, self.weight_index)),
            queue.w_en.eq(self.weight_valid),
            queue.r_en.eq(~self.query_valid),
            self.waiting.eq(queue.r_rdy),
        ]
        lane = Cat(weight, C(0, QUERY_BITS - WEIGHT_BITS))
        slot_bits = len(self.head_slot)
        row_pad = C(0, GROUP_BITS + slot_bits - ROW_BITS)
        read_address = Mux(self.key, Cat(self.group, self.head_slot, C(0, 1)),
                           Cat(self.row, row_pad, C(1, 1)))
        write_address = Mux(self.query_valid, Cat(self.query_group, self.query_slot, C(0, 1)),
                            Cat(row, row_pad, C(1, 1)))
        target = Mux(self.query_valid, self.query_index, index)
        written = self.query_valid | queue.r_rdy
        depth = 1 << (GROUP_BITS + slot_bits + 1)
        for query in range(queries):
            for pair in range(LANES // 2):
                memory: Memory = Memory(shape=PAIR_BITS, depth=depth, init=[])
                m.submodules[f"memory_{query}_{pair}"] = memory
                read, write = memory.read_port(), memory.write_port()
                m.d.comb += [
                    write.addr.eq(write_address),
                    write.data.eq(Mux(self.query_valid, self.query_pairs[pair], Cat(lane, lane))),
                    write.en.eq(written & (target == query)),
                    read.addr.eq(read_address),
                    self.factors[query][2 * pair].eq(read.data[:QUERY_BITS]),
                    self.factors[query][2 * pair + 1].eq(read.data[QUERY_BITS:]),
                ]
        return m
