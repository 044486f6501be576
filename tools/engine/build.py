"""`posestream engine build`: compile a model for a GPU, with a progress bar."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from engines.assets.model_files import find_model, runnable
from engines.tensorrt.flavours import FlavourName, installed_flavour
from engines.tensorrt.network import Batch, Precision
from engines.tensorrt.plan_builder import build_plan

MB = 1e6


def build(
    model: Annotated[str, typer.Argument(help="A model, or an .onnx file that carries its contract.")],
    backend: Annotated[
        FlavourName | None, typer.Option("--backend", "-b", help="By default the one that is installed.")
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", "-p", help="int8 needs an .onnx file that was quantised.")
    ] = "fp16",
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:OPT:MAX", help="Batch sizes; 1:8:32 by default, 1:1:1 if the graph is fixed to one."
        ),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="X.Y", help="Build for a GPU in another machine, such as 8.9; only with tensorrt-rtx."
        ),
    ] = None,
) -> None:
    """Compile a model for the GPU of this machine, compare it with ONNX Runtime, and keep it.

    Examples:
    `posestream engine build rtmpose-m-body8 --precision fp16 --batch 1:8:32`

    `posestream engine build rtmpose-m-body8 --backend tensorrt-rtx --compute-capability 8.9`
    """  # fmt: skip
    contract, path = find_model(model)
    sizes = Batch.parse(batch) if batch else None
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(f"{contract.name}: reading", total=1.0)
        plan, fresh = build_plan(
            contract,
            path or runnable(contract),
            backend or installed_flavour(),
            precision,
            sizes,
            compute_capability,
            lambda phase, share: bar.update(task, description=f"{contract.name}: {phase}", completed=share),
        )
    key = plan.key
    done = f"built in {plan.build_s:.1f} s" if fresh else "already built"
    target = key.gpu or f"any GPU of compute capability {key.compute_capability}"
    verified = "verified" if plan.verified else "not verified yet: this is done when it is first loaded"
    typer.echo(f"{contract.name}: {done} for {target}, {plan.size / MB:.1f} MB, {verified}")
    typer.echo(str(plan.path))
