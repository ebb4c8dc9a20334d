# SPDX-License-Identifier: Apache-2.0
"""Cocotb benches of `MaskBuilder` and `TokenChooser`; test_selection.py runs them."""

import numpy as np
from cocotb.triggers import ClockCycles

from instinfer.abi import selection
from instinfer.abi.selection import SketchPolicy
from instinfer.hw.selection.ports import (
    MaskOp,
    choice_beat,
    group_beat,
    mask_job,
    mask_word,
    pairs_per_stripe,
)
from instinfer.hw.selection.tokens import token_job
from support.benches import bench, cycle, start
from support.seeds import rng
from support.streams import StreamSink, StreamSource

from .tops import BUILDERS, TOKENS


def mask_words(config, wanted: np.ndarray, rows: int) -> list[int]:
    """Words for the wanted tokens (context,) of a head."""
    layout, pairs = mask_word(config), pairs_per_stripe(config)
    stripes = np.pad(wanted, (0, -len(wanted) % (pairs * rows))).reshape(-1, pairs, rows)
    words = []
    for stripe, masks in enumerate(stripes):
        present = masks.any(axis=1)
        if present.any():
            words.append(layout.const({"op": MaskOp.STRIPE, "stripe": stripe,
                                       "pairs": int((present << np.arange(pairs)).sum())}).as_bits())
        words += [layout.const({"op": MaskOp.ROWS, "stripe": stripe, "pair": int(pair),
                                "rows": int((masks[pair] << np.arange(rows)).sum())}).as_bits()
                  for pair in np.flatnonzero(present)]
    return [*words, layout.const({"op": MaskOp.END}).as_bits()]


def edge(generator: np.random.Generator, context: int) -> int:
    """A window or a number of sinks: none, some, all, more than there are."""
    return int(generator.choice([0, 0, 1, generator.integers(0, 70), generator.integers(0, context + 1),
                                 context, 65535]))


