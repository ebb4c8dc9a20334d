# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: which combinations the tests over the RTL must show, and what an `Observer` saw.

A point is a tuple of words: ``("KV_WRITE", "POSITION")`` of the cross "command x status". `WANTED` lists the
points of each cross; what a suite shows beyond them is kept and counts for nothing.

Borders are of tokens, counted from a sequence's first: the end of an attention's context, of what was written
or read back. ``page +1`` is one token past a page; a border of a stripe is none of a page or slot.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from instinfer.abi.commands import AdminOpcode, Dtype, Opcode, PolicyKind, Status
from instinfer.abi.config import EngineConfig
from instinfer.abi.layout import RowShape
from instinfer.abi.tables import CacheWord

Point = tuple[str, ...]
COMMANDS, ATTENTIONS, TRANSFERS, FAULTS = (
    "command x status",
    "attention x policy x border",
    "transfer x border",
    "fault x command x status",
)
OTHER = "another opcode"
UNITS = ("slot", "page", "stripe")
SIDES = {-1: "-1", 0: "", 1: "+1"}
BORDERS = ("first token", *(f"{unit} {side}".strip() for unit in UNITS for side in SIDES.values()))

_SEQUENCE = ("SUCCESS", "BAD_FIELD", "NO_SEQUENCE", "STALE_GENERATION")
_LAYER = (*_SEQUENCE, "DTYPE", "RANGE", "PRP_OFFSET", "WINDOW", "TRANSFER_ERROR")
_WRITE = (*_LAYER, "POSITION", "CAPACITY", "NOT_FINITE", "SCALE", "WRITE_FAULT")
_STORED = ("GUARD", "REFERENCE_TAG", "UNRECOVERED_READ")
_STATUSES: Mapping[str, tuple[str, ...]] = {
    "KV_WRITE": _WRITE,
    "KV_APPEND": _WRITE,
    "ATTEND": (*_LAYER, *_STORED, "CONTEXT", "POLICY", "NOT_FINITE", "SCALE", "INTERNAL"),
    "APPEND_ATTEND": (*_WRITE, *_STORED, "POLICY"),
    "KV_READ": (*_LAYER, *_STORED, "CONTEXT"),
    "KV_FREE": _SEQUENCE,
    "KV_SYNC": (*_SEQUENCE, "WRITE_FAULT"),
    "CREATE_SQ": ("SUCCESS", "BAD_FIELD", "QUEUE_ID", "QUEUE_SIZE", "PRP_OFFSET"),
    "CREATE_CQ": ("SUCCESS", "BAD_FIELD", "QUEUE_ID", "QUEUE_SIZE", "PRP_OFFSET"),
    "KV_CONFIG": ("SUCCESS", "BAD_FIELD", "DTYPE", "BUSY"),
    "SEQ_CREATE": ("SUCCESS", "BAD_FIELD", "BUSY"),
    "PAGE_PEEK": ("SUCCESS", "BAD_FIELD", "UNRECOVERED_READ"),
    **dict.fromkeys(("POLICY_SET", "WINDOW_SET", "FORMAT", "TABLE_READ", "TABLE_WRITE"),
                    ("SUCCESS", "BAD_FIELD")),
    OTHER: ("BAD_OPCODE",),
}  # fmt: skip
"""What a command may end with (docs/architecture.md)."""

_UNDER_FAULT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "flip_bit": dict.fromkeys(("ATTEND", "APPEND_ATTEND", "KV_READ"), ("GUARD",)),
    "fail_program": {"KV_WRITE": ("SUCCESS", "WRITE_FAULT"), "KV_SYNC": ("SUCCESS", "WRITE_FAULT")},
    "bad_block": {"KV_SYNC": ("SUCCESS",), "ATTEND": ("SUCCESS",)},
    "fail_erase": {"KV_SYNC": ("SUCCESS",)},
    "stick_die": {"ATTEND": ("UNRECOVERED_READ",)},
    "fail_host_memory": dict.fromkeys(
        ("KV_WRITE", "KV_APPEND", "ATTEND", "APPEND_ATTEND", "KV_READ"), ("TRANSFER_ERROR",)
    ),
}
FAULT_KINDS = tuple(_UNDER_FAULT)
"""Methods of `instinfer.cosim.transport.Faults`."""

