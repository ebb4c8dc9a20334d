# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: borders, what is wanted, and a recorder behind the shipping driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from instinfer.abi.commands import AdminOpcode, Dtype, Opcode, Status
from instinfer.abi.layout import RowShape
from instinfer.abi.presets import presets
from instinfer.cosim.coverage import collect, crosses
from instinfer.cosim.coverage.page import cross_table
from instinfer.host import DeviceError, Sketch, open_csd
from instinfer.host.queue_pair import QueuePair
from instinfer.host.sketchers import TruncatedKey
from support import recorder, rng
from support.kv import random_half

TINY = presets()["tiny"]
SHAPE = RowShape(64)
SLOT, PAGE, STRIPE = SHAPE.rows_per_slot, SHAPE.tokens_per_page(TINY), SHAPE.tokens_per_stripe(TINY)


@pytest.mark.parametrize(("tokens", "found"), [
    (0, set()), (1, {"first token"}), (2, set()), (SLOT, {"slot"}),
    (SLOT + 1, {"slot +1"}), (PAGE - 1, {"page -1"}), (PAGE, {"page"}), (STRIPE + 1, {"stripe +1"}),
    (3 * STRIPE, {"stripe"}), (2 * STRIPE - 1, {"stripe -1"}), (SLOT + 3, set()),
])  # fmt: skip
def test_borders(tokens: int, found: set[str]) -> None:
    assert STRIPE > PAGE > SLOT > 4, "these cases need borders that stand apart"
    assert set(crosses.borders(TINY, SHAPE, tokens)) == found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a recorder that takes the model for RTL leaves its points."""
    monkeypatch.setenv(collect.VARIABLE, str(tmp_path))
    monkeypatch.setattr(QueuePair, "submit", getattr(QueuePair.submit, "__wrapped__", QueuePair.submit))
    monkeypatch.setattr(recorder, "IN_RTL", ("ModelTransport",))
    recorder.install()
    return tmp_path / recorder.FOLDER


def test_the_driver_is_recorded(folder: Path) -> None:
    random = rng("recorded")
    with open_csd("model:tiny", erased=True) as csd:
        cache = csd.kv_cache(layers=1, kv_heads=1, query_heads=1, head_dim=64, max_tokens=512, dtype="int8",
                             sketch=TruncatedKey(dims=16, bits=4))
        sequence = cache.new_sequence()
        rows = random_half(random, (2 * PAGE, 1, 64))  # int8 pages hold twice as much
        sequence.write(0, rows, rows)
        sequence.attend(0, rows[0], policy=Sketch(keep_tokens=8))
        csd.transport.faults.fail_host_memory(address=1, size=1)  # type: ignore[attr-defined]
        with pytest.raises(DeviceError):
            csd.io_command(Opcode.KV_WRITE, sequence=sequence.number, generation=sequence.generation,
                           token=3, tokens=1, heads=1, dtype=Dtype.INT8)
        csd.transport.faults.fail_host_memory(address=1, size=0)  # type: ignore[attr-defined]
        sequence.attend(0, rows[0])
    seen = crosses.read(folder)
    assert seen[crosses.TRANSFERS] == {("KV_WRITE", "page")}
    assert seen[crosses.ATTENTIONS] == {("ATTEND", "SKETCH", "page"), ("ATTEND", "DENSE", "page")}
    assert seen[crosses.FAULTS] == {("fail_host_memory", "KV_WRITE", "POSITION")}
    assert {("KV_WRITE", "SUCCESS"), ("KV_WRITE", "POSITION"), ("SEQ_CREATE", "SUCCESS")} <= (
        seen[crosses.COMMANDS])
    holes = cross_table(seen)
    assert "  not seen: KV_WRITE x CAPACITY" in holes
    assert "  not seen: KV_WRITE x POSITION" not in holes


def test_a_model_is_not_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "IN_RTL", ("SimTransport",))
    with open_csd("model:tiny", erased=True):
        pass
    assert not folder.exists()


def test_sequences_of_unknown_caches_have_no_borders() -> None:
    """A drive that was opened from a saved state: its caches were configured in another process."""
    observer = crosses.Observer(TINY)
    create = {"index": 2, "cdw10": 1}
    assert list(observer.ended(True, AdminOpcode.SEQ_CREATE, create, Status.SUCCESS)) == [
        (crosses.COMMANDS, ("SEQ_CREATE", "SUCCESS"))]
    for number in (2, 3):
        write = {"sequence": number, "tokens": PAGE}
        assert list(observer.ended(False, Opcode.KV_WRITE, write, Status.SUCCESS)) == [
            (crosses.COMMANDS, ("KV_WRITE", "SUCCESS"))]
    assert list(observer.ended(True, 0x7F, {}, Status.BAD_OPCODE)) == [
        (crosses.COMMANDS, (crosses.OTHER, "BAD_OPCODE"))]
