# SPDX-License-Identifier: Apache-2.0
"""SmolLM2's tokenizer: byte-level BPE with each digit a token of its own.

A text is cut in three steps: every numeric character (Unicode category N) stands alone; what lies between is
cut by GPT-2's pattern into contractions, words, runs of other characters, and white space; each piece's UTF-8
bytes are merged pair by pair in order of rank. The pattern wants "letter", "number" and "white space" as
Unicode defines them. Python's ``re`` says the same without a further dependency: once numeric characters are
gone, ``[^\\W_]`` is exactly category L, and white space is spelled out, because Python's ``\\s`` also holds
the four separators U+001C to U+001F.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from .weights import Vocabulary

_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_PIECE = re.compile(
    rf"'(?:s|t|re|ve|m|ll|d)| ?[^\W_]+| ?(?:[^\w{_SPACE}]|_)+|[{_SPACE}]+(?![^{_SPACE}])|[{_SPACE}]+"
)
_DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
_TURN_START, _TURN_END, _TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def byte_letters() -> tuple[str, ...]:
    """The printable letter that stands for each byte in a byte-level vocabulary."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = []
    shifted = 0x100
    for byte in range(0x100):
        letters.append(chr(byte if byte in printable else shifted))
        shifted += byte not in printable
    return tuple(letters)


def pieces(text: str) -> Iterator[str]:
    """Cut a text into the pieces inside which bytes may merge; joined they give the text again."""
    start = 0
    for place, character in enumerate(text):
        if unicodedata.category(character)[0] == "N":
            yield from _PIECE.findall(text[start:place])
            yield character
            start = place + 1
    yield from _PIECE.findall(text[start:])


class Tokenizer:
    """Text to token numbers and back.

    `encode` treats its argument as plain text: the spelling of a control token inside it stays text, so that
    a user's message cannot end its own turn. Control tokens enter through `chat` alone.

    Parameters
    ----------
    vocabulary: token texts, merges and control tokens from the weight file.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = vocabulary.tokens
        self._control = vocabulary.control
        self._numbers = {token: number for number, token in enumerate(vocabulary.tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(vocabulary.merges)}
        self._letters = byte_letters()
        self._bytes = {letter: byte for byte, letter in enumerate(self._letters)}
        self._encode_piece = lru_cache(maxsize=1 << 16)(self._merge)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens after which nothing sensible follows: end of turn, end of text."""
        return frozenset((self._numbers[_TURN_END], self._numbers[_TEXT_END]))

    def encode(self, text: str) -> list[int]:
        """Token numbers of a plain text.

        The vocabulary lacks 21 of the 256 bytes (six ASCII control characters, and bytes that occur only
        beyond U+3FFFF or never in UTF-8): a text that needs one is refused, nothing is dropped in silence.
        """
        return [number for piece in pieces(text) for number in self._encode_piece(piece)]

    def decode(self, numbers: Iterable[int]) -> str:
        """Text of a whole run of tokens; control tokens give nothing, bytes that are no UTF-8 give U+FFFD."""
        return b"".join(map(self.token_bytes, numbers)).decode("utf-8", "replace")

    def token_bytes(self, number: int) -> bytes:
        """The bytes of one token, possibly a part of a character; none for a control token."""
        if not 0 <= number < len(self._tokens):
            raise ValueError(
                f"token {number} is outside the vocabulary of {len(self._tokens)} tokens (0 to "
                f"{len(self._tokens) - 1}): decode with the tokenizer that belongs to the model"
            )
        if number in self._control:
            return b""
        return bytes(self._bytes[letter] for letter in self._tokens[number])

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token numbers of a conversation in the instruct model's template, open for the assistant's answer.

        Each message has a `role` (system, user, assistant) and a `content`. Without a system message in front
        the model's own default is put there.
        """
        turns = list(messages)
        if not turns or turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": _DEFAULT_SYSTEM})
        start, end = self._numbers[_TURN_START], self._numbers[_TURN_END]
        numbers: list[int] = []
        for turn in turns:
            if turn["role"] not in ("system", "user", "assistant"):
                raise ValueError(f"role {turn['role']!r} is unknown: use system, user or assistant")
            numbers += [start, *self.encode(f"{turn['role']}\n{turn['content']}"), end, *self.encode("\n")]
        return [*numbers, start, *self.encode("assistant\n")]

    def _merge(self, piece: str) -> tuple[int, ...]:
        parts = [self._letters[byte] for byte in piece.encode("utf-8")]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if pair not in self._ranks:
                break
            merged = []
            place = 0
            while place < len(parts):
                if tuple(parts[place : place + 2]) == pair:
                    merged.append(parts[place] + parts[place + 1])
                    place += 2
                else:
                    merged.append(parts[place])
                    place += 1
            parts = merged
        for part in parts:
            if part not in self._numbers:
                raise ValueError(
                    f"{piece!r} holds byte 0x{self._bytes[part]:02x}, for which the vocabulary has no "
                    f"token: remove that character from the text"
                )
        return tuple(self._numbers[part] for part in parts)


class StreamDecoder:
    """Text of tokens that arrive one at a time; a character split over tokens appears with its last byte."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, number: int) -> str:
        """The text that this token completes, possibly empty."""
        return self._decoder.decode(self._tokenizer.token_bytes(number))

    def finish(self) -> str:
        """U+FFFD if the stream ended inside a character, else nothing; the decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
