"""`posestream models`: list models, fetch and verify their weights, import models of one's own."""

from __future__ import annotations

import json
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from engines.assets.model_files import is_checkpoint
from engines.assets.store import cached_path, fetch, is_cached, sha256, verify
from engines.contracts.contract import Asset, Contract, Source, WheelSource, available_models, load_contract
from engines.conversion.import_model import import_model, own_path, remove_model
from engines.errors import AssetError, ContractError
from operators.graphs.graph_files import models_of
from tools.exit_codes import BAD_INPUT, FAILED

MB = 1e6

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List models, fetch and verify their weights, import models of your own.",
    epilog="Start with `posestream models list`, then `posestream models pull --graph human-lite`. Without "
    "a network, set POSESTREAM_MIRROR to a folder or URL that holds the files. POSESTREAM_HOME sets the "
    "cache folder.",
)

Task = Literal["detect", "pose", "pose_onestage"]
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME…", show_default=False)]


@app.command("list")
def list_models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or with * and ?.", show_default=False)] = "",
    task: Annotated[Task | None, typer.Option(help="Only models for this task.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the models: task, input size, licence, and whether their weights are on this machine.

    Examples:
    `posestream models list halpe26`

    `posestream models list 'rtmpose-m-*' --task pose`
    """  # fmt: skip
    names = [name for name in available_models() if fnmatch(name, pattern) or pattern in name]
    rows = [_row(load_contract(name)) for name in names]
    rows = sorted((row for row in rows if task in (None, row["task"])), key=lambda row: row["task"])
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    fixed = [Column(name, no_wrap=True) for name in ("model", "task", "input", "licence")]
    weights = [Column("MB", justify="right"), Column("pulled")]
    table = Table(*fixed, *weights, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        size = "x".join(map(str, row["input_size"]))
        pulled = "yes" if row["pulled"] else "no"
        megabytes = f"{row['bytes'] / MB:.1f}" if row["bytes"] else "?"
        table.add_row(row["name"], row["task"], size, row["licence"], megabytes, pulled)
        if following is not None and following["task"] != row["task"]:
            table.add_section()
    Console().print(table)
    if any(row["bytes"] is None for row in rows):
        typer.echo("MB ?: the size is not known before the file is fetched")


@app.command()
def pull(
    names: Names = None,
    graph: Annotated[
        str | None, typer.Option("--graph", "-g", help="All models of a ready graph or .yaml file.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All models.")] = False,
) -> None:
    """Fetch weights, verify them by SHA-256 and keep them; replaces damaged files, too.

    Every name is tried, even after a failure. Exit code 1: one could not be fetched; 2: no such model.

    Examples:
    `posestream models pull blazepose-detector blazepose-full`

    `posestream models pull --graph human-lite`
    """  # fmt: skip
    wanted = [
        *(names or []),
        *(models_of(graph) if graph else []),
        *(available_models() if everything else []),
    ]
    if not wanted:
        raise typer.BadParameter("name a model (posestream models list), or give --graph GRAPH or --all")
    code = 0
    with tempfile.TemporaryDirectory(prefix="posestream-") as archives:
        for name in dict.fromkeys(wanted):
            try:
                fetch_with_progress(name, load_contract(name).asset, archives=Path(archives))
            except (ContractError, AssetError) as error:
                typer.echo(f"posestream: {error}", err=True)
                code = max(code, BAD_INPUT if isinstance(error, ContractError) else FAILED)
    raise typer.Exit(code)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model: posestream models list")]) -> None:
    """Show a model's contract: the numbers it was trained with, and where its weights are.

    Example: `posestream models show blazepose-full`
    """
    contract = load_contract(name)
    asset = contract.asset
    data = contract.model_dump(mode="json", exclude={"asset"}, exclude_none=True)
    typer.echo("\n".join(_lines(data)))
    how = f"pull {name}" if asset.sha256 else f"import FILE --like {name}"
    where = str(cached_path(asset)) if is_cached(asset) else f"not here; posestream models {how}"
    weights = {
        "file": f"{asset.filename}, {_size(asset)}",
        "sha256": _checksum(asset),
        "sources": [_from(source) for source in asset.sources],
        "on this machine": where,
    }
    typer.echo("\n".join(_lines({"weights": weights})))


@app.command("verify")
def verify_models(names: Names = None) -> None:
    """Compare the SHA-256 of the weights on this machine; of all models if none is named.

    Exit code 1: a file is damaged, or the weights of a named model are not here.

    Example: `posestream models verify && posestream run walk.mp4`
    """
    code = 0
    for name in names or available_models():
        verified = verify(load_contract(name).asset)
        if verified:
            typer.echo(f"{name}: verified")
        elif verified is False or names:
            code = FAILED
            state = "not here; fetch it" if verified is None else "damaged; fetch it again"
            typer.echo(f"{name}: {state}: posestream models pull {name}", err=True)
    raise typer.Exit(code)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A .onnx, .tflite, .pth, .safetensors or ultralytics .pt.")],
    architecture: Annotated[str | None, typer.Option(help="The model's family; needs --variant.")] = None,
    variant: Annotated[str | None, typer.Option(help="The model's size in its family: m, w32, 0.3b.")] = None,
    skeleton: Annotated[str | None, typer.Option(help="The keypoints of a pose model.")] = None,
    like: Annotated[
        str | None, typer.Option(help="A ready model that was trained with the same numbers.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="A name for the model; the file's name by default.")
    ] = None,
) -> None:
    """Import a model of your own, so that it runs by its name and with the numbers it was trained with.

    Names and shapes of a graph come from the file. Numbers that the file does not contain come from the model
    that you name with `--like`. The weights of a checkpoint are loaded into the architecture as a test.

    Examples:
    `posestream models import mine.pth --like rtmpose-m-body8`

    `posestream models import mine.onnx --architecture hrnet --variant w32 --skeleton ap10k --name my-horses`
    """  # fmt: skip
    contract = import_model(
        file, name, like=like, architecture=architecture, variant=variant, skeleton=skeleton
    )
    fetch_with_progress(contract.name, contract.asset)
    typer.echo(f"its contract: {own_path(contract.name)}; to read it: posestream models show {contract.name}")
    if is_checkpoint(contract):
        typer.echo(f"now export it once, which needs PyTorch: posestream engine export {contract.name}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="A model that you imported.")]) -> None:
    """Remove a model that you imported: its contract, and the copy of its weights.

    Example: `posestream models remove my-horses`
    """
    remove_model(name)
    typer.echo(f"{name}: removed")


def fetch_with_progress(title: str, asset: Asset, *, archives: Path | None = None) -> Path:
    """Fetch an asset, with a progress bar on a terminal, and print the result in one line.

    `archives` is a folder that keeps archives and wheels for several assets; the caller deletes it.

    Raises:
        AssetError: every source failed.
    """
    before = verify(asset)
    if before:
        typer.echo(f"{title}: already here")
        return cached_path(asset)
    if before is False:
        typer.echo(f"{title}: the file here is damaged; fetching it again")
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        # No total yet: pip does not report sizes, and the bar pulses until bytes are reported.
        task = bar.add_task(f"{title} ({_from(asset.sources[0])})", total=None)
        path = fetch(
            asset, lambda done, total: bar.update(task, completed=done, total=total), archives=archives
        )
    typer.echo(f"{title}: fetched and verified, {_size(asset)}")
    return path


def _row(contract: Contract) -> dict[str, Any]:
    return {
        "name": contract.name,
        "title": contract.title,
        "task": contract.task,
        "architecture": contract.architecture,
        "variant": contract.variant,
        "input_size": contract.input.size,
        "licence": contract.licence,
        "from": _from(contract.asset.sources[0]),
        "bytes": _bytes(contract.asset),
        "pulled": is_cached(contract.asset),
    }


def _from(source: Source) -> str:
    if isinstance(source, WheelSource):
        return f"wheel {source.requirement}"
    return f"{source.kind} {urlsplit(source.url).hostname or 'on this machine'}"


def _bytes(asset: Asset) -> int | None:
    """The file's size by the contract, else by the file on this machine."""
    return asset.bytes or (cached_path(asset).stat().st_size if is_cached(asset) else None)


def _size(asset: Asset) -> str:
    size = _bytes(asset)
    if size is None:
        return "of unknown size"
    return f"{size / MB:.1f} MB" if size >= MB / 10 else f"{size} bytes"


def _checksum(asset: Asset) -> str:
    if asset.sha256 is None:
        return "its publisher states none, so it is never fetched"
    if asset.in_full:
        official = "stated by its publisher"
        copied = "taken from a copy, since its publisher states none"
        return f"{asset.sha256} ({official if asset.sha256_from == 'official' else copied})"
    stated = f"{asset.sha256}… (its publisher states only {len(asset.sha256)} digits"
    return f"{stated}; the file here has {sha256(cached_path(asset))})" if is_cached(asset) else f"{stated})"


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Nested data as indented lines; each list on one line."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_lines(item, f"{indent}  ")]
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            lines.append(f"{indent}{key}: {text}")
    return lines
