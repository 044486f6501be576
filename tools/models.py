"""`posestream models`: what models there are, and their weights on this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from engines.assets import cached_path, fetch, is_cached, verify
from engines.contract import Asset, Contract, Source, WheelSource, available_models, load_contract
from engines.errors import AssetError, ContractError
from operators.graphs import models_of

FAILED, BAD_INPUT = 1, 2
MB = 1e6

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List models, fetch and verify their weights.",
    epilog="Start with `posestream models list`, then `posestream models pull --graph human-lite`. Without "
    "a network, set POSESTREAM_MIRROR to a folder or URL that holds the files; POSESTREAM_HOME is the cache.",
)

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME…", show_default=False)]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List the models: what they do, where their weights come from, and whether they are here.

    Example: `posestream models list --json`
    """
    rows = [_row(load_contract(name)) for name in available_models()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    fixed = [Column(name, no_wrap=True) for name in ("model", "task", "input", "licence")]
    flowing = [Column("from", overflow="fold"), Column("MB", justify="right"), Column("pulled")]
    table = Table(*fixed, *flowing, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows:
        size = "x".join(map(str, row["input_size"]))
        weights = [row["from"], f"{row['bytes'] / MB:.1f}", "yes" if row["pulled"] else "no"]
        table.add_row(row["name"], row["task"], size, row["licence"], *weights)
    Console().print(table)


@app.command()
def pull(
    names: Names = None,
    graph: Annotated[
        str | None, typer.Option("--graph", "-g", help="All models of a ready graph or .yaml file.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All models there are.")] = False,
) -> None:
    """Fetch weights, verify them by SHA-256 and keep them; mends a damaged file, too.

    Every name is tried. Exit code 1: one could not be fetched; 2: there is no such model.

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
    with tempfile.TemporaryDirectory(prefix="posestream-") as keep:
        for name in dict.fromkeys(wanted):
            try:
                fetch_with_progress(name, load_contract(name).asset, keep=Path(keep))
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
    typer.echo("\n".join(_tell(data)))
    origin = "stated by its publisher" if asset.sha256_from == "official" else "pinned to a copy at hand"
    where = str(cached_path(asset)) if is_cached(asset) else f"not here; posestream models pull {name}"
    weights = {
        "file": f"{asset.filename}, {_size(asset)}",
        "sha256": f"{asset.sha256} ({origin})",
        "sources": [_from(source) for source in asset.sources],
        "on this machine": where,
    }
    typer.echo("\n".join(_tell({"weights": weights})))


@app.command("verify")
def verify_models(names: Names = None) -> None:
    """Hash the weights that are here and compare; without names, all of them.

    Exit code 1: a file is damaged, or a model that was named is not here.

    Example: `posestream models verify && posestream run walk.mp4`
    """
    code = 0
    for name in names or available_models():
        right = verify(load_contract(name).asset)
        if right:
            typer.echo(f"{name}: verified")
        elif right is False or names:
            code = FAILED
            state = "not here; fetch it" if right is None else "damaged; mend it"
            typer.echo(f"{name}: {state}: posestream models pull {name}", err=True)
    raise typer.Exit(code)


def fetch_with_progress(title: str, asset: Asset, *, keep: Path | None = None) -> Path:
    """Fetch an asset, with a bar on a terminal and one line, on stdout, of what was done.

    `keep` is a folder for wheels and archives that several assets come out of; its owner deletes it.

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
        # Of what pip downloads the size is not known, so the bar pulses until bytes are reported.
        task = bar.add_task(f"{title} ({_from(asset.sources[0])})", total=None)
        path = fetch(asset, lambda done, total: bar.update(task, completed=done, total=total), keep=keep)
    typer.echo(f"{title}: fetched and verified, {_size(asset)}")
    return path


def _row(contract: Contract) -> dict[str, Any]:
    return {
        "name": contract.name,
        "title": contract.title,
        "task": contract.task,
        "input_size": contract.input.size,
        "licence": contract.licence,
        "from": _from(contract.asset.sources[0]),
        "bytes": contract.asset.bytes,
        "pulled": is_cached(contract.asset),
    }


def _from(source: Source) -> str:
    if isinstance(source, WheelSource):
        return f"wheel {source.requirement}"
    return f"{source.kind} {urlsplit(source.url).hostname or 'on this machine'}"


def _size(asset: Asset) -> str:
    return f"{asset.bytes / MB:.1f} MB" if asset.bytes >= MB / 10 else f"{asset.bytes} bytes"


def _tell(value: dict[str, Any], indent: str = "") -> list[str]:
    """A contract as indented lines, lists on one line each."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}:", *_tell(item, f"{indent}  ")]
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            lines.append(f"{indent}{key}: {text}")
    return lines
