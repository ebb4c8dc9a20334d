# SPDX-License-Identifier: Apache-2.0
"""A short measurement from end to end, its files, its numbers, its report."""

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from instinfer.abi.arith import scale2_of
from instinfer.abi.presets import presets
from instinfer.cli import main
from instinfer.cosim.accuracy import report, statistics
from instinfer.cosim.accuracy.attention import attend
from instinfer.cosim.accuracy.evaluate import Prefilled
from instinfer.cosim.accuracy.measure import REFERENCE, Measurement
from instinfer.cosim.accuracy.policies import parse, spec
from instinfer.cosim.accuracy.texts import Place, passage
from instinfer.host.integrations.attention import FloatAttention
from instinfer.host.integrations.smollm2 import demo_prompt, load
from support import rng

PRODUCT = presets()["product"]
POLICIES = [parse(each) for each in ("dense", "dense:dtype=int8", "sketch:keep=64", "sketch:keep=0,window=4",
                                     "sparf:keep=64")]


@pytest.fixture(scope="module")
def network():
    return load()


@pytest.fixture(scope="module")
def sample(network):
    """64 positions of our own text behind a context of 320: pages, a stripe's border, the tail."""
    place = Place(kind="natural", number=1, offset=0)
    return passage(network[1], "demo", demo_prompt() * 2, place, context=320, positions=64, limit=8192)


@pytest.fixture(scope="module")
def prefilled(network, sample):
    return Prefilled.run(network[0], sample)


