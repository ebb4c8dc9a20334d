# SPDX-License-Identifier: Apache-2.0
"""Policies by name, what they choose, and what they read."""

import numpy as np
import pytest

from instinfer.abi.commands import Dtype
from instinfer.abi.dims import DimShape
from instinfer.abi.errors import ConfigError
from instinfer.abi.layout import RowShape, SketchShape
from instinfer.abi.presets import presets
from instinfer.cosim.accuracy import cost
from instinfer.cosim.accuracy.attention import Rows
from instinfer.cosim.accuracy.policies import Layer, Sketch, SparF, SparFFloat, parse, spec
from instinfer.cosim.accuracy.table import CONTROLS, TABLE
from support import rng
from support.kv import random_half

PRODUCT = presets()["product"]


def test_names_are_complete_and_read_back() -> None:
    assert spec(parse("dense")) == "dense:dtype=fp16"
    text = "sketch:bits=4,dims=16,dtype=int8,group=8,keep=1/8,sinks=4,sketcher=pca,window=64"
    assert spec(parse("sketch")) == text
    assert parse(text) == Sketch()
    assert parse("sketch").label == "sketch pca 16 x int4, n=8, T/8, int8"
    text = "sparf:dims=16,dtype=fp16,keep=1/8,mean_v=False,sinks=4,window=64"
    assert spec(parse("sparf")) == text
    assert parse(text) == SparF()
    assert parse("sparf:mean_v=true,keep=256").label == "SparF r=16, 256 tokens, fp16, mean-V"
    text = "sparf-float:dims=16,dims_by=sum,dtype=fp16,keep=1/8,sinks=4,tokens_by=sum,window=64"
    assert spec(parse("sparf-float")) == text
    assert parse(text) == SparFFloat()
    assert parse("sparf-float:dims_by=each,keep=1/16").label == "float64 SparF r=16, T/16, fp16, dims by each"
    assert len({spec(parse(each)) for each in (*TABLE, *CONTROLS)}) == len(TABLE) + len(CONTROLS)


@pytest.mark.parametrize(("text", "message"), [
    ("quest", "policy = 'quest' is not possible: one of dense, sketch, sparf"),
    ("sketch:page=8", "sketch's option = 'page'"),
    ("sketch:group=7", "group = 7 is not possible: 1, 2, 4, 8, 16 or 32"),
    ("sketch:keep=9/8", "keep = '9/8'"),
    ("sketch:keep=-1", "keep = '-1'"),
    ("sketch:keep=x", "sketch's keep = 'x'"),
    ("sketch:keep=1/0", "sketch's keep = '1/0'"),
    ("sketch:dims=12", "sketch_dims = 12"),
    ("sketch:bits=3", "sketch_bits = 3"),
    ("sketch:dtype=fp8", "dtype = 'fp8'"),
    ("sketch:sketcher=random", "sketcher = 'random'"),
    ("dense:dtype=int4", "dtype = 'int4'"),
    ("sketch:window=65536", "window = 65536"),
    ("sparf:dims=0", "dims = 0 is not possible: a whole number from 1 to 128"),
    ("sparf:keep=3/2", "keep = '3/2'"), ("sparf:mean_v=maybe", "sparf's mean_v = 'maybe'"),
    ("sparf:group=8", "sparf's option = 'group'"), ("sparf:dtype=int4", "dtype = 'int4'"),
    ("sparf:sinks=1024", "sinks = 1024"),
    ("sparf-float:dims_by=mean", "dims_by = 'mean' is not possible: one of sum, max, share, each"),
    ("sparf-float:tokens_by=rank", "tokens_by = 'rank' is not possible: one of sum, max, logits, exp, each"),
    ("sparf-float:mean_v=true", "sparf-float's option = 'mean_v'"),
    ("sparf-float:dtype=int4", "dtype = 'int4'"), ("sparf-float:dims=0", "dims = 0"),
])
def test_a_bad_name_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as fault:
        parse(text)
    assert message in str(fault.value)


