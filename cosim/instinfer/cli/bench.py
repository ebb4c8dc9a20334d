# SPDX-License-Identifier: Apache-2.0
"""``instinfer bench dense | latency | append | write``: cycles of the RTL against bounds and contracts."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

app = typer.Typer(no_args_is_help=True, help="Measure the RTL: cycles do not depend on the machine.")

Tokens = Annotated[int, typer.Option("--tokens", help="Resident tokens.")]
KvHeads = Annotated[int, typer.Option("--kv-heads", help="KV heads of the layer.")]
Queries = Annotated[int, typer.Option("--queries", help="Query heads per KV head.")]
HeadDim = Annotated[int, typer.Option("--head-dim", help="64, 80, 96 or 128.")]
Commands = Annotated[int, typer.Option("--commands", help="Attentions sent back to back.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random K, V and q.")]


@app.command()
def dense(tokens: Tokens = 4096, kv_heads: KvHeads = 8, queries: Queries = 4, head_dim: HeadDim = 128,
          commands: Commands = 8, seed: Seed = 1, preset: Preset = "product", config: ConfigFile = None,
          settings: Settings = None, json_target: JsonTarget = None) -> None:
    """Dense attention against the bus's ideal."""
    from instinfer.cosim.bench import attention
    from instinfer.cosim.bench.workload import Shape

    shape = Shape(tokens=tokens, kv_heads=kv_heads, queries=queries, head_dim=head_dim)
    engine = configuration(preset, config, settings)
    _report(lambda: attention.dense(engine, shape, commands=commands, seed=seed), json_target)


@app.command()
def latency(tokens: Tokens = 1024, queries: Queries = 4, head_dim: HeadDim = 128, seed: Seed = 1,
            preset: Preset = "product", config: ConfigFile = None, settings: Settings = None,
            json_target: JsonTarget = None) -> None:
    """One command of one head, from doorbell to completion."""
    from instinfer.cosim.bench import attention
    from instinfer.cosim.bench.workload import Shape

    shape = Shape(tokens=tokens, kv_heads=1, queries=queries, head_dim=head_dim)
    engine = configuration(preset, config, settings)
    _report(lambda: attention.latency(engine, shape, seed=seed), json_target)


@app.command()
def append(tokens: Tokens = 1024, kv_heads: KvHeads = 8, queries: Queries = 4, head_dim: HeadDim = 128,
           commands: Commands = 4, seed: Seed = 1, preset: Preset = "product", config: ConfigFile = None,
           settings: Settings = None, json_target: JsonTarget = None) -> None:
    """Appends beside attentions: how much slower they get, and the longest append."""
    from instinfer.cosim.bench import writes
    from instinfer.cosim.bench.workload import Shape

    shape = Shape(tokens=tokens, kv_heads=kv_heads, queries=queries, head_dim=head_dim)
    engine = configuration(preset, config, settings)
    _report(lambda: writes.append(engine, shape, commands=commands, seed=seed), json_target)


@app.command()
def write(tokens: Tokens = 2048, kv_heads: KvHeads = 8, head_dim: HeadDim = 128,
          layers: Annotated[int, typer.Option("--layers", help="Layers written one after the other.")] = 4,
          seed: Seed = 1, preset: Preset = "product", config: ConfigFile = None, settings: Settings = None,
          json_target: JsonTarget = None) -> None:
    """Prefill through KV_WRITE against the array's program bandwidth."""
    from instinfer.cosim.bench import writes
    from instinfer.cosim.bench.workload import Shape

    shape = Shape(tokens=tokens, kv_heads=kv_heads, queries=1, head_dim=head_dim)
    engine = configuration(preset, config, settings)
    _report(lambda: writes.write(engine, shape, layers=layers, seed=seed), json_target)


def _report(measure: Callable[[], dict[str, Any]], json_target: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    with Console(stderr=True).status("simulating the RTL (the first run of a configuration builds it)"):
        row = measure()
    emit(row, json_target)
    table = Table(title=f"bench {row['bench']} on {row['timing']['preset']}: {row['source']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in row.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        elif isinstance(value, float):
            value = f"{value:.6g}"
        table.add_row(name, str(value))
    console(json_target).print(table)