@pytest.fixture(scope="module")
def results(network, prefilled, sample, tmp_path_factory):
    cache = tmp_path_factory.mktemp("accuracy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prefilled, "run", lambda model, passage: prefilled)
        found = Measurement(network[0], PRODUCT, context=320, cache=cache).run(sample, POLICIES)
    return cache, found


def test_baseline_is_the_decode_of_the_float_reference(network, sample, results) -> None:
    """Positions together give what `decode` gives one by one."""
    model, found = network[0], results[1][REFERENCE].log_probabilities
    backend = FloatAttention()
    model.prefill(sample.tokens[:sample.first], backend.write)
    for position in range(3):
        token = sample.first + position
        logits = model.decode(sample.tokens[token], token, backend).astype(np.float64)
        logits -= logits.max()
        exact = logits[sample.tokens[token + 1]] - np.log(np.exp(logits).sum())
        assert found[position] == pytest.approx(exact, abs=2e-2)


def test_numbers(results) -> None:
    found = results[1]
    dense = found[REFERENCE].log_probabilities
    delta = [statistics.delta_percent(found[spec(policy)].log_probabilities, dense) for policy in POLICIES]
    assert abs(delta[0]) < 0.3
    assert abs(delta[1]) < 2
    assert delta[2] < 20
    assert delta[3] > 20, "the control must fail"
    assert delta[4] < 10


def test_results_are_kept_and_used(network, sample, results, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run again; another passage, context or policy is."""
    cache, found = results
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()}
    assert len(files) == 1 + len(POLICIES) + 1, "reference, policies, prefill"
    monkeypatch.setattr("instinfer.cosim.accuracy.measure.Prefilled", None)
    measurement = Measurement(network[0], PRODUCT, context=320, cache=cache)
    again = measurement.run(sample, POLICIES)
    for name, result in found.items():
        np.testing.assert_array_equal(again[name].log_probabilities, result.log_probabilities)
        assert again[name].cost == result.cost
    assert {file: file.stat().st_mtime_ns for file in files} == files
    other = parse("sketch:keep=72")
    assert measurement.missing(sample, [*POLICIES, other]) == [spec(other)]
    for elsewhere in (Measurement(network[0], PRODUCT, context=319, cache=cache),
                      Measurement(network[0], presets()["tiny"], context=320, cache=cache)):
        assert elsewhere.missing(sample, POLICIES) == [spec(policy) for policy in POLICIES]


def test_a_prefill_is_kept_and_used(network, prefilled, sample, results,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is new runs on what the first ones ran on; the oldest prefills go."""
    cache, found = results
    monkeypatch.setattr(Prefilled, "run", None)
    measurement = Measurement(network[0], presets()["tiny"], context=320, cache=cache)
    again = measurement.run(sample, POLICIES[1:2])[spec(POLICIES[1])].log_probabilities
    assert abs(statistics.delta_percent(again, found[spec(POLICIES[1])].log_probabilities)) < 1
    monkeypatch.setattr(Prefilled, "run", lambda model, passage: prefilled)
    monkeypatch.setattr("instinfer.cosim.accuracy.measure._PREFILLS_KEPT", 1)
    other = dataclasses.replace(sample, tokens=(*sample.tokens[1:], 0))
    before = list((cache / "prefills").iterdir())
    measurement.run(other, [])
    after = list((cache / "prefills").iterdir())
    assert len(before) == len(after) == 1
    assert before != after


def test_rows_and_picture(results, tmp_path) -> None:
    table = report.rows(POLICIES, [results[1]], context=320, seed=1)
    assert [row["policy"] for row in table] == [spec(policy) for policy in POLICIES]
    for row in table:
        assert {"policy", "context", "text", "positions", "ppl", "ppl_dense", "delta_percent", "ci95",
                "bytes_percent", "pages_sensed_percent", "slots_percent"} <= set(row)
        assert (row["text"], row["positions"], row["context"]) == ("demo natural", 64, 320)
        assert row["ci95"][0] <= row["delta_percent"] <= row["ci95"][1]
        assert row["delta_percent"] == pytest.approx(100 * (row["ppl"] / row["ppl_dense"] - 1))
        json.dumps(row)
    assert [table[0][f"{name}_percent"] for name in ("bytes", "pages_sensed", "slots")] == [100, 100, 100]
    assert table[1]["bytes_percent"] == pytest.approx(100 * 132 / 256)
    assert table[3]["bytes_percent"] < table[2]["bytes_percent"] < table[1]["bytes_percent"]
    report.draw(tmp_path / "a.png", table)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no row to draw"):
        report.draw(tmp_path / "b.png", [])


def test_wrong_attention_shows(prefilled, sample, results) -> None:
    """The evaluator consumes what the attention returns, and V shifted by one token is seen."""

    def shifted(layer, q, k, v):
        from instinfer.abi.commands import Dtype
        from instinfer.cosim.accuracy.attention import Rows

        rows = Rows.store(Dtype.FP16, k, np.roll(v, 1, axis=1))
        return attend(PRODUCT, rows, q, scale2_of(q.shape[-1] ** -0.5), sample.first, layer=layer)

    dense = results[1][REFERENCE].log_probabilities
    found = prefilled.log_probabilities(shifted)
    assert statistics.delta_percent(found, dense) > 20


def test_bootstrap() -> None:
    random = rng("bootstrap")
    dense = random.normal(-2, 1, 4000)
    worse = dense - random.normal(0.05, 0.5, 4000)
    low, high = statistics.interval(worse, dense, seed=3)
    assert low < statistics.delta_percent(worse, dense) < high
    assert high - low == pytest.approx(100 * 2 * 1.96 * 0.5 / 4000 ** 0.5, rel=0.15)
    assert statistics.interval(worse, dense, seed=3) == (low, high)
    assert statistics.interval(dense, dense) == (0, 0)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--policy", "quest"], "policy = 'quest'"),
    (["--text", "bible"], "--text = 'bible' is not possible: one of topics"),
    (["--passages", "natural5"], "--passages = 'natural5'"),
    (["--context", "10"], "--context = 10"),
    (["--text-file", "absent.txt"], "text absent.txt cannot be read"),
])
def test_bad_options(arguments, message) -> None:
    result = CliRunner().invoke(main.app, ["accuracy", *arguments, "--json", "-"])
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert message in result.stderr


def test_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own text, in one JSON document; the models stay where they are."""
    from instinfer.host.integrations.smollm2 import weight_path

    (tmp_path / "models").symlink_to(weight_path().parent)
    monkeypatch.setenv("INSTINFER_CACHE", str(tmp_path))
    text = tmp_path / "mine.txt"
    text.write_text(demo_prompt(), encoding="utf-8")
    command = ["accuracy", "--text-file", str(text), "--context", "64", "--positions", "8",
               "--passages", "natural1", "--policy", "dense", "--policy", "sketch:window=8,keep=8",
               "--json", "-"]
    result = CliRunner().invoke(main.app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [(row["text"], row["positions"]) for row in rows] == 2 * [("mine.txt natural", 8)]
    assert "perplexity" in result.stderr
    assert CliRunner().invoke(main.app, command).stdout == result.stdout, "from the files"