WANTED: Mapping[str, frozenset[Point]] = {
    COMMANDS: frozenset((name, status) for name, ends in _STATUSES.items() for status in ends),
    ATTENTIONS: frozenset(
        (name, policy.name, border)
        for name in ("ATTEND", "APPEND_ATTEND") for policy in PolicyKind for border in BORDERS
    ),
    TRANSFERS: frozenset(
        (name, border) for name in ("KV_WRITE", "KV_APPEND", "KV_READ") for border in BORDERS
    ),
    FAULTS: frozenset(
        (kind, name, status)
        for kind, commands in _UNDER_FAULT.items() for name, ends in commands.items() for status in ends
    ),
}  # fmt: skip


def borders(config: EngineConfig, shape: RowShape, tokens: int) -> Iterator[str]:
    """The borders that `tokens` tokens end at or beside."""
    if tokens == 1:
        yield BORDERS[0]
    sizes = (shape.rows_per_slot, shape.tokens_per_page(config), shape.tokens_per_stripe(config))
    for offset, side in SIDES.items():
        at = tokens - offset
        unit = next((unit for unit, size in zip(UNITS[::-1], sizes[::-1], strict=True) if at % size == 0), "")
        if at > 0 and tokens > 0 and unit:
            yield f"{unit} {side}".strip()


class Observer:
    """Follows the commands of one device; `ended` tells what a completed one showed."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._policies: dict[int, PolicyKind] = {}
        self._caches: dict[int, RowShape] = {}
        self._sequences: dict[int, RowShape | None] = {}
        self._resident: dict[tuple[int, int], int] = {}
        self.armed: set[str] = set()
        """Kinds of faults that are in the device now."""

    def ended(
        self, admin: bool, opcode: int, fields: Mapping[str, int], status: Status
    ) -> Iterator[tuple[str, Point]]:
        """(cross, point) of a completed command."""
        kinds: type[Opcode] | type[AdminOpcode] = AdminOpcode if admin else Opcode
        name = kinds(opcode).name if opcode in set(kinds) else OTHER
        yield COMMANDS, (name, status.name)
        for kind in self.armed:
            yield FAULTS, (kind, name, status.name)
        if status is not Status.SUCCESS:
            return
        got = {key: fields.get(key, 0) for key in ("index", "sequence", "layer", "token", "tokens", "policy")}
        if admin:
            self._configured(opcode, fields)
            return
        shape = self._sequences.get(got["sequence"])
        if shape is None:  # of a saved drive, whose cache nobody configured before our eyes
            return
        place = got["sequence"], got["layer"]
        if opcode in (Opcode.KV_WRITE, Opcode.KV_APPEND, Opcode.APPEND_ATTEND):
            self._resident[place] = got["token"] + got["tokens"]
        if opcode in (Opcode.KV_WRITE, Opcode.KV_APPEND, Opcode.KV_READ):
            for border in borders(self._config, shape, got["token"] + got["tokens"]):
                yield TRANSFERS, (name, border)
        if opcode in (Opcode.ATTEND, Opcode.APPEND_ATTEND):
            context = got["token"] if opcode == Opcode.ATTEND else got["token"] + 1
            policy = self._policies.get(got["policy"], PolicyKind.DENSE)
            for border in borders(self._config, shape, context or self._resident.get(place, 0)):
                yield ATTENTIONS, (name, policy.name, border)

    def _configured(self, opcode: int, fields: Mapping[str, int]) -> None:
        index = fields.get("index", 0)
        if opcode == AdminOpcode.POLICY_SET:
            self._policies[index] = PolicyKind(fields.get("cdw10", 0))
        elif opcode == AdminOpcode.KV_CONFIG:
            word = CacheWord(
                layers=fields["cdw10"] & 0xFFFF,
                kv_heads=fields["cdw10"] >> 16,
                queries=fields["cdw11"] & 0xFFFF,
                head_dim=fields["cdw11"] >> 16,
                max_tokens=fields["cdw12"],
                dtype=Dtype(fields.get("cdw13", 0) & 0xFF),
            )
            self._caches[index] = word.shape
        elif opcode == AdminOpcode.SEQ_CREATE:
            self._sequences[index] = self._caches.get(fields.get("cdw10", 0))


def read(folder: Path) -> dict[str, set[Point]]:
    """The points that recorders left in `folder`, by cross; a line ``[cross, [word, ...]]`` each."""
    seen: dict[str, set[Point]] = {cross: set() for cross in WANTED}
    for path in sorted(folder.glob("*.jsonl")):
        for cross, point in map(json.loads, path.read_text().splitlines()):
            seen.setdefault(cross, set()).add(tuple(point))
    return seen


def holes(cross: str, seen: Iterable[Point]) -> list[Point]:
    """Wanted points of a cross that were not seen."""
    return sorted(WANTED[cross] - set(seen))