def test_what_is_kept() -> None:
    assert parse("sketch:keep=1/16").descriptor(4096).groups == 32
    assert parse("sketch:keep=100,group=4").descriptor(4096).groups == 25
    random = rng("kept")
    k, q = random_half(random, (2, 700, 64)), random_half(random, (20, 2, 3, 64))
    rows = Rows.store(Dtype.INT8, k, k)
    layer = Layer(rows=rows, queries=random_half(random, (680, 6, 64)), context=680)
    masks = parse("sketch").choose(layer, q)
    assert masks.shape == (20, 2, 700)
    contexts = 681 + np.arange(20)
    assert not (masks & (np.arange(700) >= contexts[:, None])[:, None]).any()
    for position, context in enumerate(contexts):
        assert masks[position, :, :4].all()
        assert masks[position, :, context - 64:context].all()
        assert (masks[position].sum(axis=-1) >= 68 + 9 * 8).all()
        assert (masks[position].sum(axis=-1) <= 68 + 10 * 8).all()
    control = parse("sketch:keep=0,sinks=0").choose(layer, q)
    assert (control.sum(axis=-1) == 64).all()


def test_more_dims_than_the_model_has() -> None:
    layer = Layer(rows=Rows.store(Dtype.FP16, *2 * [np.ones((1, 9, 64), np.float16)]),
                  queries=np.ones((8, 1, 64), np.float16), context=8)
    for policy in ("sparf:dims=65", "sparf-float:dims=65"):
        with pytest.raises(ConfigError, match="dims = 65 is not possible: at most 64, the dims of a head"):
            parse(policy).choose(layer, np.ones((1, 1, 1, 64), np.float16))


def test_what_is_read() -> None:
    """By hand: product, head_dim 64; 8 fp16 or 16 int8 rows per slot, 64 or 128 tokens per page."""
    fp16, int8 = RowShape(64), RowShape(64, Dtype.INT8)
    assert cost.dense_rows(PRODUCT, fp16, np.array([65])) == (65 * 256, 18, 2)
    assert cost.dense_rows(PRODUCT, int8, np.array([65, 129])) == ((65 + 129) * 132, 10 + 18, 1 + 2)
    mask = np.zeros((1, 300), np.bool_)
    mask[0, [0, 1, 15, 16, 299]] = True
    assert cost.chosen_rows(PRODUCT, int8, mask) == (5 * 132, 2 * 3, 2)
    assert cost.chosen_rows(PRODUCT, fp16, mask) == (5 * 256, 2 * 4, 2)
    whole = np.ones((1, 300), np.bool_)
    assert cost.chosen_rows(PRODUCT, fp16, whole) == cost.dense_rows(PRODUCT, fp16, np.array([300]))
    assert cost.sketches(PRODUCT, SketchShape(16, 4), np.array([97, 1537])) == (1634 * 10, 2 + 17, 1 + 2)
    kept = np.zeros((2, 64), np.bool_)
    kept[0, [0, 1, 5, 63]] = kept[1, [8, 9]] = True
    contexts = np.array([513, 4097])
    # 512 tokens of a dim per slot, 2,048 per page; of int8 twice as many, and two dims' worth of scales.
    assert cost.dims(PRODUCT, DimShape(fp16), kept, contexts) == (
        2 * (4 * 513 + 2 * 4097), 4 * 2 + 2 * 9, 3 * 1 + 1 * 3)
    assert cost.dims(PRODUCT, DimShape(int8), kept, contexts) == (
        6 * 513 + 4 * 4097, 6 * 1 + 4 * 5, 4 * 1 + 2 * 2)
    assert cost.Cost(1, 2, 3).plus(cost.Cost(10, 20, 30)) == (11, 22, 33)
    assert cost.Cost(1, 1, 1).percent_of(cost.Cost(2, 4, 5)) == (50, 25, 20)
