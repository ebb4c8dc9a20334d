# SPDX-License-Identifier: Apache-2.0
"""From the weight of a value row to what its elements are multiplied by, and where the products belong."""

from amaranth.hdl import Array, C, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.arith import (
    SCALE_MANTISSA_BITS,
    SCALED_WEIGHT_BITS,
    SCALED_WEIGHT_DROP,
    WEIGHT_BITS,
)
from instinfer.abi.config import EngineConfig

from ..numeric.fp16 import fp16
from ..numeric.pipeline import stages
from ..numeric.product import (
    BYTE_VALUE_POSITION,
    FACTOR_BITS,
    KEY_POSITION,
    POSITION_SHAPE,
    VALUE_POSITION,
)
from ..numeric.shift import AMOUNT_BITS
from .ports import ROW_BITS, query_shape
from .softmax import DISTANCE_BITS


class RowFactors(wiring.Component):
    """Weights times scales (``arith.scaled_weight``), and the rows' positions.

    Cycle 0: ``int8`` and ``scale`` of the row. Cycle 1: ``valid``, ``query``, ``row``, ``weight`` and
    ``distance``, its exponent before saturation. In cycle ``factor_cycle`` factors come out, to be stored
    (for OperandMemory); ``factor_valid``, ``factor_query`` and ``factor_row`` a cycle before. An fp16 row has
    the scale 1: its factor is its weight.

    ``positions`` of all queries, latency 1 from ``key`` and ``read_row``, which may come from cycle
    ``position_cycle`` on; that of a key row never changes. One row and query per cycle, no back-pressure.
    """

    factor_cycle = 3
    position_cycle = 3

    def __init__(self, *, config: EngineConfig) -> None:
        self._config = config
        query = query_shape(config)
        super().__init__({
            "int8": In(1), "scale": In(16),
            "valid": In(1), "query": In(query), "row": In(ROW_BITS),
            "weight": In(WEIGHT_BITS), "distance": In(DISTANCE_BITS),
            "factor_valid": Out(1), "factor_query": Out(query), "factor_row": Out(ROW_BITS),
            "factor": Out(FACTOR_BITS - 1),
            "key": In(1), "read_row": In(ROW_BITS),
            "positions": Out(POSITION_SHAPE).array(config.queries),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scale = fp16(self.scale)
        # The position of an int8 row, by the exponent of its scale: a table is faster than sums.
        bases = Array(C(max(exponent - 1, 0) + BYTE_VALUE_POSITION, POSITION_SHAPE)
                      for exponent in range(1 << len(scale.exponent)))
        mantissa = Signal(SCALE_MANTISSA_BITS, reset_less=True)
        base = Signal(POSITION_SHAPE, reset_less=True)
        product = Signal(WEIGHT_BITS + SCALE_MANTISSA_BITS, reset_less=True)
        rounded = Signal(SCALED_WEIGHT_BITS, reset_less=True)
        # Of a distance within the range of exponents, and beyond it.
        near, far = (Signal(POSITION_SHAPE, name=name, reset_less=True) for name in ("near", "far"))
        beyond = stages(m, self.distance[AMOUNT_BITS:].any(), 1, name="beyond")[1]
        position = Mux(beyond, far, near)
        half = 1 << (SCALED_WEIGHT_DROP - 1)
        m.d.sync += [
            mantissa.eq(Mux(self.int8, scale.magnitude, 1 << SCALED_WEIGHT_DROP)),
            base.eq(Mux(self.int8, bases[scale.exponent], VALUE_POSITION)),
            product.eq(self.weight * mantissa),
            near.eq(base - self.distance[:AMOUNT_BITS]), far.eq(base - ((1 << AMOUNT_BITS) - 1)),
            rounded.eq((product + half) >> SCALED_WEIGHT_DROP),
        ]
        valid = stages(m, self.valid, 1, name="valid", reset=True)
        query = stages(m, self.query, 1, name="query")
        row = stages(m, self.row, 1, name="row")
        m.d.comb += [
            self.factor_valid.eq(valid[1]), self.factor_query.eq(query[1]), self.factor_row.eq(row[1]),
            self.factor.eq(rounded),
        ]
        for index in range(self._config.queries):
            table: Memory = Memory(shape=POSITION_SHAPE, depth=1 << ROW_BITS, init=[])
            m.submodules[f"positions_{index}"] = table
            write, read = table.write_port(), table.read_port(domain="comb")
            m.d.comb += [
                write.addr.eq(row[1]), write.data.eq(position), write.en.eq(valid[1] & (query[1] == index)),
                read.addr.eq(self.read_row),
            ]
            m.d.sync += self.positions[index].eq(Mux(self.key, C(KEY_POSITION, POSITION_SHAPE), read.data))
        return m
