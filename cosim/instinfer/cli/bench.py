# SPDX-License-Identifier: Apache-2.0
"""``instinfer bench ...``: cycles of the RTL against bounds and contracts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instinfer.cli.options import ConfigFile, JsonTarget, Preset, Settings, configuration, console, emit

if TYPE_CHECKING:
    from rich.table import Table

    from instinfer.abi.config import EngineConfig
    from instinfer.cosim.bench.workload import Shape
    from instinfer.host import Sketch, SparF

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
    _report_steps(lambda step: writes.append(engine, shape, commands=commands, seed=seed, progress=step),
                  json_target)


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


Dtype = Annotated[str, typer.Option("--dtype", help="fp16 or int8.")]
Window = Annotated[int, typer.Option("--window", help="Last tokens, always attended.")]
Sinks = Annotated[int, typer.Option("--sinks", help="First tokens, always attended.")]
Rows = Annotated[str, typer.Option("--rows", help="random (choices lie anywhere) or smollm2 (a prefill).")]
Layer = Annotated[int, typer.Option("--layer", help="Of smollm2.")]


@app.command()
def sketch(tokens: Tokens = 32768, kv_heads: KvHeads = 8, queries: Queries = 4, head_dim: HeadDim = 128,
           dtype: Dtype = "int8",
           keep_tokens: Annotated[int, typer.Option("--keep-tokens", help="Tokens chosen.")] = 4096,
           group: Annotated[int, typer.Option("--group", help="Tokens chosen together.")] = 8,
           window: Window = 64, sinks: Sinks = 4,
           dims: Annotated[int, typer.Option("--dims", help="Of a sketch.")] = 16,
           bits: Annotated[int, typer.Option("--bits", help="Of a sketch's element: 2, 4 or 8.")] = 4,
           rows: Rows = "random", layer: Layer = 15, commands: Commands = 4, seed: Seed = 1,
           preset: Preset = "product", config: ConfigFile = None, settings: Settings = None,
           json_target: JsonTarget = None) -> None:
    """A sketch policy against dense attention of the same rows, fp16 and int8, in one run."""
    from instinfer.cosim.bench.workload import Shape
    from instinfer.host import PCA, Sketch

    _sparse("sketch", Shape(tokens=tokens, kv_heads=kv_heads, queries=queries, head_dim=head_dim),
            policy=Sketch(keep_tokens=keep_tokens, group=group, window=window, sinks=sinks),
            options={"sketch": PCA(dims=dims, bits=bits)}, dtype=dtype, rows=rows, layer=layer,
            commands=commands, seed=seed, engine=configuration(preset, config, settings),
            json_target=json_target)


@app.command()
def sparf(tokens: Tokens = 16384, kv_heads: KvHeads = 8, queries: Queries = 4, head_dim: HeadDim = 128,
          dtype: Dtype = "fp16",
          keep_tokens: Annotated[int, typer.Option("--keep-tokens", help="Tokens chosen.")] = 1024,
          dims: Annotated[int, typer.Option("--dims", help="Dims kept of q.")] = 16,
          window: Window = 64, sinks: Sinks = 4, rows: Rows = "random", layer: Layer = 15,
          commands: Commands = 4, seed: Seed = 1, preset: Preset = "product", config: ConfigFile = None,
          settings: Settings = None, json_target: JsonTarget = None) -> None:
    """SparF as published against dense attention of the same rows, fp16 and int8, in one run."""
    from instinfer.cosim.bench.workload import Shape
    from instinfer.host import SparF

    _sparse("sparf", Shape(tokens=tokens, kv_heads=kv_heads, queries=queries, head_dim=head_dim),
            policy=SparF(dims=dims, tokens=keep_tokens, window=window, sinks=sinks), options={"dims": True},
            dtype=dtype, rows=rows, layer=layer, commands=commands, seed=seed,
            engine=configuration(preset, config, settings), json_target=json_target)


def _sparse(bench: str, shape: "Shape", *, policy: "Sketch | SparF", options: dict[str, Any], dtype: str,
            rows: str, layer: int, commands: int, seed: int, engine: "EngineConfig",
            json_target: str | None) -> None:
    from instinfer.abi.errors import require
    from instinfer.cosim.bench.operands import model_operands, random_operands
    from instinfer.cosim.bench.selection import sparse

    require(rows in ("random", "smollm2"), "rows", rows, "random or smollm2", "See --help.")

    def measure(say: Callable[[str], None]) -> dict[str, Any]:
        if rows == "random":
            found, operands = shape, random_operands(shape, commands=commands, seed=seed)
        else:
            say("prefilling SmolLM2")
            found, operands = model_operands(tokens=shape.tokens, layer=layer, commands=commands)
        return sparse(engine, found, operands, bench=bench, policy=policy, options=options, dtype=dtype,
                      progress=say, rows=rows, seed=seed)

    _report_steps(measure, json_target)


def _report(measure: Callable[[], dict[str, Any]], json_target: str | None) -> None:
    _report_steps(lambda _: measure(), json_target)


def _report_steps(measure: Callable[[Callable[[str], None]], dict[str, Any]],
                  json_target: str | None) -> None:
    """Show what runs, then the figures."""
    from rich.console import Console
    from rich.table import Table

    simulating = "simulating the RTL (the first run of a configuration builds it)"
    with Console(stderr=True).status(simulating) as status:
        row = measure(lambda step: status.update(f"{simulating}: {step}"))
    emit(row, json_target)
    table = Table(title=f"bench {row['bench']} on {row['timing']['preset']}: {row['source']}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in row.items():
        if name == "published":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items())
        elif isinstance(value, float):
            value = f"{value:.6g}"
        table.add_row(name, str(value))
    console(json_target).print(table)
    if "published" in row:
        console(json_target).print(_published(row["published"]))


def _published(costs: list[dict[str, Any]]) -> "Table":
    """What the published layout would read for the same choices, a column per page size."""
    from rich.table import Table

    table = Table(title=f"the published scheme: {costs[0]['source']}")
    table.add_column("figure")
    for cost in costs:
        table.add_column(f"pages of {cost['page_bytes'] // 1024} KiB", justify="right")
    for name in costs[0]:
        if name not in ("page_bytes", "source"):
            table.add_row(name, *(f"{cost[name]:.6g}" for cost in costs))
    return table
