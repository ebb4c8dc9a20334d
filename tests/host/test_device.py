# SPDX-License-Identifier: Apache-2.0
"""Opening, describing, saving and timing out; what the driver refuses before a command is sent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import instinfer.host
from instinfer.abi.commands import AdminOpcode
from instinfer.abi.errors import ConfigError
from instinfer.abi.presets import presets
from instinfer.cosim.state import DriveState, StateError
from instinfer.cosim.transport.model import open_transport as open_model
from instinfer.host import CommandTimeout, Csd, Dense, ResourceError, TransportError, open_csd
from instinfer.host.transport.base import open_transport
from support import rng
from support.kv import UNCHECKED, assert_same_bits, exact_attention, random_half

SHAPE: dict[str, Any] = {"layers": 2, "kv_heads": 2, "query_heads": 4, "head_dim": 64, "max_tokens": 300}


def test_names_that_no_transport_knows() -> None:
    with pytest.raises(TransportError, match=r"'gpu' is installed \(device 'gpu:0'\); known kinds: model:"):
        open_transport("gpu:0")
    with pytest.raises(TransportError, match="no PCIe transport in this version: use model: or sim:"):
        open_transport("pcie:0000:65:00.0")
    for name in ("model", "", ":tiny"):
        with pytest.raises(TransportError, match="not of the form kind:argument"):
            open_transport(name)
    with pytest.raises(ConfigError, match=r"preset = 'huge' is not possible: one of .*product.*tiny"):
        open_csd("model:huge")
    with pytest.raises(ConfigError, match="chanels"):
        open_csd("model:tiny", overrides={"chanels": 3})


def test_configuration_is_checked_against_the_device() -> None:
    with pytest.raises(ConfigError, match="absent beside a complete config"):
        open_csd("model:tiny", config=presets()["tiny"], overrides={"channels": 1})
    transport = open_model("tiny")
    transport._config = presets()["product"]
    with pytest.raises(TransportError, match="generated with channels = 2, the configuration says 8"):
        Csd(transport)
    blank = open_model("tiny")
    blank.bar_read32 = lambda offset: 0xFFFF_FFFF  # type: ignore[method-assign]
    with pytest.raises(TransportError, match="0xffffffff.*no InstInfer device of this version"):
        Csd(blank)


def test_options(csd_kind: str) -> None:
    for options, message in (
            ({"queues": 0}, "queues = 0"), ({"queues": 9}, "1 to 2 I/O queues"),
            ({"queue_entries": 1}, "takes 2 to 64"), ({"queue_entries": 128}, "takes 2 to 64")):
        with pytest.raises(ValueError, match=message):
            open_csd(csd_kind, **options)


def test_shapes_that_a_device_cannot_hold(csd: Csd) -> None:
    for change, message in (
            ({"layers": 0}, "layers = 0"), ({"layers": 33}, "1 to 32 on this device"),
            ({"kv_heads": 17, "query_heads": 17}, "kv_heads = 17"), ({"max_tokens": 8193}, "1 to 8192"),
            ({"query_heads": 3}, "query_heads = 3 is not possible: 2 KV heads times 1 to 8"),
            ({"query_heads": 18}, "query_heads = 18"), ({"query_heads": 0}, "query_heads = 0"),
            ({"head_dim": 72}, r"one of \(64, 80, 96, 128\)"), ({"dtype": "fp8"}, "one of 'fp16', 'int8'")):
        with pytest.raises(ConfigError, match=message):
            csd.kv_cache(**{**SHAPE, **change})


def test_arrays_and_arguments(csd: Csd) -> None:
    sequence = csd.kv_cache(**SHAPE).new_sequence()
    k = np.zeros((5, 2, 64), np.float16)
    q = np.zeros((4, 64), np.float16)
    sequence.write(0, k, k)
    for name, arrays in (("k", (k.astype(np.float32), k)), ("v", (k, k[:4])), ("k", (k[:, :1], k)),
                         ("k", (None, k)), ("v", (k, "v"))):
        with pytest.raises(ValueError, match=rf"^{name} is .*float16 array of shape \(tokens, kv_heads"):
            sequence.write(0, *arrays)  # type: ignore[arg-type]
    for bad in (q[:3], q.astype(np.float64), q[None]):
        with pytest.raises(ValueError, match=r"^q is .*\(query_heads, head_dim\) = \(4, 64\)"):
            sequence.attend(0, bad)
    with pytest.raises(ValueError, match=r"^v1 is float16 \(1, 64\)"):
        sequence.attend(0, q, append=(k[0], k[0, :1]))
    with pytest.raises(ValueError, match="append first, then attend with a context"):
        sequence.attend(0, q, append=(k[0], k[0]), context=2)
    with pytest.raises(ValueError, match="context = 0"):
        sequence.attend(0, q, context=0)
    with pytest.raises(ValueError, match=r"softmax scale 1e\+30"):
        sequence.attend(0, q, scale=1e30)
    with pytest.raises(ValueError, match=r"policy 'sparf' is not available: .*give Dense\(\)"):
        sequence.attend(0, q, policy="sparf")  # type: ignore[arg-type]
    assert sequence.resident(0) == 5
    assert csd.counters()["errors"] == 0


def test_what_is_absent_is_not_exported() -> None:
    assert not hasattr(instinfer.host, "Quest")
    assert all(hasattr(instinfer.host, name) for name in instinfer.host.__all__)


def test_device_dram_runs_out(csd_kind: str) -> None:
    with open_csd(csd_kind, overrides=UNCHECKED) as csd:
        cache = csd.kv_cache(layers=32, kv_heads=16, query_heads=16, head_dim=csd.config.head_dim_max,
                             max_tokens=2048)
        cache.new_sequence()
        with pytest.raises(ResourceError, match="make the cache with fewer max_tokens"):
            [cache.new_sequence() for _ in range(csd.config.max_sequences)]
        held = cache.sequences
        assert held
        held[0].free()
        cache.new_sequence()


def test_generations_never_repeat_soon_and_are_never_zero(csd: Csd) -> None:
    assert [csd.next_generation() for _ in range(3)] == [1, 2, 3]
    csd._generation = 0xFFFE
    assert [csd.next_generation() for _ in range(3)] == [0xFFFF, 1, 2]


def test_timeout_of_a_device_that_does_not_answer() -> None:
    random = rng("time-out")
    with open_csd("model:tiny", timeout_us=50) as csd:
        sequence = csd.kv_cache(**SHAPE).new_sequence()
        k = random_half(random, (40, 2, 64))
        q = random_half(random, (4, 64))
        sequence.write(0, k, k)
        csd.transport.faults.hang()  # type: ignore[attr-defined]
        pending = sequence.attend_async(0, q)
        with pytest.raises(CommandTimeout, match=r"waited 50 us of device time for ATTEND \[.*Csd\.reset"):
            pending.result()
        with pytest.raises(CommandTimeout, match="waited 7 us"):
            pending.result(timeout_us=7)
        assert not pending.done
        with pytest.raises(CommandTimeout, match="WINDOW_SET"):
            csd.admin_command(AdminOpcode.WINDOW_SET, index=3)
        csd.transport.faults.hang(False)  # type: ignore[attr-defined]
        assert_same_bits(pending.result(), exact_attention(csd.config, q, k, k))  # late, but right
        csd.transport.faults.hang()  # type: ignore[attr-defined]
        with pytest.raises(CommandTimeout, match="a free queue entry"):
            [sequence.attend_async(0, q) for _ in range(64)]


def fill(csd: Csd, label: str) -> tuple[Any, ...]:
    """Two caches, sequences of different length, one freed."""
    random = rng(label)
    cache = csd.kv_cache(**SHAPE)
    wide = csd.kv_cache(layers=1, kv_heads=3, query_heads=3, head_dim=128, max_tokens=100)
    sequences = [cache.new_sequence(), cache.new_sequence(), wide.new_sequence()]
    contents = []
    for sequence, tokens, heads, dims in zip(sequences, (290, 40, 77), (2, 2, 3), (64, 64, 128), strict=True):
        k, v = (random_half(random, (tokens, heads, dims)) for _ in range(2))
        sequence.write(0, k, v)
        contents.append((k, v))
    sequences[1].free()
    return [sequences[0], sequences[2]], [contents[0], contents[2]]


def test_a_saved_drive_goes_on(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    sequences, contents = fill(csd, "saved")
    csd.save(tmp_path / "drive")
    random = rng("after")
    with open_csd(csd_kind, state=tmp_path / "drive") as again:
        cache, wide = again.caches
        assert cache.shape.query_heads == 4
        assert wide.shape.max_tokens == 100
        opened = [*cache.sequences, *wide.sequences]
        for sequence, restored, (k, v) in zip(sequences, opened, contents, strict=True):
            heads, dims = k.shape[1:]
            assert (restored.number, restored.generation) == (sequence.number, sequence.generation)
            assert restored.resident(0) == len(k)
            q = random_half(random, (heads * (2 if dims == 64 else 1), dims), 3)
            assert_same_bits(restored.attend(0, q), exact_attention(csd.config, q, k, v))
            room = (300 if dims == 64 else 100) - len(k)
            one, two = (random_half(random, (room, heads, dims)) for _ in range(2))
            restored.write(0, one[:-1], two[:-1])
            sequence.write(0, one[:-1], two[:-1])
            out = restored.attend(0, q, append=(one[-1], two[-1]), policy=Dense())
            assert_same_bits(out, sequence.attend(0, q, append=(one[-1], two[-1])))
            k, v = np.concatenate([k, one]), np.concatenate([v, two])
            assert_same_bits(out, exact_attention(csd.config, q, k, v))
            restored.write(1, k, v) if dims == 64 else restored.sync()
            restored.sync()  # raises where a page was programmed twice
        fresh = [device.caches[0].new_sequence() for device in (csd, again)]
        assert fresh[1].number == fresh[0].number
        assert fresh[1].generation not in {each.generation for each in opened}
        more = random_half(random, (100, 2, 64))
        fresh[1].write(1, more, more)
        opened[0].free()
        q = random_half(random, (4, 64), 3)
        assert_same_bits(fresh[1].attend(1, q), exact_attention(csd.config, q, more, more, layer=1))


def test_equal_histories_leave_equal_drives(csd_kind: str, tmp_path: Path) -> None:
    """What makes model and simulation comparable: same pages, same tables, same rows in DRAM."""
    for name, label in (("one", "same"), ("two", "same"), ("three", "other")):
        with open_csd(csd_kind, erased=True) as csd:
            fill(csd, label)
            csd.save(tmp_path / name)
    one, two, three = (DriveState.load(tmp_path / name) for name in ("one", "two", "three"))
    assert one.differences(two) == []
    assert any("NAND page" in text for text in one.differences(three))


def test_states_that_cannot_be_opened(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"state\.json is missing"):
        open_csd(csd_kind, state=tmp_path)
    csd.save(tmp_path)
    with pytest.raises(StateError, match="saved with channels = 2, the device has 1"):
        open_csd(csd_kind, state=tmp_path, overrides={"channels": 1})
    (tmp_path / "state.json").write_text('{"format": 99}')
    with pytest.raises(StateError, match="has format 99, this version reads 2"):
        open_csd(csd_kind, state=tmp_path)


def test_saved_drive_with_damage_is_noticed(csd: Csd, csd_kind: str, tmp_path: Path) -> None:
    fill(csd, "damage")
    csd.save(tmp_path)
    pages = dict(np.load(tmp_path / "nand.npz"))
    pages["data"][0, 5] ^= 1
    np.savez(tmp_path / "nand.npz", **pages)
    with open_csd(csd_kind, state=tmp_path) as again:
        q = random_half(rng("q"), (4, 64))
        with pytest.raises(instinfer.host.MediaError, match="GUARD"):
            again.caches[0].sequences[0].attend(0, q)


def test_counters(csd: Csd) -> None:
    sequences, _ = fill(csd, "counters")
    before = csd.counters()
    q = random_half(rng("q"), (4, 64))
    sequences[0].attend(0, q)
    after = {name: value - before[name] for name, value in csd.counters().items()}
    flash = 2 * ((290 - 16) // 32)
    assert after["stripes_sensed"] == flash
    assert after["slots_moved"] == flash * 8
    assert after["pages_sensed"] == flash * 2
    assert after["rows_wanted"] == 2 * 2 * 290
    assert after["tail_beats"] == 2 * 2 * (290 - 32 * (flash // 2)) * 16
    assert after["commands"] == 1
    assert after["stripes_programmed"] == 0
    assert before["stripes_programmed"] == 2 * 9 + 2 * 1 + 3 * 4
    assert before["errors"] == after["errors"] == 0
    before = csd.counters()
    sequences[0].attend(0, q, context=33)
    after = {name: value - before[name] for name, value in csd.counters().items()}
    assert after["stripes_sensed"] == 2 * 2
    assert after["pages_sensed"] == 2 * (2 + 1)  # a page without wanted slots is not sensed
    assert after["slots_moved"] == 2 * (8 + 2)
    assert after["tail_beats"] == 0