async def random_choices(dut, name: str, count: int, longest: int, *, idle: float,
                         back_pressure: float) -> None:
    setting = BUILDERS[name]
    config, lanes = setting.config, setting.lanes
    generator = rng(f"{name} {idle}")
    jobs = StreamSource(dut, f"{name}__jobs", idle=idle)
    choices = StreamSource(dut, f"{name}__choice", idle=idle)
    masks = StreamSink(dut, f"{name}__masks", back_pressure=back_pressure)
    await start(dut)
    for number in range(count):
        context = int(generator.choice([generator.integers(1, 40), generator.integers(1, longest + 1)]))
        group_log2, rows_log2 = number % 6, int(generator.integers(2, 5))
        sinks, window = edge(generator, context), edge(generator, context)
        groups = -(-context // (1 << group_log2))
        chosen = generator.random(groups) < generator.choice([0.0, 0.02, 0.2, 0.9, 1.0])
        jobs.send(mask_job(config).const({"context": context, "sinks": sinks, "window": window,
                                          "group_log2": group_log2, "rows_log2": rows_log2}).as_bits())
        rows = np.pad(chosen, (0, -groups % lanes)).reshape(-1, lanes)
        choices.send(*(choice_beat(lanes).const({
            "chosen": int((row << np.arange(lanes)).sum()), "last": index == len(rows) - 1}).as_bits()
            for index, row in enumerate(rows)))
        token = np.arange(context)
        wanted = chosen[token >> group_log2] | (token < sinks) | (token >= context - window)
        masks.expect(*mask_words(config, wanted, 1 << rows_log2))
    await choices.drained()
    await masks.finished()
    assert int(getattr(dut, f"{name}__busy").value) == 0


@bench(cycles=60_000)
async def masks_of_wide_stripes(dut):
    await random_choices(dut, "wide_masks", 60, 3000, idle=0.0, back_pressure=0.0)


@bench(cycles=60_000)
async def masks_of_wide_stripes_with_stalls(dut):
    await random_choices(dut, "wide_masks", 30, 2000, idle=0.3, back_pressure=0.4)


@bench(cycles=60_000)
async def masks_of_tiny_stripes(dut):
    await random_choices(dut, "tiny_masks", 80, 700, idle=0.1, back_pressure=0.3)


@bench(cycles=60_000)
async def masks_of_stripes_of_two_pairs(dut):
    await random_choices(dut, "short_masks", 80, 300, idle=0.1, back_pressure=0.2)


@bench(cycles=20_000)
async def masks_at_full_rate(dut):
    """Sixteen tokens per cycle and one cycle per stripe of 512 tokens, when little is chosen."""
    setting = BUILDERS["wide_masks"]
    config, lanes = setting.config, setting.lanes
    jobs = StreamSource(dut, "wide_masks__jobs")
    choices = StreamSource(dut, "wide_masks__choice")
    masks = StreamSink(dut, "wide_masks__masks", back_pressure=0.0)
    await start(dut)
    context, stripes = 512 * 32, 32
    for number in range(2):
        jobs.send(mask_job(config).const({"context": context, "sinks": 1, "window": 1, "group_log2": 3,
                                          "rows_log2": 4}).as_bits())
        beats = context // 8 // lanes
        choices.send(*(choice_beat(lanes).const({"chosen": 0, "last": index == beats - 1}).as_bits()
                       for index in range(beats)))
        wanted = np.zeros(context, np.bool_)
        wanted[[0, -1]] = True
        masks.expect(*mask_words(config, wanted, 16))
        await masks.finished()
        cycles = masks.cycles[5 * number:]
        assert cycles[-1] - cycles[0] <= (stripes - 1) * (512 // 16 + 1) + 8


def all_equal(config, *, head_slot: int, context: int, keep: int) -> tuple[int, list[int], list[int]]:
    """A job of one query and groups of one token that score the same, its maxima and its masks."""
    job = token_job(config).const({
        "context": context, "sinks": 0, "window": 0, "group_log2": 0, "rows_log2": 3, "keep": keep,
        "head_slot": head_slot, "passes": 1, "queries": 1}).as_bits()
    beats = [group_beat(config).const({"head_slot": head_slot, "group": group, "maxima": [7],
                                       "last": group == context - 1}).as_bits() for group in range(context)]
    return job, beats, mask_words(config, np.arange(context) < keep, 8)


@bench(cycles=30_000)
async def masks_that_nobody_takes(dut):
    """The next head's maxima are taken, and those of the one behind it are not: one choice is stored."""
    config = TOKENS.config
    context = TOKENS.config.score_groups
    jobs = StreamSource(dut, "tokens__jobs")
    maxima = StreamSource(dut, "tokens__maxima")
    dut.tokens__masks__ready.value = 0
    await start(dut)
    heads = [all_equal(config, head_slot=number, context=context, keep=900 + number) for number in range(3)]
    for number, (job, beats, _) in enumerate(heads):
        jobs.send(job)
        maxima.send(*beats)
        if number < 2:
            await maxima.drained()
    await ClockCycles(dut.clk, 5000)
    assert len(maxima.sent) == 2 * context
    masks = StreamSink(dut, "tokens__masks")
    for _, _, words in heads:
        masks.expect(*words)
    await masks.finished()
    assert int(dut.tokens__busy.value) == 0


@bench(cycles=30_000)
async def maxima_come_while_masks_go(dut):
    """Masks at a third of their rate cost the heads behind them nothing."""
    config = TOKENS.config
    context = TOKENS.config.score_groups
    jobs = StreamSource(dut, "tokens__jobs")
    maxima = StreamSource(dut, "tokens__maxima")
    masks = StreamSink(dut, "tokens__masks", back_pressure=0.6)
    await start(dut)
    begin = cycle()
    for number in range(4):
        job, beats, words = all_equal(config, head_slot=number, context=context, keep=context - 1)
        jobs.send(job)
        maxima.send(*beats)
        masks.expect(*words)
    await maxima.drained()
    taken = cycle() - begin
    await masks.finished()
    most = TOKENS.component().cycles(context) + context + 20
    assert taken <= 4 * most, f"{taken} cycles, {4 * most} at most"


@bench(cycles=200_000)
async def policies_choose_what_the_model_chooses(dut):
    """Scores of tokens in, row masks out: `selection.choose`."""
    setting = TOKENS
    config = setting.config
    generator = rng("policies")
    jobs = StreamSource(dut, "tokens__jobs")
    maxima = StreamSource(dut, "tokens__maxima", idle=0.1)
    masks = StreamSink(dut, "tokens__masks", back_pressure=0.2)
    await start(dut)
    for number in range(60):
        queries = int(generator.integers(1, 5))
        group_log2, rows_log2 = int(generator.integers(0, 6)), int(generator.integers(2, 5))
        stride = 1 << (queries - 1).bit_length()
        longest = min(setting.config.score_groups // stride << group_log2, 1500)
        context = int(generator.choice([generator.integers(1, min(40, longest) + 1),
                                        generator.integers(1, longest + 1), longest]))
        kept = int(generator.choice([0, 1, 5, generator.integers(0, 200)]))
        window, sinks = edge(generator, context), edge(generator, context)
        policy = SketchPolicy(groups=kept, group_log2=group_log2, window=window or int(kept + sinks == 0),
                              sinks=sinks)
        spread = int(generator.choice([1, 8, 500, 50_000]))
        scores = generator.integers(-spread, spread + 1, (queries, context))
        head_slot = number % config.head_slots
        jobs.send(token_job(config).const({
            "context": context, "sinks": policy.sinks, "window": policy.window, "group_log2": group_log2,
            "rows_log2": rows_log2, "keep": policy.groups, "head_slot": head_slot, "passes": queries,
            "queries": 1}).as_bits())
        found = selection.group_maxima(scores, group_log2)
        beats = [group_beat(config).const({
            "head_slot": (head_slot + query) % config.head_slots, "group": group,
            "maxima": [int(found[query, group])], "last": 0}).as_bits()
            for query in range(queries) for group in range(found.shape[1])]
        maxima.send(*(beats[index] for index in generator.permutation(len(beats))))
        masks.expect(*mask_words(config, selection.choose(scores, policy), 1 << rows_log2))
    await maxima.drained()
    await masks.finished()
    assert int(dut.tokens__busy.value) == 0


@bench(cycles=20_000)
async def wrong_masks_on_purpose(dut):
    setting = BUILDERS["tiny_masks"]
    config = setting.config
    jobs = StreamSource(dut, "tiny_masks__jobs")
    choices = StreamSource(dut, "tiny_masks__choice")
    masks = StreamSink(dut, "tiny_masks__masks", back_pressure=0.0)
    await start(dut)
    jobs.send(mask_job(config).const({"context": 9, "sinks": 2, "window": 0, "group_log2": 3,
                                      "rows_log2": 2}).as_bits())
    choices.send(choice_beat(setting.lanes).const({"chosen": 2, "last": 1}).as_bits())
    wanted = np.zeros(9, np.bool_)
    wanted[[0, 1, 7]] = True
    masks.expect(*mask_words(config, wanted, 4))
    await masks.finished()
