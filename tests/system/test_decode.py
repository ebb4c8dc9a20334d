# SPDX-License-Identifier: Apache-2.0
"""A language model decodes over the RTL: each layer consumes what the hardware read from flash alone.

SmolLM2-135M, all 30 layers, on an engine with room for its 90 heads and the tuple check off: what flash holds
reaches the softmax as it is, and still every bit must be the model's.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cosim.test_decode import PROMPT as SHORT
from instinfer.abi.commands import Table
from instinfer.abi.layout import superblock_place
from instinfer.cli import main
from instinfer.cosim.decode import decode
from instinfer.host import Csd, Dense, Sequence, open_csd
from instinfer.host.integrations.attention import DeviceAttention
from instinfer.host.integrations.smollm2 import SmolLM2, Tokenizer, load
from support.kv import UNCHECKED

SETTINGS = [word for name, value in UNCHECKED.items() for word in ("--set", f"{name}={str(value).lower()}")]
PROMPT = "The capital of Sweden is Stockholm. " + SHORT
"""Long enough that every head's first stripe is read from flash."""
ANSWER = " Oslo."


@pytest.fixture(scope="module")
def network() -> tuple[SmolLM2, Tokenizer]:
    return load()


def instinfer(*arguments: str) -> Any:
    result = CliRunner().invoke(main.app, [*arguments, *SETTINGS, "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_text_and_bits(tmp_path: Path) -> None:
    """`instinfer decode`: the float reference's text, each of 30 layers bit for bit the model's."""
    (tmp_path / "prompt.txt").write_text(PROMPT, encoding="utf-8")
    found = instinfer("decode", "--model", "smollm2", "--prompt-file", str(tmp_path / "prompt.txt"), "--raw",
                      "--tokens", "2", "--device", "sim:tiny")
    assert found["text"] == found["reference_text"] == ANSWER
    assert found["bit_exact"] is True
    assert found["values_compared"] == 2 * 30 * 9 * 64
    assert found["max_relative_error"] < 2**-10
    assert len(found["tokens"]) == len(found["step_cycles"]) == len(found["utilisation"]) == 2
    assert min(found["stripes_sensed"]) >= 90, "every head was read from flash"
    assert min(found["step_cycles"]) > 30 * 1000
    assert all(0 < share < 1 for share in found["utilisation"])


@pytest.mark.parametrize("keeps", [(16,), pytest.param((16, 128), marks=pytest.mark.soak)])
def test_a_sketch_policy_decodes(tmp_path: Path, keeps: tuple[int, ...]) -> None:
    """`instinfer decode --policy`: rows chosen by sketches, every layer bit for bit the model's."""
    (tmp_path / "prompt.txt").write_text(PROMPT, encoding="utf-8")
    command = ("decode", "--prompt-file", str(tmp_path / "prompt.txt"), "--raw", "--tokens", "1", "--device",
               "sim:tiny", "--policy")
    decodes = [instinfer(*command, f"sketch:keep={keep},window=8,sinks=2,dtype=fp16") for keep in keeps]
    for keep, found in zip(keeps, decodes, strict=True):
        assert found["bit_exact"] is True
        assert found["values_compared"] == 30 * 9 * 64
        assert f"n=8, {keep} tokens, fp16" in found["policy"]
        assert (found["max_relative_error"] < 2**-10) == (keep == 128), "few tokens lack rows, all do not"
    moved = [found["bytes_moved"][0] for found in decodes]
    assert moved == sorted(set(moved)), "more tokens are more bytes"
    assert moved[0] > 0


def test_zeroed_output_changes_the_text(network: tuple[SmolLM2, Tokenizer]) -> None:
    model, tokenizer = network
    result = decode(model, tokenizer, tokenizer.encode(PROMPT), 1, device="sim:tiny", check_model=False,
                    device_options={"overrides": UNCHECKED}, corrupt=np.zeros_like)
    assert ANSWER.startswith(result.reference_text)
    assert result.text != result.reference_text


Run = Callable[..., np.ndarray]


@pytest.fixture
def logits(network: tuple[SmolLM2, Tokenizer]) -> Iterator[Callable[[str], tuple[Csd, Run]]]:
    """Opens a device; its `Run` prefills a new sequence and gives the logits of the prompt's last token."""
    model, tokenizer = network
    *prompt, last = tokenizer.encode(PROMPT)
    opened = []

    def prepare(kind: str) -> tuple[Csd, Run]:
        csd = open_csd(kind, erased=True, overrides=UNCHECKED)
        opened.append(csd)
        shape = model.shape
        cache = csd.kv_cache(layers=shape.layers, kv_heads=shape.kv_heads, query_heads=shape.query_heads,
                             head_dim=shape.head_dim, max_tokens=128)

        def run(damage: Callable[[Csd, Sequence], None] | None = None) -> np.ndarray:
            sequence = cache.new_sequence()
            model.prefill(prompt, sequence.write)
            sequence.sync()
            if damage is not None:
                damage(csd, sequence)
            found = model.decode(last, len(prompt), DeviceAttention(sequence, Dense()))
            sequence.free()
            return found

        return csd, run

    yield prepare
    for csd in opened:
        csd.close()


def flip_a_value(csd: Csd, sequence: Sequence) -> None:
    """Bit 14 of V of token 0, dim 0, of layer 0's first head: the sequence's first page."""
    index = sequence.number * csd.config.max_superblocks_per_sequence
    die, block = superblock_place(csd.config, *csd.read_table(Table.SUPERBLOCK_LIST, [index]), 0)
    faults: Any = csd.transport.faults  # type: ignore[attr-defined]
    faults.flip_bit(channel=0, die=die, plane=0, block=block, page=0, byte=csd.config.slot_bytes + 1, bit=6)


def test_one_flipped_bit_of_v_changes_the_logits(
        logits: Callable[[str], tuple[Csd, Run]], network: tuple[SmolLM2, Tokenizer]) -> None:
    _, run = logits("sim:tiny")
    good, again, damaged = run(), run(), run(flip_a_value)
    np.testing.assert_array_equal(good, again)
    assert network[1].decode([int(np.argmax(good))]) == " Oslo"
    changed = np.count_nonzero(damaged != good)
    print(f"{changed} of {good.size} logits changed, the largest by {np.abs(damaged - good).max():.3g}")
    assert changed > good.size // 2
    _, model_run = logits("model:tiny")
    np.testing.assert_array_equal(damaged, model_run(flip_a_value))


@pytest.mark.soak
def test_demo_leaves_its_report(tmp_path: Path) -> None:
    """`instinfer demo`, two tokens: 256 tokens of prompt or more, text, errors, a picture."""
    found = instinfer("demo", "--preset", "tiny", "--tokens", "2", "--policy-tokens", "1",
                      "-o", str(tmp_path))
    assert found["prompt_tokens"] >= 256
    assert found["bit_exact"] is True
    assert found["text"] == found["reference_text"] != ""
    assert found["max_relative_error"] < 2**-10
    (beside,) = found["beside"]
    assert beside["bit_exact"] is True
    assert beside["policy"].startswith("sketch")
    assert 0 < beside["bytes_moved"][0] < found["bytes_moved"][0] / 2, "int8, and few of the rows"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert beside["policy"] in page
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "timeline.json").read_text(encoding="utf-8"))["traceEvents"]
