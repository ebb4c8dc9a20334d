# SPDX-License-Identifier: Apache-2.0
"""``instinfer decode``: a real model's text with every layer's attention on a device."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.abi.errors import require
from instinfer.cli.options import (
    ConfigFile,
    JsonTarget,
    Settings,
    console,
    emit,
    overrides,
    progress,
)

if TYPE_CHECKING:
    from instinfer.cosim.decode import DecodeResult
    from instinfer.host.integrations.smollm2 import Tokenizer

app = typer.Typer()
MODELS = ("smollm2",)


@app.command()
def decode(
    model: Annotated[str, typer.Option("--model", help="Model: smollm2.")] = "smollm2",
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", metavar="F", help="UTF-8 text, - for stdin; built-in if absent."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Tokens to decode.")] = 16,
    device: Annotated[
        str, typer.Option("--device", help="model:PRESET, or sim:PRESET for the RTL.")
    ] = "sim:product",
    policy: Annotated[
        str, typer.Option("--policy", help="dense, sketch:keep=1/8, sparf, ... (docs/accuracy.md).")
    ] = "dense",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")
    ] = False,
    nand: Annotated[
        str, typer.Option("--nand", help="With sim: wide, or nvddr2 for NAND at the pins of a board's PHY.")
    ] = "wide",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """Decode text: K, V and attention in the device, the rest of the model in numpy."""
    from instinfer.cosim.recipes import recipe
    from instinfer.host.integrations.smollm2 import demo_prompt, load

    require(model in MODELS, "--model", model, f"one of {', '.join(MODELS)}", "Other models come later.")
    text = demo_prompt() if prompt_file is None else read_prompt(prompt_file)
    network, tokenizer = load()
    prompt = encode_prompt(tokenizer, text, raw=raw)
    options: dict[str, Any] = {"overrides": overrides(settings)}
    if config is not None:
        options["config_file"] = config
    require(nand == "wide" or device.startswith("sim:"), "--nand", nand, "absent without RTL",
            "Leave it out, or give --device sim:PRESET.")
    if device.startswith("sim:"):
        options["nand"] = nand
    result = run(network, tokenizer, prompt, tokens, device=device, device_options=options,
                 recipe=recipe(policy, context=len(prompt)))
    emit(result.document(), json_target)
    show(result, json_target)


def read_prompt(path: Path) -> str:
    """The prompt's text; refuses a missing or empty file."""
    if str(path) == "-":
        text = sys.stdin.read()
    else:
        require(path.is_file(), "--prompt-file", str(path), "an existing text file", "Check the path.")
        text = path.read_text(encoding="utf-8")
    require(bool(text.strip()), "--prompt-file", str(path), "a text that is not empty", "Write into it.")
    return text


def encode_prompt(tokenizer: "Tokenizer", text: str, *, raw: bool) -> list[int]:
    """Token numbers of a text, as a user's message unless ``raw``."""
    return tokenizer.encode(text) if raw else tokenizer.chat([{"role": "user", "content": text}])


def run(network: Any, tokenizer: "Tokenizer", prompt: list[int], tokens: int, *,
        on_layer: Callable[[int], None] | None = None, **options: Any) -> "DecodeResult":
    """`instinfer.cosim.decode.decode` with a progress bar over layers."""
    from instinfer.cosim.decode import decode as run_decode

    layers = network.shape.layers
    with progress() as bar:
        writes = layers if len(prompt) > 1 else 0
        task = bar.add_task(f"{options['device']}: layers", total=writes + layers * tokens)

        def advance(layer: int) -> None:
            bar.advance(task)
            if on_layer is not None:
                on_layer(layer)

        return run_decode(network, tokenizer, prompt, tokens, on_layer=advance, **options)


def show(result: "DecodeResult", json_target: str | None) -> None:
    """Text, cost and errors for people."""
    from rich.table import Table

    out = console(json_target)
    out.print(f"device text:    {result.text!r}", soft_wrap=True, markup=False)
    out.print(f"reference text: {result.reference_text!r}", soft_wrap=True, markup=False)
    table = Table(title=f"{result.device}, {result.recipe.label}: {result.prompt_tokens} prompt tokens, "
                        "attention of all layers")
    for name in ("step", "token", "cycles", "channel utilisation", "stripes", "bytes from flash"):
        table.add_column(name, justify="right")
    for number, step in enumerate(result.steps):
        share = step.utilisation(result.config.channels)
        token = str(result.tokens[number]) if number < len(result.tokens) else "end"
        table.add_row(
            str(number), token, f"{step.cycles:,}" if step.cycles else "no clock",
            "-" if share is None else f"{100 * share:.1f} %", f"{step.stripes:,}",
            f"{step.slots * result.config.slot_bytes:,}",
        )
    out.print(table)
    out.print(f"largest distance to dense float64 attention: {result.max_error:.3g} "
              f"({result.max_relative_error * 2**10:.3f} x 2^-10 of max|V|), "
              f"{result.values_compared:,} values")
    if result.bit_exact is not None:
        out.print(f"bit-exact with the model: {'yes' if result.bit_exact else 'NO'}")
