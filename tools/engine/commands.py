"""`posestream engine`: export, verify and measure models; larger sub-commands have files of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table

from engines.assets.model_files import find_model
from tools.engine import build as engine_build
from tools.engine import cache as engine_cache
from tools.engine import quantise as engine_quantise
from tools.exit_codes import DONE, FAILED

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Export models to ONNX, compile, verify and measure them.",
    epilog="Start with `posestream models pull MODEL`, then `posestream engine export MODEL`.",
)

Model = Annotated[str, typer.Argument(help="A model, or an .onnx file that posestream exported.")]
Backend = Annotated[
    str, typer.Option("--backend", "-b", help="The library that runs it; auto picks the fastest.")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads that the model may use.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model whose weights are a checkpoint.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file, not to the cache.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Export again even if it was exported already.")
    ] = False,
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Random weights from this seed: only to time a model."),
    ] = None,
) -> None:
    """Export a checkpoint to ONNX, compare it with PyTorch, and keep it for later runs.

    Needs PyTorch; running the exported file does not.

    Example: `posestream engine export rtmpose-m-body8`
    """
    from engines.conversion.export import export_model

    contract, _ = find_model(model)
    with spinner(f"exporting {contract.name}"):
        result = export_model(contract, out=out, force=force, seed=random_weights)
    if random_weights is not None:
        typer.echo(f"{contract.name}: random weights (seed {random_weights}), for timing only")
    if not result.fresh:
        typer.echo(f"{contract.name}: already exported (--force exports it again)")
    typer.echo(f"{contract.name}: largest difference from PyTorch {result.difference_text}")
    typer.echo(str(result.path))


@app.command()
def verify(model: Model, backend: Backend = "auto", threads: Threads = 1, as_json: AsJson = False) -> None:
    """Compare a model with its FP32 reference on the same inputs; exit code 1 if it is beyond its tolerance.

    Example: `posestream engine verify rtmpose-m-body8 --backend tensorrt`
    """
    from engines.verification.verify_model import verify_model

    contract, path = find_model(model)
    with spinner(f"verifying {contract.name}"):
        comparison = verify_model(contract, path=path, backend=backend, threads=threads)
    typer.echo(json.dumps(comparison.as_dict(), indent=2) if as_json else "\n".join(comparison.lines()))
    raise typer.Exit(DONE if comparison.passed else FAILED)


@app.command()
def bench(
    model: Model,
    backend: Backend = "auto",
    batch: Annotated[str, typer.Option(help="Batch sizes to measure.")] = "1,2,4,8,16,32,64",
    threads: Threads = 1,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each batch size.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Measure a model alone: items a second, latency, memory.

    Example: `posestream engine bench rtmpose-m-body8 --batch 1,4,16 --threads 2`
    """
    from engines.verification.bench import bench_model

    try:
        sizes = [int(size) for size in batch.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise typer.BadParameter(f"--batch {batch}: expected sizes from 1 up, as in 1,4,16")
    contract, path = find_model(model)
    with spinner(f"measuring {contract.name}"):
        result = bench_model(
            contract, path=path, backend=backend, threads=threads, batches=sizes, seconds=seconds
        )
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2))
        return
    typer.echo(result.title)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("batch", "items/s", "p50 ms", "p99 ms", "runs", "memory MB", "GPU MB"):
        table.add_column(name, justify="right")
    for row in result.rows:
        table.add_row(*row.cells())
    Console().print(table)


app.command("build")(engine_build.build)
app.command("quantise")(engine_quantise.quantise_model)
app.command("list")(engine_cache.list_engines)
app.command("clean")(engine_cache.clean)


def spinner(text: str) -> Status:
    """A spinner on stderr if it is a terminal; else nothing is shown."""
    console = Console(stderr=True)
    return console.status(text) if console.is_terminal else Console(quiet=True).status(text)
