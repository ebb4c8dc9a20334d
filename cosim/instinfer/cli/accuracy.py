# SPDX-License-Identifier: Apache-2.0
"""``instinfer accuracy``: what a policy costs in perplexity and saves in bytes and pages."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from instinfer.abi.errors import require
from instinfer.cli.options import (
    ConfigFile,
    JsonTarget,
    Preset,
    Settings,
    configuration,
    console,
    emit,
    progress,
)
from instinfer.cosim.toolchain import ToolError

app = typer.Typer()


@app.command()
def accuracy(
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="P", help="dense:dtype=int8, sketch:keep=1/8,bits=4, "
                                                   "sparf:keep=1/8,dims=16, ...; may be repeated; a table "
                                                   "of them if absent."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="topics, debian-reference, debian-handbook; may be repeated."),
    ] = None,
    text_file: Annotated[
        list[Path] | None, typer.Option("--text-file", metavar="F", help="Any UTF-8 text; may be repeated.")
    ] = None,
    context: Annotated[
        int, typer.Option("--context", metavar="T", help="Tokens before the scored ones.")
    ] = 4096,
    positions: Annotated[
        int, typer.Option("--positions", metavar="N", help="Scored per passage; copies score half of it.")
    ] = 512,
    passages: Annotated[
        str, typer.Option("--passages", help="natural, copy, or some of them: natural1,copy2.")
    ] = "natural,copy",
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="F.png", help="Draw perplexity against bytes and pages."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap.")] = 1,
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Perplexity and copy test of SmolLM2-135M in the engine's bit-exact arithmetic.

    Results are kept as they come: a command that was interrupted goes on where it was.
    """
    if find_spec("numba") is None:
        raise ToolError("accuracy needs numba: pip install 'instinfer[accuracy]', or run `make setup`")
    from instinfer.cosim.accuracy import report
    from instinfer.cosim.accuracy.measure import Measurement
    from instinfer.cosim.accuracy.policies import parse
    from instinfer.cosim.accuracy.table import TABLE
    from instinfer.cosim.accuracy.texts import TEXTS, text_of_file
    from instinfer.cosim.paths import cache_root
    from instinfer.host.integrations.smollm2 import load

    chosen = [parse(each) for each in dict.fromkeys(policy or TABLE)]
    wanted = passages.split(",")
    for each in wanted:
        require(each.rstrip("1234") in ("natural", "copy"), "--passages", each,
                "natural, copy, natural1 to copy4", "Write --passages natural,copy1.")
    for name in text or ():
        require(name in TEXTS, "--text", name, f"one of {', '.join(TEXTS)}", "Or give any --text-file.")
    texts = [TEXTS[name] for name in (text or ([] if text_file else ["topics"]))]
    texts += [text_of_file(path) for path in text_file or ()]
    engine = configuration(preset, config, settings)
    model, tokenizer = load()
    members = _passages(texts, wanted, tokenizer, context, positions, model.shape.context)
    with progress() as bar:
        task = bar.add_task("accuracy: layers")
        measurement = Measurement(model, engine, context=context, cache=cache_root() / "accuracy",
                                  on_layer=lambda layer: bar.advance(task))
        bar.update(task, total=model.shape.layers * sum(
            len(measurement.missing(passage, chosen)) for passage in members))
        results = []
        for passage in members:
            bar.update(task, description=f"accuracy: {passage.name}")
            results.append(measurement.run(passage, chosen))
    table = report.rows(chosen, results, context=context, seed=seed)
    emit(table, json_target)
    if picture is not None:
        report.draw(picture, table)
    _show(table, json_target)


def _passages(texts: Sequence[Any], wanted: Sequence[str], tokenizer: Any, context: int, positions: int,
              limit: int) -> list[Any]:
    """The wanted passages of all texts that can be read; an unreadable text is reported and left out."""
    from rich.console import Console

    from instinfer.cosim.accuracy.texts import TextError, passage, places

    found: list[Any] = []
    faults: list[TextError] = []
    for text in texts:
        try:
            content = text.load()
            found += [passage(tokenizer, text.name, content, place, context=context, positions=positions,
                              limit=limit)
                      for place in places(text.name, len(content))
                      if {place.kind, f"{place.kind}{place.number}"} & set(wanted)]
        except TextError as fault:
            faults.append(fault)
    if faults and not found:
        raise faults[0]
    for missing in faults:
        Console(stderr=True).print(f"instinfer: left out: {missing}", soft_wrap=True, markup=False)
    return found


def _show(table: Sequence[Mapping[str, Any]], json_target: str | None) -> None:
    from rich.table import Table

    for text in dict.fromkeys(row["text"] for row in table):
        members = [row for row in table if row["text"] == text]
        one = members[0]
        shown = Table(title=f"{text}: {one['positions']} positions at context {one['context']}, "
                            f"dense float64 perplexity {one['ppl_dense']:.4f}")
        for name in ("policy", "perplexity", "difference %", "95 % interval", "bytes %", "pages %",
                     "slots %"):
            shown.add_column(name, justify="left" if name == "policy" else "right")
        for row in members:
            low, high = row["ci95"]
            shown.add_row(row["label"], f"{row['ppl']:.4f}", f"{row['delta_percent']:+.2f}",
                          f"{low:+.2f} to {high:+.2f}", f"{row['bytes_percent']:.1f}",
                          f"{row['pages_sensed_percent']:.1f}", f"{row['slots_percent']:.1f}")
        console(json_target).print(shown)
