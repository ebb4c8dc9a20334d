# SPDX-License-Identifier: Apache-2.0
"""What is scored: texts, and the fixed passages of them.

A *natural* passage scores text after its own beginning. A *copy* passage is 300 tokens, other text, then the
300 tokens again, and scores the end of the second copy: what a window cannot see decides it.
"""

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from instinfer.abi.errors import require
from instinfer.host.integrations.smollm2 import Tokenizer

Kind = Literal["natural", "copy"]
COPY_TOKENS = 300
_CHARACTERS_PER_TOKEN = 12
"""More than any text needs."""


class TextError(RuntimeError):
    """A text is missing or is not the pinned one; the message names the cure."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text by name, with the SHA-256 of the versions that its passages belong to (none: any)."""

    name: str
    read: Callable[[], str]
    sha256: tuple[str, ...]
    cure: str

    def load(self) -> str:
        """The text.

        Raises:
            TextError: it is missing or another version.
        """
        try:
            found = self.read()
        except (OSError, ImportError, UnicodeDecodeError) as fault:
            raise TextError(f"text {self.name} cannot be read ({fault}): {self.cure}") from fault
        digest = hashlib.sha256(found.encode()).hexdigest()
        if self.sha256 and digest not in self.sha256:
            raise TextError(f"text {self.name} has SHA-256 {digest}, its passages belong to "
                            f"{' or '.join(self.sha256)}: {self.cure}")
        return found


def _topics() -> str:
    from pydoc_data.topics import topics

    return "".join(topics[name] for name in sorted(topics))


def _reference() -> str:
    path = Path("/usr/share/debian-reference/debian-reference.en.txt.gz")
    return gzip.decompress(path.read_bytes()).decode()


class _Words(HTMLParser):
    """The text of a page without its head and scripts, in lines."""

    _SKIPPED = ("head", "script", "style")

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag in self._SKIPPED

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag in self._SKIPPED

    def handle_data(self, data: str) -> None:
        line = " ".join(data.split())
        if line and not self._depth:
            self.lines.append(line)


def _handbook() -> str:
    folder = Path("/usr/share/doc/debian-handbook/html/en-US")
    words = _Words()
    for page in sorted(folder.glob("*.html")):
        words.feed(page.read_text(encoding="utf-8"))
    if not words.lines:
        raise FileNotFoundError(f"no page in {folder}")
    return "\n".join(words.lines)


_OTHER_TEXTS = "leave it out, or measure another text with --text-file"
TEXTS = {text.name: text for text in (
    Text(name="topics", read=_topics,
         cure=f"it is pydoc_data.topics of Python 3.11.7 or 3.11.2; {_OTHER_TEXTS}",
         sha256=("37d06970fc926e60c16dff401e441b84752446a36b6b64516c229fdec77e992c",
                 "cec54c2700dcedd6196a9a5ea13103824975d5029b93f7e09c805e9ae1838772")),
    Text(name="debian-reference", read=_reference,
         cure=f"install debian-reference-en 2.100 (Debian 12); {_OTHER_TEXTS}",
         sha256=("fc8dce7f9d076f78432b74cc91555017c855d19d5bbc5b8e7e3ad472f00ec6cf",)),
    Text(name="debian-handbook", read=_handbook,
         cure=f"install debian-handbook 11.20220922 (Debian 12); {_OTHER_TEXTS}",
         sha256=("6c706e5f288b78a3828afd8c7153904d60e8e214ac5a1e93bdd17d5717fbe899",)),
)}


def text_of_file(path: Path) -> Text:
    """Any UTF-8 text file."""
    return Text(name=path.name, read=lambda: path.read_text(encoding="utf-8"), sha256=(),
                cure="check --text-file")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a passage begins in its text, in characters; ``filler``: where a copy's other text begins."""

    kind: Kind
    number: int
    offset: int
    filler: int = 0


TOPICS_PLACES = (
    Place(kind="natural", number=1, offset=20_000), Place(kind="natural", number=2, offset=130_000),
    Place(kind="natural", number=3, offset=240_000), Place(kind="natural", number=4, offset=350_000),
    Place(kind="copy", number=1, offset=70_000, filler=180_000),
    Place(kind="copy", number=2, offset=180_000, filler=290_000),
    Place(kind="copy", number=3, offset=290_000, filler=400_000),
    Place(kind="copy", number=4, offset=400_000, filler=70_000),
)


def places(text: str, length: int) -> tuple[Place, ...]:
    """Fixed places of `topics`; of another text, places at equal distances."""
    if text == "topics":
        return TOPICS_PLACES
    natural = tuple(Place(kind="natural", number=index + 1, offset=length * (2 * index) // 10)
                    for index in range(4))
    return natural + tuple(
        Place(kind="copy", number=index + 1, offset=length * (2 * index + 1) // 10,
              filler=length * ((2 * index + 3) % 7) // 10) for index in range(4))


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Tokens of which the last ``scored`` are predicted; those before the first prediction are prefilled."""

    text: str
    kind: Kind
    number: int
    tokens: tuple[int, ...]
    scored: int

    @property
    def name(self) -> str:
        return f"{self.text} {self.kind} {self.number}"

    @property
    def first(self) -> int:
        """Tokens that are prefilled; position i of the scored ones sees the tokens [0, first + i]."""
        return len(self.tokens) - self.scored - 1

    @property
    def digest(self) -> str:
        content = f"{self.scored} {' '.join(map(str, self.tokens))}"
        return hashlib.sha256(content.encode()).hexdigest()


def passage(tokenizer: Tokenizer, name: str, text: str, place: Place, *, context: int, positions: int,
            limit: int) -> Passage:
    """The passage at a place of a text.

    Args:
        context: tokens before the first scored position; where the model's ``limit`` leaves no room behind
            them, the scored positions are the last ones before it.
        positions: to score; a copy scores half as many.

    Raises:
        ConfigError: numbers that do not fit the model or the copy; TextError: the text ends too early.
    """
    require(64 <= context <= limit, "--context", context, f"64 to {limit} (this model)", "Change it.")
    scored = positions if place.kind == "natural" else positions // 2
    require(1 <= scored < context, "--positions", positions, f"2 to {context - 1} with this context",
            "Choose fewer.")
    total = min(context + scored, limit) + 1
    if place.kind == "natural":
        tokens = _tokens(tokenizer, name, text, place.offset, total)
    else:
        require(scored < COPY_TOKENS, "--positions", positions, f"at most {2 * COPY_TOKENS - 2} with copies",
                "Choose fewer, or --passages natural.")
        require(total >= 3 * COPY_TOKENS, "--context", context, f"at least {3 * COPY_TOKENS} with copies",
                "Choose a longer one, or --passages natural.")
        copied = _tokens(tokenizer, name, text, place.offset, COPY_TOKENS)
        tokens = copied + _tokens(tokenizer, name, text, place.filler, total - 2 * COPY_TOKENS) + copied
    return Passage(text=name, kind=place.kind, number=place.number, tokens=tuple(tokens), scored=scored)


def _tokens(tokenizer: Tokenizer, name: str, text: str, offset: int, count: int) -> list[int]:
    found = tokenizer.encode(text[offset:offset + _CHARACTERS_PER_TOKEN * count])[:count]
    if len(found) < count:
        raise TextError(f"text {name} has {len(found)} tokens from character {offset} on, a passage needs "
                        f"{count}: take a longer text or a shorter --context")
    return found
