# SPDX-License-Identifier: Apache-2.0
"""The second factor of every multiplier: query integers for key slots, weights for value slots."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig

from ..memory import COLLISION_FREE
from ..numeric.pipeline import stages
from ..numeric.product import FACTOR_BITS
from ..signatures import LANES
from .ports import GROUP_BITS, PAIR_BITS, ROW_BITS, query_shape, query_write


class OperandMemory(wiring.Component):
    """Two memories per query: query rows of all head slots and factors of the rows of one value slot.

    A read (``key``, ``head_slot``, ``group`` or ``row``) takes ``latency`` cycles and sees what was written
    by the end of its first one. For key slots ``factors`` are the query integers of dims 4 * group and on,
    ``byte_factors`` those of the next four (``group`` must then be even); for value slots both are the row's
    ``factor`` in all lanes.

    Query writes (at most every second cycle) are done within 3 cycles; a factor is written at once and goes
    first. Even and odd queries do not wait for each other: factors of one parity are at least 2 cycles apart.
    ``factor_valid``, ``factor_query`` and ``factor_row`` come a cycle before their ``factor``, so that what
    chooses for all memories is a register.
    """

    latency = 3

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query = query_shape(config)
        super().__init__({
            "query_valid": In(1), "query": In(query_write(config)),
            "query_pairs": In(PAIR_BITS).array(LANES // 2),
            "factor_valid": In(1), "factor_query": In(query), "factor_row": In(ROW_BITS),
            "factor": In(FACTOR_BITS - 1),
            "key": In(1), "head_slot": In(range(config.head_slots)), "group": In(GROUP_BITS),
            "row": In(ROW_BITS),
            "factors": Out(signed(FACTOR_BITS)).array(config.queries, LANES),
            "byte_factors": Out(signed(FACTOR_BITS)).array(config.queries, LANES),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A query write waits one cycle, and one more if a factor of its parity comes.
        held = Signal(query_write(self._config), reset_less=True)
        pairs = [Signal(PAIR_BITS, name=f"pair_{i}", reset_less=True) for i in range(LANES // 2)]
        holding = Signal()
        row = stages(m, self.factor_row, 1, name="factor_row")[1]
        to_query = [stages(m, self.factor_valid & (self.factor_query == query), 1, name=f"to_query_{query}",
                           reset=True)[1] for query in range(self._config.queries)]
        to_factor = [stages(m, self.factor_valid & (self.factor_query[0] == parity), 1, name=f"to_{parity}",
                            reset=True)[1] for parity in range(2)]
        blocked = Mux(held.query[0], to_factor[1], to_factor[0])
        with m.If(self.query_valid):
            m.d.sync += [holding.eq(1), held.eq(self.query)]
            m.d.sync += [pair.eq(new) for pair, new in zip(pairs, self.query_pairs, strict=True)]
        with m.Elif(~blocked):
            m.d.sync += holding.eq(0)
        factor = Cat(self.factor, C(0, 1)).replicate(LANES)
        # Chosen for each query, though a factor of the same parity would do: the memories lie far apart.
        words = [Mux(chosen, factor, Cat(*pairs)) for chosen in to_query]
        self._memories(m, "memory", 0, self.factors, held, holding, words, to_factor, to_query, row)
        self._memories(m, "byte_memory", 1, self.byte_factors, held, holding & held.group[0], words,
                       to_factor, to_query, row)
        return m

    def _memories(self, m: Module, name: str, drop: int, outputs: Any, held: Any, holding: Value,
                  words: list[Value], to_factor: list[Value], to_query: list[Value], row: Value) -> None:
        """One kind of memory for all queries; ``drop`` group bits are not part of its address."""
        bits = GROUP_BITS - drop
        pad = C(0, bits + len(self.head_slot) - ROW_BITS)
        depth = 1 << (bits + len(self.head_slot) + 1)
        for query in range(self._config.queries):
            memory: Memory = Memory(shape=len(words[0]), depth=depth, init=[], attrs=COLLISION_FREE)
            m.submodules[f"{name}_{query}"] = memory
            read, write = memory.read_port(), memory.write_port()
            word = stages(m, read.data, 1, name=f"{name}_word_{query}")[1]
            address = Mux(self.key, Cat(self.group[drop:], self.head_slot, C(0, 1)),
                          Cat(self.row, pad, C(1, 1)))
            chosen = to_factor[query & 1]
            m.d.comb += [
                write.addr.eq(Mux(chosen, Cat(row, pad, C(1, 1)),
                                  Cat(held.group[drop:], held.head_slot, C(0, 1)))),
                write.data.eq(words[query]),
                write.en.eq(Mux(chosen, to_query[query], holding & (held.query == query))),
                read.addr.eq(stages(m, address, 1, name=f"{name}_address_{query}")[1]),
                *(outputs[query][lane].eq(word.word_select(lane, FACTOR_BITS)) for lane in range(LANES)),
            ]
