# SPDX-License-Identifier: Apache-2.0
"""Sketchers: bases, quantisation to a few bits, what they refuse."""

import dataclasses

import numpy as np
import pytest

from instinfer.abi.errors import ConfigError
from instinfer.host import PCA, ChosenDims, Sketcher, TruncatedKey
from instinfer.host.sketchers import (
    Basis,
    basis_from_json,
    basis_to_json,
    quantise_sketches,
    sketcher_from_json,
    sketcher_to_json,
)
from support import rng


def keys_of_rank(rank: int, tokens: int = 400, heads: int = 3, dims: int = 64) -> np.ndarray:
    random = rng(f"rank {rank}")
    directions = random.standard_normal((heads, rank, dims))
    return np.einsum("thr,hrd->thd", random.standard_normal((tokens, heads, rank)), directions)


def same(one: Basis, other: Basis) -> bool:
    return all(np.array_equal(*parts) for parts in zip(one, other, strict=True))


@pytest.mark.parametrize("sketcher", [PCA(), PCA(32, 8), TruncatedKey(), ChosenDims(8, 2)], ids=str)
def test_bases_are_orthonormal(sketcher: Sketcher) -> None:
    basis = sketcher.fit(keys_of_rank(64))
    assert basis.keys.shape == basis.queries.shape == (3, sketcher.dims, 64)
    assert basis.keys.dtype == np.float32
    unit = basis.keys.astype(np.float64) @ basis.queries.swapaxes(1, 2)
    np.testing.assert_allclose(unit, np.broadcast_to(np.eye(sketcher.dims), unit.shape), atol=1e-6)


def test_pca_keeps_all_of_keys_of_its_rank_and_the_most_of_others() -> None:
    for rank, least in ((16, 1 - 1e-4), (64, 0.35)):
        keys = keys_of_rank(rank)
        kept = {}
        for sketcher in (PCA(), ChosenDims(), TruncatedKey(16, 4)):
            projected = np.einsum("thd,hkd->thk", keys, sketcher.fit(keys).keys)
            kept[type(sketcher)] = np.square(projected).sum() / np.square(keys).sum()
        assert kept[PCA] > least
        assert kept[PCA] > kept[ChosenDims] > kept[TruncatedKey]


def test_the_mean_of_the_keys_takes_no_direction() -> None:
    keys = keys_of_rank(16) + 50 * rng("mean").standard_normal((3, 64))
    queries = rng("queries").standard_normal((3, 4, 64))
    sketcher = PCA(16, 8)
    basis = sketcher.fit(keys)
    integers, scale = sketcher.keys(basis, keys)
    found = np.einsum("hqk,thk->hqt", sketcher.queries(basis, queries, 1),
                      integers * scale[..., None].astype(float))
    exact = np.einsum("hqd,thd->hqt", queries, keys)
    moved = (exact - found) - (exact - found).mean(axis=-1, keepdims=True)
    assert np.abs(moved).max() < 0.03 * (exact - exact.mean(axis=-1, keepdims=True)).max()


@pytest.mark.parametrize("factor", [1.0, 1e-4])
def test_queries_weigh_the_directions(factor: float) -> None:
    """Queries that look along few directions of keys that vary everywhere: those are kept."""
    random = rng("weighted")
    keys = random.standard_normal((500, 3, 64)) * np.linspace(2, 1, 64)
    queries = factor * random.standard_normal((200, 3, 2, 64))
    queries[..., :48] *= 0.05
    errors = []
    for given in (None, queries):
        basis = PCA(weight=1).fit(keys, given)
        found = np.einsum("tnqk,snk->nqts", np.einsum("tnqd,nkd->tnqk", queries, basis.queries),
                          np.einsum("snd,nkd->snk", keys - basis.mean, basis.keys))
        exact = np.einsum("tnqd,snd->nqts", queries, keys - basis.mean)
        errors.append(np.square(found - exact).sum() / np.square(exact).sum())
    assert errors[0] > 0.7
    assert errors[1] < 0.1
    assert np.isfinite(PCA().fit(keys, 0 * queries).keys).all()


