# SPDX-License-Identifier: Apache-2.0
"""From chosen groups and forced tokens to the rows that are read, stripe by stripe."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require
from instinfer.abi.selection import GROUP_LOG2_MAX

from .ports import ROW_MASK_BITS, STRIPE_BITS, MaskOp, choice_beat, mask_job, mask_word, pairs_per_stripe

_STEP_LOG2 = 4
_STEP = 1 << _STEP_LOG2
"""Tokens per cycle, and bits of a word of the row memory."""
_OFFSET_BITS = 3 + GROUP_LOG2_MAX
"""Tokens of the longest beat: 8 lanes of 32."""


class MaskBuilder(wiring.Component):
    """Turns the choice of a head into row masks for the walker.

    Parameters
    ----------
    config : the engine's configuration
    lanes : groups per beat of ``choice``: 2, 4 or 8

    Members
    -------
    jobs : what the choice is of; taken when idle
    choice : all groups of the context, as `GroupChooser` gives them
    masks : for each stripe with a wanted row a STRIPE and its ROWS, stripes ascending; then END
    busy : a job is under way

    Latency: 3 cycles from the beat that completes a stripe to its STRIPE. Throughput: 16 tokens per cycle and
    a cycle per stripe (8 tokens where a stripe has no more; fewer where 16 tokens need several beats), and
    a cycle per word of ``masks``; both go on at once, as two stripes are held. Back-pressure: beats wait
    while both are.
    """

    def __init__(self, *, config: EngineConfig, lanes: int = 4) -> None:
        require(lanes in (2, 4, 8), "lanes", lanes, "2, 4 or 8", "As many as the chooser's.")
        self._config, self._lanes = config, lanes
        self._pairs = pairs_per_stripe(config)
        super().__init__({
            "jobs": In(stream.Signature(mask_job(config))),
            "choice": In(stream.Signature(choice_beat(lanes))),
            "masks": Out(stream.Signature(mask_word(config))),
            "busy": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pairs = self._pairs
        job: Any = Signal(mask_job(self._config))
        running, ended = Signal(), Signal()
        full = Signal(2)
        step_log2 = Signal(range(_STEP_LOG2 + 1))
        pairs_log2 = pairs.bit_length() - 1
        short = job.rows_log2 < _STEP_LOG2 - pairs_log2 if pairs_log2 < _STEP_LOG2 else C(0)
        m.d.comb += step_log2.eq(Mux(short, job.rows_log2 + pairs_log2, _STEP_LOG2))
        m.d.comb += [self.jobs.ready.eq(~running), self.busy.eq(running)]

        half, word, chunk, stripe_end, stripe = (
            Signal(), Signal(_STEP), Signal(range(max(2, pairs))), Signal(), Signal(STRIPE_BITS))
        valid, end = Signal(), Signal()
        room = ~full.bit_select(half, 1) & ~(valid & stripe_end)
        taken, tokens, stop = self._tokens(m, job, running & ~ended & room, step_log2)

        # One cycle later: the stripe's row memory, and which of its pairs have rows.
        chunk_next = Signal.like(chunk)
        chunks_end = (Array(C(max(pairs << rows, _STEP) // _STEP - 1, len(chunk))
                            for rows in range(_STEP_LOG2 + 1)))[job.rows_log2]
        stripe_next = Signal(STRIPE_BITS)
        m.d.sync += [
            valid.eq(taken), word.eq(tokens), chunk.eq(chunk_next), end.eq(stop), stripe.eq(stripe_next),
            stripe_end.eq(stop | (chunk_next == chunks_end)),
        ]
        with m.If(taken):
            m.d.sync += chunk_next.eq(chunk_next + 1)
            with m.If(chunk_next == chunks_end):
                m.d.sync += [chunk_next.eq(0), stripe_next.eq(stripe_next + 1)]
            with m.If(stop):
                m.d.sync += ended.eq(1)
        memory: Memory = Memory(shape=_STEP, depth=2 * pairs, init=[])
        m.submodules.rows = memory
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(Cat(chunk[:pairs_log2], half)), write.data.eq(word), write.en.eq(valid),
        ]
        gathered, found = Signal(pairs), Signal(pairs)
        m.d.comb += found.eq(Mux(chunk == 0, 0, gathered) | self._pairs_of(word, chunk, job.rows_log2))
        stripes = Signal(2 * STRIPE_BITS)
        wanted = Signal(2 * pairs)
        with m.If(valid):
            m.d.sync += gathered.eq(found)
            with m.If(stripe_end & (found != 0)):
                m.d.sync += [
                    full.bit_select(half, 1).eq(1), half.eq(~half),
                    stripes.word_select(half, STRIPE_BITS).eq(stripe),
                    wanted.word_select(half, pairs).eq(found),
                ]
        all_ended = ended & ~valid & (full == 0)
        self._words(m, job, all_ended, running, full, stripes, wanted, read)

        with m.If(self.jobs.valid & self.jobs.ready):
            m.d.sync += [job.eq(self.jobs.payload), running.eq(1), ended.eq(0), chunk_next.eq(0),
                         stripe_next.eq(0)]
        return m

    def _tokens(self, m: Module, job: Any, go: Value, step_log2: Value) -> tuple[Value, Value, Value]:
        """(a chunk of tokens is taken, which of them are wanted, it is the context's last)."""
        beat: Any = self.choice.payload
        lane_bits = self._lanes.bit_length() - 1
        left = {name: Signal.like(job.context, name=f"{name}_left")
                for name in ("sinks", "before_window", "context")}
        offset = Signal(_OFFSET_BITS)
        number = Signal(range(_STEP // self._lanes))
        earlier = Signal(_STEP)
        step = Signal(range(_STEP + 1))
        beat_log2 = Signal(range(_OFFSET_BITS + 1))
        single, complete, taken, stop, beat_end = Signal(), Signal(), Signal(), Signal(), Signal()
        following = Signal(_OFFSET_BITS + 1)
        m.d.comb += [
            step.eq(1 << step_log2), beat_log2.eq(lane_bits + job.group_log2),
            single.eq(beat_log2 >= step_log2),
            complete.eq(single | beat.last | (number + 1 == (1 << (step_log2 - beat_log2)[:3]))),
            taken.eq(go & self.choice.valid & complete),
            stop.eq(left["context"] <= step),
            following.eq(offset + step), beat_end.eq((following >> beat_log2).any() | stop),
            self.choice.ready.eq(go & Mux(single, beat_end, 1)),
        ]
        groups = Signal(_STEP)
        m.d.comb += groups.eq(Mux(single, beat.chosen >> (offset >> job.group_log2)[:3],
                                  earlier | (beat.chosen << (number << lane_bits))))
        with m.If(self.choice.valid & self.choice.ready):
            m.d.sync += [number.eq(Mux(complete, 0, number + 1)), earlier.eq(Mux(complete, 0, groups))]
        with m.If(taken):
            m.d.sync += offset.eq(Mux(beat_end, 0, following))
            for count in left.values():
                m.d.sync += count.eq(Mux(count > step, count - step, 0))
        with m.If(self.jobs.valid & self.jobs.ready):
            new: Any = self.jobs.payload
            rest = new.context - new.window
            m.d.sync += [
                left["sinks"].eq(Mux(new.sinks > new.context, new.context, new.sinks)),
                left["before_window"].eq(Mux(rest < 0, 0, rest)), left["context"].eq(new.context),
                number.eq(0), earlier.eq(0), offset.eq(0),
            ]

        limits = {name: Mux(count > step, step, count)[:len(step)] for name, count in left.items()}
        tokens = Signal(_STEP)
        spread = Array(Cat(groups[token >> size] for token in range(_STEP))
                       for size in range(GROUP_LOG2_MAX + 1))[job.group_log2]
        for token in range(_STEP):
            forced = (token < limits["sinks"]) | (token >= limits["before_window"])
            m.d.comb += tokens[token].eq((token < limits["context"]) & (forced | spread.bit_select(token, 1)))
        return taken, tokens, stop

    def _pairs_of(self, word: Value, chunk: Value, rows_log2: Value) -> Value:
        """Pairs with a row in a word, in their place within the stripe."""
        choices = []
        for rows in (4, 8, 16):
            bits = Cat(word.word_select(part, rows).any() for part in range(_STEP // rows))
            choices.append((bits << chunk * (_STEP // rows))[:self._pairs])
        return Mux(rows_log2 == 2, choices[0], Mux(rows_log2 == 3, choices[1], choices[2]))

    def _words(self, m: Module, job: Any, all_ended: Value, running: Signal, full: Signal, stripes: Signal,
               wanted: Signal, read: Any) -> None:
        """Words of the stripe that was filled first."""
        out: Any = self.masks.payload
        half = Signal()
        rest = Signal(self._pairs)
        pair = Signal(range(self._pairs))
        rows = Signal(ROW_MASK_BITS)
        stripe = stripes.word_select(half, STRIPE_BITS)
        for index in reversed(range(self._pairs)):
            with m.If(rest[index]):
                m.d.comb += pair.eq(index)
        address = Signal(range(max(2, self._pairs)))
        m.d.comb += read.addr.eq(Cat(address[:self._pairs.bit_length() - 1], half))
        with m.Switch(job.rows_log2):
            with m.Case(2):
                m.d.comb += [address.eq(pair >> 2), rows.eq(read.data.word_select(pair[:2], 4))]
            with m.Case(3):
                m.d.comb += [address.eq(pair >> 1), rows.eq(read.data.word_select(pair[:1], 8))]
            with m.Default():
                m.d.comb += [address.eq(pair), rows.eq(read.data[:ROW_MASK_BITS])]
        with m.FSM():
            with m.State("TAKE_STRIPE"):
                with m.If(full.bit_select(half, 1)):
                    m.d.comb += [
                        self.masks.valid.eq(1), out.op.eq(MaskOp.STRIPE), out.stripe.eq(stripe),
                        out.pairs.eq(wanted.word_select(half, self._pairs)),
                    ]
                    with m.If(self.masks.ready):
                        m.d.sync += rest.eq(out.pairs)
                        m.next = "SEND_ROWS"
                with m.Elif(running & all_ended):
                    m.d.comb += [self.masks.valid.eq(1), out.op.eq(MaskOp.END)]
                    with m.If(self.masks.ready):
                        m.d.sync += running.eq(0)
            with m.State("SEND_ROWS"):
                m.d.comb += [
                    self.masks.valid.eq(1), out.op.eq(MaskOp.ROWS), out.stripe.eq(stripe), out.pair.eq(pair),
                    out.rows.eq(rows),
                ]
                with m.If(self.masks.ready):
                    m.d.sync += rest.eq(rest & (rest - 1))
                    with m.If((rest & (rest - 1)) == 0):
                        m.d.sync += [full.bit_select(half, 1).eq(0), half.eq(~half)]
                        m.next = "TAKE_STRIPE"
