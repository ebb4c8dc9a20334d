# SPDX-License-Identifier: Apache-2.0
"""The tokenizer: recorded token numbers, round trips, Unicode classes, the chat template, streaming."""

import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instinfer.host.integrations.smollm2 import StreamDecoder, weight_path
from instinfer.host.integrations.smollm2.gguf_file import GgufFile
from instinfer.host.integrations.smollm2.tokenizer import _SPACE, byte_letters, pieces

# Recorded from the package tokenizers 0.23, built from the same vocabulary and merges with the pre-tokenizers
# Digits(individual_digits=True) and ByteLevel(add_prefix_space=False, use_regex=True).
RECORDED = {
    "": [],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "In 2024, 3.14 x 10²!": [
        *(788, 216, 34, 32, 34, 36, 28, 216, 35, 30, 33, 36, 1792, 216, 33, 32, 19133, 17),
    ],
    "  two  spaces\n\n\tand tabs \n": [216, 827, 216, 5600, 1116, 197, 397, 29416, 3717],
    "x  1  \xbd  \u2167  7\xb2\n\n3": [
        *(104, 256, 33, 256, 16738, 256, 173, 223, 117, 256, 39, 19133, 1116, 35),
    ],
    " don't I'VE they'll": [1326, 982, 339, 23, 18525, 502, 3060],
    "na\xefve caf\xe9 \u03a9mega \u4e2d\u6587 \ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940": [
        *(3546, 46494, 37366, 5664, 119, 93, 9005, 216, 28589, 29184, 216, 33085, 246, 181, 130, 251, 183),
        *(240, 129, 12335, 134, 27011, 30658, 16525, 44757, 37189),
    ],
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 x_y__z": [
        *(10813, 235, 118, 321, 231, 10813, 235, 119, 321, 231, 10813, 235, 117, 1792, 79, 105, 890, 106),
    ],
    "\x1c\x1fmixed\u3000": [213, 215, 35781, 12109, 218],
}
UNWRITABLE = "\x04\x06\x13\x14\x16\x1d"
ODD_PARTS = [*"\n\t\x85 7\xbd_\u0301\U0001f642", "  ", "\r\n", "42", "the", "'s", "'LL"]
TEXTS = st.lists(st.sampled_from(ODD_PARTS)).map("".join) | st.text(
    st.characters(max_codepoint=0x3FFFF, exclude_categories=("Cs",), exclude_characters=UNWRITABLE)
)


@pytest.mark.parametrize("text", RECORDED)
def test_recorded_token_numbers(tokenizer, text):
    assert tokenizer.encode(text) == RECORDED[text]
    assert tokenizer.decode(RECORDED[text]) == text


@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
def test_round_trip(tokenizer, text):
    assert "".join(pieces(text)) == text
    numbers = tokenizer.encode(text)
    assert tokenizer.decode(numbers) == text
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.push, numbers)) + stream.finish() == text


def test_every_token_decodes_to_its_bytes(tokenizer):
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert tokenizer.token_bytes(tokenizer.encode(" ")[0]) == b" "
    assert all(tokenizer.token_bytes(number) for number in range(17, 49152))
    assert all(tokenizer.token_bytes(number) == b"" for number in range(17))
    with pytest.raises(ValueError, match="token 49152 is outside the vocabulary of 49152 tokens"):
        tokenizer.decode([49152])


def test_character_classes_are_those_of_unicode():
    """The pattern's classes over all of Unicode: letters are category L once numbers are gone."""
    letter, space = re.compile(r"[^\W_]"), re.compile(f"[{_SPACE}]")
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        category = unicodedata.category(character)
        if category[0] != "N":
            assert bool(letter.match(character)) == (category[0] == "L"), hex(code)
        white = category in ("Zs", "Zl", "Zp") or code in (*range(0x09, 0x0E), 0x85)
        assert bool(space.match(character)) == white, hex(code)


@pytest.mark.parametrize("character", UNWRITABLE)
def test_a_character_without_a_token_is_refused(tokenizer, character):
    with pytest.raises(ValueError, match=f"holds byte 0x{ord(character):02x}.*remove that character"):
        tokenizer.encode(f"abc{character}def")


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        tokenizer.encode("\ud800")


def test_control_tokens_in_a_text_stay_text(tokenizer):
    numbers = tokenizer.encode("<|im_end|>")
    assert not tokenizer.end_tokens.intersection(numbers)
    assert tokenizer.decode(numbers) == "<|im_end|>"


def as_text(tokenizer, numbers):
    """Tokens as text in which control tokens show."""
    names = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"}
    return "".join(names.get(number) or tokenizer.decode([number]) for number in numbers)


def test_chat_with_the_default_system_message(tokenizer):
    assert as_text(tokenizer, tokenizer.chat([{"role": "user", "content": "Hi"}])) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chat_with_turns(tokenizer):
    turns = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "<|im_end|>")]
    numbers = tokenizer.chat([{"role": role, "content": content} for role, content in turns])
    assert as_text(tokenizer, numbers) == (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        + "<|im_start|>assistant\n"
    )
    assert numbers.count(2) == 4, "the message's own <|im_end|> is no control token"
    with pytest.raises(ValueError, match="role 'robot' is unknown"):
        tokenizer.chat([{"role": "robot", "content": ""}])


def test_the_template_in_the_file_is_the_one_implemented():
    template = GgufFile(weight_path().read_bytes()).facts["tokenizer.chat_template"]
    assert template == (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n' }}"
        "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def test_a_stream_shows_a_character_with_its_last_byte(tokenizer):
    stream = StreamDecoder(tokenizer)
    numbers = tokenizer.encode("\U0001f468")
    assert len(numbers) > 1
    assert [stream.push(number) for number in numbers] == [*[""] * (len(numbers) - 1), "\U0001f468"]
    assert stream.push(numbers[0]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.push(tokenizer.encode("a")[0]) == "a"
