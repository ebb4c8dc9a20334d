# SPDX-License-Identifier: Apache-2.0
"""Our systems and how drives share: shards, options, what binds."""

import dataclasses

import pytest

from instinfer.perf.models import MODELS
from instinfer.perf.point import Query, run
from instinfer.perf.strategies.instinfer import InstInfer, Options
from instinfer.perf.strategies.sharding import shards

LLAMA = MODELS["llama-3-8b"]


def rate(strategy, **changes):
    query = dataclasses.replace(Query(model="llama-3-8b", batch=8, prompt=32_000, output=64, drive="product"),
                                **changes)
    return run(strategy, query.machine(), query.workload())[1]["decode_tokens_per_second"]


def test_shards_cover_heads_and_tokens():
    for drives in (1, 2, 3, 7, 8, 32):
        for shard in shards(LLAMA, drives):
            assert shard.by_head * shard.by_token <= drives
            assert shard.heads * shard.by_head >= LLAMA.kv_heads
            assert shard.tokens(1001) * shard.by_token >= 1001
    by_head = {(shard.by_head, shard.by_token) for shard in shards(LLAMA, 32, way="head")}
    assert by_head == {(1, 1), (2, 1), (4, 1), (8, 1)}
    assert [(s.by_head, s.by_token) for s in shards(LLAMA, 32, way="token")] == [(1, 32)]


def test_partial_results_are_larger_than_outputs():
    one, many = (next(shards(LLAMA, drives, way="token")).merge_bytes(LLAMA) for drives in (1, 4))
    assert many > 4 * one


def test_token_shards_go_on_where_heads_end():
    head, token = (InstInfer("dense", Options(way=way)) for way in ("head", "token"))
    assert rate(head, csds=32) == pytest.approx(rate(head, csds=8))
    assert rate(token, csds=32) > 2 * rate(head, csds=32)


def test_options_matter():
    sketch = InstInfer("sketch")
    assert rate(InstInfer("sketch", Options(reread=0.5))) < rate(sketch)
    assert rate(InstInfer("sketch", Options(keep=32))) > rate(sketch)
    assert rate(InstInfer("sketch", Options(layer_seconds=0.05))) < rate(sketch)
    opt = {"model": "opt-13b", "prompt": 1000, "drive": "paper"}
    rates = [rate(InstInfer("sketch", options), **opt) for options in (
        Options(), Options(tail_cores=2), Options(tail_cores=2, choosers=2))]
    assert rates == sorted(set(rates)), "each of them binds in turn"


def test_policies_in_their_order():
    rates = {policy: rate(InstInfer(policy)) for policy in ("dense", "dense-int8", "sketch")}
    assert rates["dense"] < rates["dense-int8"] < rates["sketch"]
    assert rates["dense-int8"] == pytest.approx(2 * rates["dense"], rel=0.05)


def test_more_drives_than_heads_of_short_contexts_do_no_harm():
    assert rate(InstInfer("sketch"), csds=32, prompt=500) >= rate(InstInfer("sketch"), csds=8, prompt=500)