def test_weight_zero_is_that_of_keys_alone() -> None:
    random = rng("no weight")
    keys, queries = random.standard_normal((90, 3, 64)), random.standard_normal((50, 3, 2, 64))
    alone, weighted = PCA().fit(keys), PCA(weight=0).fit(keys, queries)
    np.testing.assert_allclose(np.abs(weighted.keys), np.abs(alone.keys), atol=1e-5)
    for weight in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="weight = .* is not possible: 0"):
            PCA(weight=weight)


def test_each_head_has_its_own_basis() -> None:
    basis = PCA().fit(keys_of_rank(16)).keys
    assert np.abs(basis[0] @ basis[1].T).max() < 0.999


def test_a_short_first_write_falls_back_to_chosen_dims() -> None:
    keys = keys_of_rank(64)
    for tokens in (1, 63):
        assert same(PCA().fit(keys[:tokens]), ChosenDims().fit(keys[:tokens]))
    assert not same(PCA().fit(keys[:64]), ChosenDims().fit(keys[:64]))
    assert same(PCA(fit_tokens=65).fit(keys[:64]), ChosenDims().fit(keys[:64]))


def test_chosen_dims_are_the_largest_ones_in_order() -> None:
    keys = np.ones((5, 2, 64))
    keys[:, 0, [3, 60]] = -9
    keys[:, 1, 10:18] = 2
    basis = ChosenDims(8, 4).fit(keys).keys
    assert basis.argmax(axis=-1).tolist() == [[0, 1, 2, 3, 4, 5, 6, 60], list(range(10, 18))]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantisation_is_close(bits: int) -> None:
    random = rng(f"quantise {bits}")
    vectors = random.standard_normal((500, 3, 16)) * np.exp2(random.integers(-10, 8, (500, 3, 1)))
    integers, scale = quantise_sketches(vectors, bits)
    limit = 1 << (bits - 1)
    assert integers.min() >= -limit
    assert integers.max() < limit
    error = np.square(integers * scale[..., None].astype(float) - vectors).sum() / np.square(vectors).sum()
    assert error < {2: 0.25, 4: 0.015, 8: 1e-4}[bits]


def test_corners_of_the_quantisation() -> None:
    integers, scale = quantise_sketches(np.zeros((2, 8)), 4)
    assert scale.tolist() == [1, 1]
    assert not integers.any()
    integers, scale = quantise_sketches(np.full((1, 8), 1e-12), 4)
    assert scale[0] == 2.0 ** -24
    integers, scale = quantise_sketches(np.full((1, 8), 511.0 * 7), 4)
    assert scale[0] == 511
    with pytest.raises(ConfigError, match=r"sketch scale = .*: below 512\. Scale K down"):
        quantise_sketches(np.full((1, 8), 512.0 * 7), 4)
    with pytest.raises(ValueError, match="below 512"):
        quantise_sketches(np.full((1, 8), 511.9 * 7), 4)  # rounds to 512


def test_queries_meet_keys() -> None:
    """The dot product of sketches is close to that of query and key, softmax scale included."""
    keys = keys_of_rank(16)
    queries = rng("queries").standard_normal((3, 4, 64))
    sketcher = PCA(16, 8)
    basis = sketcher.fit(keys)
    integers, scale = sketcher.keys(basis, keys)
    projected = sketcher.queries(basis, queries, 0.25)
    found = np.einsum("hqk,thk->hqt", projected, integers * scale[..., None].astype(float))
    exact = 0.25 * np.einsum("hqd,thd->hqt", queries, keys - basis.mean)
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_sizes_that_the_device_has_not() -> None:
    for make, message in ((lambda: PCA(12), "sketch_dims = 12"), (lambda: PCA(16, 3), "sketch_bits = 3"),
                          (lambda: ChosenDims(72), "sketch_dims = 72"), (lambda: TruncatedKey(0), "= 0")):
        with pytest.raises(ConfigError, match=message):
            make()


def test_sketchers_and_bases_are_saved() -> None:
    for sketcher in (PCA(32, 2, fit_tokens=7), TruncatedKey(), ChosenDims(8, 8)):
        assert sketcher_from_json(sketcher_to_json(sketcher)) == sketcher
        basis = sketcher.fit(keys_of_rank(64))
        found = basis_from_json(basis_to_json(basis))
        assert same(found, basis)
        assert {part.dtype for part in found} == {np.dtype(np.float32)}
    assert sketcher_from_json(("Unheard", {})) is None
    assert dataclasses.is_dataclass(PCA)
