# SPDX-License-Identifier: Apache-2.0
"""Generation: the demo's text, sampling, stopping, and how prompt and steps divide over the backend."""

import itertools

import numpy as np
import pytest

from instinfer.host.integrations import CheckedAttention, FloatAttention
from instinfer.host.integrations.smollm2 import Sampler, StreamDecoder, demo_prompt, generate


def ask(tokenizer, text):
    return tokenizer.chat([{"role": "user", "content": text}])


def test_the_demo_prompt_and_its_answer(model, tokenizer):
    prompt = ask(tokenizer, demo_prompt())
    assert len(prompt) == 701, "two full stripes of each head lie in flash on `product`, one of int8"
    leads, text = [], []
    stream = StreamDecoder(tokenizer)

    def on_step(step):
        best, second = np.sort(step.logits)[:-3:-1]
        leads.append(best - second)
        text.append(stream.push(step.token))

    result = generate(model, FloatAttention(), prompt, 24, end_tokens=tokenizer.end_tokens, on_step=on_step)
    print(f"{result.tokens_per_second:.1f} token/s, prefill {result.prefill_seconds:.2f} s")
    assert "".join(text) == tokenizer.decode(result.tokens)
    assert tokenizer.decode(result.tokens) == (
        "The benefits of computing attention in the drive instead of the graphics card are numerous. One of "
        "the most significant advantages is that"
    )
    assert min(leads) > 0.2, "no near tie: rounding must not change the text"


def test_every_generated_token_comes_from_a_step_through_the_backend(model, tokenizer):
    prompt = tokenizer.encode("One, two, three, four,")
    checked = CheckedAttention(FloatAttention(), beside={"twin": FloatAttention()})
    steps = []
    result = generate(model, checked, prompt, 4, on_step=steps.append)
    assert len(result.tokens) == result.steps == 4
    assert result.ended_by is None
    assert [step.token for step in steps] == list(result.tokens)
    assert [step.position for step in steps] == [len(prompt) - 1 + index for index in range(4)]
    assert len(checked.checks) == 4 * 30
    assert checked.values_compared == 4 * 30 * 9 * 64
    assert checked.bit_exact("twin")
    assert checked.max_relative_error <= 2**-11
    plain = FloatAttention()
    assert generate(model, plain, prompt, 4).tokens == result.tokens
    assert plain.length(29) == len(prompt) + 3, "the last token is chosen, not attended"


def test_a_prompt_of_one_token_needs_no_prefill(model, tokenizer):
    backend = FloatAttention()
    result = generate(model, backend, tokenizer.encode("Hello")[:1], 2)
    assert len(result.tokens) == 2
    assert backend.length(0) == 2


def test_an_end_token_ends_the_text_and_is_left_out(model, tokenizer):
    prompt = ask(tokenizer, "Reply with the single word yes.")
    free = generate(model, FloatAttention(), prompt, 5)
    steps = []
    ended = generate(model, FloatAttention(), prompt, 5, end_tokens={free.tokens[2]}, on_step=steps.append)
    assert ended.ended_by == free.tokens[2]
    assert ended.tokens == free.tokens[: free.tokens.index(ended.ended_by)]
    assert len(steps) == ended.steps == len(ended.tokens) + 1


def test_refusals(model):
    with pytest.raises(ValueError, match="the prompt has no token"):
        generate(model, FloatAttention(), [], 1)
    with pytest.raises(ValueError, match="0 tokens to generate"):
        generate(model, FloatAttention(), [5], 0)
    with pytest.raises(
        ValueError, match=r"8000 prompt tokens and 194 new ones exceed .* ask for at most 193"
    ):
        generate(model, FloatAttention(), [5] * 8000, 194)


LOGITS = np.array([0.0, 3.0, 1.0, 3.0, 2.0, -5.0], np.float32)


def test_greedy_takes_the_lowest_number_among_equals():
    assert Sampler().choose(LOGITS) == 1


def test_draws_follow_their_seed():
    def draws(seed):
        sampler = Sampler(temperature=1.0, seed=seed)
        return [sampler.choose(LOGITS) for _ in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_top_k_and_temperature_shape_the_draws():
    few = Sampler(temperature=1.0, top_k=3, seed=1)
    assert {few.choose(LOGITS) for _ in range(300)} == {1, 3, 4}
    assert Sampler(temperature=5.0, top_k=1).choose(LOGITS) == 1
    cold = Sampler(temperature=0.05, seed=1)
    assert {cold.choose(LOGITS) for _ in range(100)} == {1, 3}
    warm = Sampler(temperature=1.0, seed=1)
    counts = np.bincount([warm.choose(LOGITS) for _ in range(4000)], minlength=6) / 4000
    expected = np.exp(LOGITS - LOGITS.max())
    np.testing.assert_allclose(counts, expected / expected.sum(), atol=0.03)


def test_sampler_refusals():
    for temperature in (-0.1, 101, float("nan")):
        with pytest.raises(ValueError, match=r"temperature .* is outside 0 to 100"):
            Sampler(temperature=temperature)
    with pytest.raises(ValueError, match="top_k -1 is negative"):
        Sampler(top_k=-1)
    for bad, temperature in itertools.product((np.nan, np.inf), (0.0, 1.0)):
        with pytest.raises(ValueError, match="logits hold NaN or Inf"):
            Sampler(temperature=temperature).choose(np.array([0.0, bad], np.float32))
