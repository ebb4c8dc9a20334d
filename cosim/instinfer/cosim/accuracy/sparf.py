# SPDX-License-Identifier: Apache-2.0
"""`abi.sparf` for many positions at once: dims, scores, chosen tokens and mean-V, position by position."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from instinfer.abi import arith, selection, sparf
from instinfer.abi.arith import F16, I64
from instinfer.abi.sparf import SparfPolicy

from . import kernels
from .attention import Mask, Rows
from .choice import choose_among

ABSENT = selection.SCORE_LOWEST - (64 << selection.SCORE_FRACTION)
"""Score of a token beyond the context: 64 octaves below the lowest, so that it adds nothing to a sum."""
_BLOCK_SCORES = 1 << 18


class HeadScores:
    """One KV head of a layer.

    Args:
        q: (positions, queries, head_dim); position i sees the tokens [0, first + i].
    """

    def __init__(self, rows: Rows, head: int, q: F16, first: int, policy: SparfPolicy) -> None:
        self._rows = rows
        self._head = head
        self._policy = policy
        self._contexts = first + 1 + np.arange(len(q))
        self._qi, self._exponent = arith.quantise_query(q, arith.scale2_of(q.shape[-1] ** -0.5))
        self.kept = sparf.choose_dims(self._qi, self._exponent, policy.dims)
        """(positions, head_dim): the dims that are read."""
        self._keys: dict[int, NDArray[np.float64]] = {}

    def _blocks(self) -> Iterator[tuple[slice, I64]]:
        """Some positions, and their scores (positions, queries, tokens) up to the last one's context."""
        positions, queries, _ = self._qi.shape
        step = max(1, _BLOCK_SCORES // (queries * int(self._contexts[-1])))
        for start in range(0, positions, step):
            part = slice(start, min(positions, start + step))
            tokens = int(self._contexts[part][-1])
            folded, power = sparf.fold(self._qi[part], self._exponent[part], self.kept[part])
            found = np.empty((len(folded), queries, tokens), np.int64)
            largest = power.max(axis=-1)
            for each in np.unique(largest):  # these share their integers of K
                alike = largest == each
                found[alike] = self._scores(folded[alike], power[alike], tokens)
            yield part, found

    def _scores(self, folded: I64, power: I64, tokens: int) -> I64:
        """``sparf.scores`` (positions, queries, tokens) of positions with the same largest exponent."""
        short = sparf.shortened(folded).reshape(-1, folded.shape[-1]).astype(np.float64)
        largest = int(power.max())
        if largest not in self._keys:
            self._keys[largest] = self._integers_of_keys(largest)
        # At most 2**39: exact in float64.
        dots = short @ self._keys[largest][:, :tokens]
        exponent = power.reshape(-1)
        if self._rows.k_scale is None:
            mantissa, shift = np.ones(tokens, np.int64), np.zeros(tokens, np.int64)
            right = (sparf.FIXED_GUARD + sparf.SHORT_FRACTION) + largest - exponent
        else:
            mantissa, shift = arith.scale_fields(self._rows.k_scale[self._head, :tokens])
            right = selection.SHIFT_BASE + sparf.SHORT_FRACTION - exponent
        found = kernels.scaled_scores(dots, right, mantissa, shift, selection.SCORE_LOWEST,
                                      selection.SCORE_HIGHEST)
        return found.reshape(*folded.shape[:2], tokens)

    def _integers_of_keys(self, largest: int) -> NDArray[np.float64]:
        """K (head_dim, tokens) as it meets queries whose largest exponent this is."""
        k = self._rows.k[self._head]
        if self._rows.k_scale is None:
            return sparf.fixed_keys(k, np.array(largest)).T.astype(np.float64, order="C")
        return k.T.astype(np.float64, order="C")

    def choose(self) -> Mask:
        """Tokens that each position attends, (positions, tokens)."""
        chosen = np.zeros((len(self._qi), self._rows.k.shape[1]), np.bool_)
        for part, scores in self._blocks():
            chosen[part, :scores.shape[-1]] = choose_among(scores, self._contexts[part],
                                                           self._policy.choice())
        return chosen

    def blend(self, masks: Mask, out: F16) -> F16:
        """Outputs (positions, queries, head_dim) with the mean of V for what masks (positions, tokens) leave
        out."""
        scale = None if self._rows.v_scale is None else self._rows.v_scale[self._head]
        sums = sparf.value_units(self._rows.v[self._head], scale).cumsum(axis=0)
        found = np.empty_like(out)
        for part, scores in self._blocks():
            contexts, tokens = self._contexts[part], scores.shape[-1]
            inside: NDArray[np.bool_] = np.arange(tokens) < contexts[:, None]
            share = sparf.alpha(np.where(inside[:, None], scores, ABSENT), masks[part, :tokens])
            found[part] = sparf.blend(out[part], sparf.mean(sums[contexts - 1], contexts), share)
        return found
