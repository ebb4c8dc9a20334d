# SPDX-License-Identifier: Apache-2.0
"""The choice among the groups of one head (``selection.log_sums``, ``group_keys``, ``top``)."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from instinfer.abi.config import EngineConfig
from instinfer.abi.errors import require

from ..signatures import MemoryReadPort, MemoryWritePort
from .bins import BINS, KeyHistogram
from .choicesteps import ChoiceSteps
from .emission import ChoiceEmitter
from .keys import GroupKey, QuerySums, TermArray
from .ports import choice_beat, choice_job, group_beat, passes_max
from .scorestore import ScoreStore
from .shares import QueryShares
from .sparfports import share_report

_EMIT = ScoreStore.latency + ChoiceEmitter.latency
_LINES_CYCLES = 16 * 13
"""To send all lines that are begun."""
_SPILL_CYCLES = 13
"""From the start of a sweep to its request, and from the answer to the first row."""


class GroupChooser(wiring.Component):
    """Takes the group maxima of one head in any order and says which groups are chosen.

    Parameters
    ----------
    config : the engine's configuration
    lanes : groups that are looked at per cycle: 2, 4 or 8

    Members
    -------
    jobs : what to choose from; taken when idle
    maxima : each group of each pass once
    wanted : head slots whose maxima are taken now; those of others stay in front of ``maxima``, so keep them
        out of its way
    choice : ``lanes`` groups a beat
    share, shared : for a job with ``shares``, behind its choice: the share of each query; then, with the head
        slot of the job, a pulse
    busy : a job is under way
    source, target : device DRAM, for heads of more groups than the score memory holds
    spilled : pulse, a word went there
    fault : pulse, DRAM refused something: choice and shares of this head slot have no meaning. Before the
        choice, or ``shared``, ends

    A group that is no candidate counts in the sums and is never chosen. ``keep`` = 0 chooses none, ``keep``
    at or above the number of candidates all, both without looking at the scores.

    Time: one cycle per group and pass while they come; then ``cycles`` at most until the last beat of the
    choice is offered, and ``share_cycles`` where shares are wanted. Back-pressure: no job and no maxima are
    taken from the last maximum to the last beat of the choice, or to ``shared``; the choice's beats wait in a
    queue of 16, then the emission pauses.
    """

    def __init__(self, *, config: EngineConfig, lanes: int = 4) -> None:
        require(lanes in (2, 4, 8), "lanes", lanes, "2, 4 or 8", "Four keep up with eight channels.")
        self._config, self._lanes = config, lanes
        self._passes = passes_max(config)
        self._rows = -(-config.max_context // lanes)
        self._terms = TermArray(lanes=lanes, queries=config.queries, passes=self._passes)
        self._sums = QuerySums(
            lanes=lanes, queries=config.queries, groups=self._rows * lanes, passes=self._passes)
        self._shares = QueryShares(lanes=lanes, queries=config.queries, groups=self._rows * lanes)
        self._keys = [GroupKey(queries=config.queries, passes=self._passes) for _ in range(lanes)]
        self._histogram = KeyHistogram(lanes=lanes, rows=self._rows)
        self._store = ScoreStore(config=config, lanes=lanes, key_latency=(
            ScoreStore.latency + self._terms.latency + self._keys[0].latency))
        super().__init__({
            "jobs": In(stream.Signature(choice_job(config))),
            "maxima": In(stream.Signature(group_beat(config))), "wanted": Out(config.head_slots),
            "choice": Out(stream.Signature(choice_beat(lanes))),
            "share": Out(share_report(config)), "shared": Out(wiring.Signature({
                "valid": Out(1), "head_slot": Out(range(config.head_slots))})),
            "busy": Out(1), "spilled": Out(1), "fault": Out(wiring.Signature({
                "valid": Out(1), "head_slot": Out(range(config.head_slots))})),
            "source": Out(MemoryReadPort()), "target": Out(MemoryWritePort()),
        })

    def share_cycles(self, groups: int, passes: int = 1, *, dram: int = 100) -> int:
        """Most cycles from the last beat of the choice's emission to ``shared``: for each pass a sweep over
        the words of all passes, and its divisions."""
        rows = -(-groups // self._lanes)
        others = ScoreStore.latency + self._terms.latency + self._shares.latency + 7
        beyond = self._rows_beyond(rows, passes)
        slow = passes * beyond * (self._store.cycles_per_row - 1) + (dram + _SPILL_CYCLES if beyond else 0)
        return passes * (passes * rows + others + slow + self._config.queries * QueryShares.cycles)

    def cycles(self, groups: int, passes: int = 1, *, dram: int = 100) -> int:
        """Most cycles from the last maximum to the last beat of the choice, when that is not held up.

        Two sweeps over the words of all passes (sums, keys), two over the keys (histogram, emission):
        (2 * passes + 2) / lanes per group; and at most twice 512 bins. The bins are zeroed in the 1024 cycles
        after they have been searched (and after reset); a job that needs them before waits for that.

        Words in DRAM take `ScoreStore.cycles_per_row` for each row and pass, and each sweep, and each time
        that DRAM must have everything, a round trip more: ``dram`` cycles at most, and a beat in every cycle.
        """
        rows = -(-groups // self._lanes)
        latency = ScoreStore.latency + self._terms.latency
        sums = latency + self._sums.latency + passes * self._config.queries + self._sums.settle + 4
        keys = latency + self._keys[0].latency + self._histogram.settle + 4
        scans = 2 * (BINS + self._histogram.scan_latency + 3)
        others = ScoreStore.latency + _EMIT + 13
        beyond = self._rows_beyond(rows, passes)
        waits = 4 * (dram + _SPILL_CYCLES) + 2 * (dram + _LINES_CYCLES + 2) if beyond else 0
        slow = 2 * passes * beyond * (self._store.cycles_per_row - 1)
        starts = 8 + 3  # of the sweeps; behind the last maximum, the last logarithm and the threshold
        return 2 * passes * rows + sums + keys + scans + 2 * rows + starts + others + waits + slow

    def _rows_beyond(self, rows: int, passes: int) -> int:
        """Rows in DRAM."""
        return max(0, rows - (self._config.score_groups >> (passes - 1).bit_length()) // self._lanes)

    def elaborate(self, platform: object) -> Module:
        return ChoiceSteps(self, self._config, self._lanes, self._rows, self._passes, self._store,
                           self._terms, self._sums, self._keys, self._histogram, self._shares).module
