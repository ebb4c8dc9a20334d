# SPDX-License-Identifier: Apache-2.0
"""``instinfer demo``: the whole chain at once, on the simulated RTL, with a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.cli.decode import encode_prompt, run, show
from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, console, emit, overrides

if TYPE_CHECKING:
    from rich.table import Table

    from instinfer.cosim.decode import DecodeResult
    from instinfer.cosim.timeline import Interval
    from instinfer.host import Csd

app = typer.Typer()


@app.command()
def demo(
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Tokens to decode.")] = 16,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder of the report.")
    ] = Path("reports/demo"),
    policy: Annotated[
        str, typer.Option("--policy", help="Decodes beside dense attention; dense: nothing does.")
    ] = "sketch:keep=1/8",
    policy_tokens: Annotated[
        int, typer.Option("--policy-tokens", metavar="N", help="Tokens that the policy decodes.")
    ] = 4,
    preset: Preset = "product",
    config: ConfigFile = None,
    settings: Settings = None,
    json_target: JsonTarget = None,
) -> None:
    """SmolLM2 decodes text while the RTL computes every layer's attention from simulated flash."""
    from instinfer.cosim.recipes import DENSE, recipe
    from instinfer.cosim.report import write_report
    from instinfer.host.integrations.smollm2 import demo_prompt, load

    out = console(json_target)
    network, tokenizer = load()
    prompt = encode_prompt(tokenizer, demo_prompt(), raw=False)
    device = f"sim:{preset}"
    out.print(f"{device}: {len(prompt)} prompt tokens through KV_WRITE into the NAND model, then {tokens} "
              f"tokens with all {network.shape.layers} layers' attention in the RTL")
    recorder = Recorder(network.shape.layers, tokens)
    options: dict[str, Any] = {"device": device, "device_options": {"overrides": overrides(settings)}}
    if config is not None:
        options["device_options"]["config_file"] = config
    results = [run(network, tokenizer, prompt, tokens, **options, on_open=recorder.open,
                   on_layer=recorder.layer)]
    other = recipe(policy, context=len(prompt))
    if other != DENSE:
        results.append(run(network, tokenizer, prompt, policy_tokens, recipe=other, **options))
    documents = [result.document() for result in results]
    emit({**documents[0], "beside": documents[1:]}, json_target)
    for result in results:
        show(result, json_target)
    out.print(side_by_side(results))
    page = write_report(output, results, recorder.found, what=recorder.what)
    out.print(f"report: {page}  (timeline for ui.perfetto.dev: {output / 'timeline.json'})", soft_wrap=True)
    if not all(result.bit_exact for result in results):
        raise typer.Exit(1)


def side_by_side(results: "Sequence[DecodeResult]") -> "Table":
    """What each policy cost per step."""
    from rich.table import Table

    table = Table(title="per decode step, mean of the steps without the first")
    for name in ("policy", "text", "cycles", "stripes", "bytes from flash"):
        table.add_column(name)
    for result in results:
        mean = result.mean_step()
        table.add_row(result.recipe.label, repr(result.text), f"{mean.cycles:,.0f}", f"{mean.stripes:,.0f}",
                      f"{mean.bytes_moved:,.0f}")
    return table


class Recorder:
    """Records the events of two layers of the last decode step: a picture of all of it would show nothing."""

    def __init__(self, layers: int, tokens: int) -> None:
        self._calls = 0
        self._start = layers * tokens
        self.found: list[Interval] = []
        self.what = f"Channels during the attention of two layers, decode step {tokens - 1}"

    def open(self, csd: "Csd") -> None:
        self._csd = csd

    def layer(self, _: int) -> None:
        """Called after every write (one per layer) and every attention."""
        self._calls += 1
        transport: Any = self._csd.transport
        if self._calls == self._start:
            transport.simulation.start_events()
        elif self._calls == self._start + 2:
            from instinfer.cosim.timeline import intervals

            events, _ = transport.simulation.take_events()
            self.found = intervals(self._csd.config, events, end=transport.simulation.cycles)
