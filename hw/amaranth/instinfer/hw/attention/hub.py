# SPDX-License-Identifier: Apache-2.0
"""The part of attention that all cores share: quantiser, merger, and the wires to the cores."""

from amaranth.hdl import Cat, Module, Mux, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from instinfer.abi.arith import SUM_BITS
from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require

from ..numeric.pipeline import stages
from ..signatures import LANES, merge_request, query_beat, result_beat
from .merger import Merger
from .ports import CorePort, QuotientPort, merge_answer, query_tap
from .quantiser import QueryQuantiser


class AnswerTree(wiring.Component):
    """Joins the answers of all cores, two by two, a register after each level.

    The highest maximum of the cores that have one, and the sums of ``values``. Latency ``latency``, one
    answer per cycle, no back-pressure.
    """

    def __init__(self, *, config: EngineConfig, cores: int) -> None:
        self._cores = cores
        self.latency = 1 + max(1, (cores - 1).bit_length())
        values = In(signed(SUM_BITS)).array(LANES)
        super().__init__({
            "valid": In(1), "answers": In(merge_answer(config)).array(cores),
            "values": In(signed(SUM_BITS)).array(cores, LANES),
            "joined_valid": Out(1), "joined": Out(merge_answer(config)), "joined_values": values.flip(),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        present = [answer.present for answer in self.answers]
        maxima = [answer.maximum for answer in self.answers]
        values = [list(lanes) for lanes in self.values]
        for level in range(self.latency):
            if level:  # level 0 only ends the long wires in registers
                present, maxima, values = _halve(present, maxima, values)
            present = [stages(m, x, 1, name=f"present_{level}_{i}")[1] for i, x in enumerate(present)]
            maxima = [stages(m, x, 1, name=f"maximum_{level}_{i}")[1] for i, x in enumerate(maxima)]
            values = [[stages(m, x, 1, name=f"value_{level}_{i}_{lane}")[1] for lane, x in enumerate(lanes)]
                      for i, lanes in enumerate(values)]
        fields = self.answers[0]
        m.d.comb += [
            self.joined_valid.eq(stages(m, self.valid, self.latency, name="valid", reset=True)[-1]),
            self.joined.op.eq(stages(m, fields.op, self.latency, name="op")[-1]),
            self.joined.query.eq(stages(m, fields.query, self.latency, name="query")[-1]),
            self.joined.group.eq(stages(m, fields.group, self.latency, name="group")[-1]),
            self.joined.present.eq(present[0]), self.joined.maximum.eq(maxima[0]),
            *(self.joined_values[lane].eq(values[0][lane]) for lane in range(LANES)),
        ]
        return m


def _halve(present: list[Value], maxima: list[Value], values: list[list[Value]]) -> tuple[list, list, list]:
    """One level of the tree; an odd one out passes."""
    def pairs(items: list) -> list[tuple]:
        return [tuple(items[i:i + 2]) for i in range(0, len(items), 2)]

    joined_present = [Cat(pair).any() for pair in pairs(present)]
    joined_maxima = []
    for seen, found in zip(pairs(present), pairs(maxima), strict=True):
        if len(found) == 1:
            joined_maxima.append(found[0])
        else:
            second = seen[1] & (~seen[0] | (found[1] > found[0]))
            joined_maxima.append(Mux(second, found[1], found[0]))
    joined_values = [[sum(lane[1:], lane[0])[:SUM_BITS].as_signed() for lane in zip(*pair, strict=True)]
                     for pair in pairs(values)]
    return joined_present, joined_maxima, joined_values


class AttentionHub(wiring.Component):
    """Feeds queries to all cores and collects one result per head from them (connections only).

    Members
    -------
    queries : query rows, see signatures.query_beat; at least 1 beat per 2 cycles is taken.
    scale2 : fp32 bits of the softmax scale times log2(e), constant while rows of a head are inside.
    queries_idle : every query row taken is in the cores, 4 cycles after the last write left; slots of a head
        may be asked for from then on.
    not_finite_valid, not_finite_slot : pulse, a query element of this head slot was NaN or Inf.
    open_valid, open_slot : empties all partials of a head slot; before its first slot, never while it has
        any in the cores.
    merge : requests, taken one at a time; all ``finish`` pulses of the head slot must have come before.
    results : rows in fp16, see signatures.result_beat and Merger.
    cores : one port per core, all driven alike.
    merge_active : 1 while the cores are held (a counter's enable).
    tap : the query integers, as they go to the cores.
    quotient : the merger's quotients, lent between merges.
    """

    def __init__(self, *, config: EngineConfig, cores: int) -> None:
        require(isinstance(cores, int) and cores >= 1, "cores", cores, "at least 1 core",
                "config.cores is the number of the engine.")
        self._config = config
        self._cores = cores
        super().__init__({
            "queries": In(stream.Signature(query_beat(config))), "scale2": In(32), "queries_idle": Out(1),
            "not_finite_valid": Out(1), "not_finite_slot": Out(range(config.head_slots)),
            "open_valid": In(1), "open_slot": In(range(config.head_slots)),
            "merge": In(stream.Signature(merge_request(config))),
            "results": Out(stream.Signature(result_beat(config))),
            "cores": Out(CorePort(config)).array(cores),
            "merge_active": Out(1), "tap": Out(query_tap(config)), "quotient": In(QuotientPort()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.quantiser = quantiser = QueryQuantiser(config=config)
        m.submodules.merger = merger = Merger(config=config)
        m.submodules.tree = tree = AnswerTree(config=config, cores=self._cores)
        connect(m, flipped(self.queries), quantiser.queries)
        connect(m, flipped(self.merge), merger.merge)
        connect(m, merger.results, flipped(self.results))
        connect(m, flipped(self.quotient), merger.quotient)
        m.d.comb += [
            quantiser.scale2.eq(self.scale2),
            self.not_finite_valid.eq(quantiser.not_finite_valid),
            self.not_finite_slot.eq(quantiser.not_finite_slot),
            self.merge_active.eq(merger.active),
            merger.parked.eq(Cat(core.parked for core in self.cores).all()),
            # All cores answer in the same cycle. Asking all of them keeps their instances alike, which lets a
            # compiled simulation share their code.
            tree.valid.eq(Cat(core.answer_valid for core in self.cores).all()),
            merger.answer_valid.eq(tree.joined_valid), merger.answer.eq(tree.joined),
            *(merger.values[lane].eq(tree.joined_values[lane]) for lane in range(LANES)),
        ]
        # One register for all cores; each core has its own behind the wire.
        driven = {
            "query_valid": quantiser.write_valid, "query": quantiser.write, "open_valid": self.open_valid,
            "open_slot": self.open_slot, "hold": merger.hold, "step_valid": merger.step_valid,
            "step": merger.step,
        }
        late = {name: stages(m, value, 1, name=name, reset=name not in ("query", "step", "open_slot"))[1]
                for name, value in driven.items()}
        pairs = [stages(m, pair, 1, name=f"pair_{i}")[1] for i, pair in enumerate(quantiser.write_pairs)]
        m.d.comb += [self.tap.valid.eq(late["query_valid"]), self.tap.query.eq(late["query"]),
                     *(self.tap.pairs[i].eq(pair) for i, pair in enumerate(pairs))]
        for index, core in enumerate(self.cores):
            m.d.comb += [getattr(core, name).eq(value) for name, value in late.items()]
            m.d.comb += [core.query_pairs[i].eq(pair) for i, pair in enumerate(pairs)]
            m.d.comb += tree.answers[index].eq(core.answer)
            m.d.comb += [tree.values[index][lane].eq(core.values[lane]) for lane in range(LANES)]
        landing = stages(m, quantiser.idle, 4, name="landing", reset=True)
        m.d.comb += self.queries_idle.eq(Cat(landing).all())
        return m
