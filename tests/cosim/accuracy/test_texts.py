# SPDX-License-Identifier: Apache-2.0
"""Texts and their passages."""

import sys
from pathlib import Path

import pytest

from instinfer.abi.errors import ConfigError
from instinfer.cosim.accuracy.texts import (
    COPY_TOKENS,
    TEXTS,
    Place,
    Text,
    TextError,
    _Words,
    passage,
    places,
    text_of_file,
)
from instinfer.host.integrations.smollm2 import load

LIMIT = 8192
WORDS = "".join(f"The {number}th of many sentences says {number * number % 97}. " for number in range(3000))


@pytest.fixture(scope="module")
def tokenizer():
    return load()[1]


def test_natural(tokenizer) -> None:
    place = Place(kind="natural", number=2, offset=100)
    found = passage(tokenizer, "words", WORDS, place, context=500, positions=40, limit=LIMIT)
    assert (found.name, found.first, found.scored, len(found.tokens)) == ("words natural 2", 500, 40, 541)
    assert WORDS[100:].startswith(tokenizer.decode(list(found.tokens)))


def test_copy(tokenizer) -> None:
    place = Place(kind="copy", number=1, offset=1000, filler=60000)
    found = passage(tokenizer, "words", WORDS, place, context=1000, positions=64, limit=LIMIT)
    assert (found.first, found.scored, len(found.tokens)) == (1000, 32, 1033)
    other = found.tokens[COPY_TOKENS:-COPY_TOKENS]
    assert found.tokens[:COPY_TOKENS] == found.tokens[-COPY_TOKENS:]
    assert WORDS[60000:].startswith(tokenizer.decode(list(other)))


def test_at_the_models_limit(tokenizer) -> None:
    """Positions behind a context that fills the model are the last ones before its end."""
    place = Place(kind="natural", number=1, offset=0)
    found = passage(tokenizer, "words", WORDS, place, context=LIMIT, positions=64, limit=LIMIT)
    assert found.first + found.scored == LIMIT
    assert len(found.tokens) == LIMIT + 1, "the last one is only predicted"


def test_digest_tells_passages_apart(tokenizer) -> None:
    place = Place(kind="natural", number=1, offset=0)
    one, two, three = (
        passage(tokenizer, "words", WORDS, place, context=context, positions=positions, limit=LIMIT)
        for context, positions in ((200, 40), (201, 40), (200, 41)))
    assert len({one.digest, two.digest, three.digest}) == 3


@pytest.mark.parametrize(("kind", "numbers", "message"), [
    ("natural", {"context": 63, "positions": 8}, "--context = 63"),
    ("natural", {"context": 9000, "positions": 8}, "--context = 9000 is not possible: 64 to 8192"),
    ("natural", {"context": 100, "positions": 100}, "--positions = 100"),
    ("copy", {"context": 2000, "positions": 600}, "--positions = 600 is not possible: at most 598"),
    ("copy", {"context": 700, "positions": 64}, "--context = 700 is not possible: at least 900"),
])
def test_bad_numbers(tokenizer, kind, numbers, message) -> None:
    with pytest.raises(ConfigError) as fault:
        passage(tokenizer, "words", WORDS, Place(kind=kind, number=1, offset=0), limit=LIMIT, **numbers)
    assert message in str(fault.value)


def test_a_text_that_ends_too_early(tokenizer) -> None:
    with pytest.raises(TextError, match="has .* tokens from character 50000 on, a passage needs 5041"):
        passage(tokenizer, "words", WORDS[:60000], Place(kind="natural", number=1, offset=50000),
                context=5000, positions=40, limit=LIMIT)


def test_another_version_is_refused() -> None:
    text = Text(name="t", read=lambda: "changed", sha256=("0" * 64,), cure="take the old one")
    with pytest.raises(TextError, match="SHA-256 .*, its passages belong to 0{64}: take the old one"):
        text.load()


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Grüße", encoding="utf-8")
    assert text_of_file(tmp_path / "a.txt").load() == "Grüße"
    with pytest.raises(TextError, match="text b.txt cannot be read"):
        text_of_file(tmp_path / "b.txt").load()


def test_fixed_places() -> None:
    """Eight places that do not run into each other's scored tokens."""
    for name in TEXTS:
        found = places(name, 500_000)
        assert [place.kind for place in found] == 4 * ["natural"] + 4 * ["copy"]
        assert [place.number for place in found] == 2 * [1, 2, 3, 4]
        assert all(abs(place.offset - place.filler) >= 50_000 for place in found if place.kind == "copy")


def test_topics_has_room_for_8k(tokenizer) -> None:
    if sys.version_info[:2] != (3, 11):
        with pytest.raises(TextError, match="topics has SHA-256"):
            TEXTS["topics"].load()
        return
    text = TEXTS["topics"].load()
    last = max(places("topics", len(text)), key=lambda place: max(place.offset, place.filler))
    assert passage(tokenizer, "topics", text, last, context=LIMIT, positions=512, limit=LIMIT).scored == 256


def test_html_is_read_without_head_and_scripts() -> None:
    words = _Words()
    words.feed("<head><title>no</title></head><body><p>Yes &amp;\n  more<script>no()</script></p></body>")
    assert words.lines == ["Yes & more"]
