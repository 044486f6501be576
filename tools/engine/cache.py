"""`posestream engine list` and `clean`: the compiled engines and exported files on this machine."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from engines.assets.model_files import exported_path
from engines.contracts.contract import load_contract
from engines.contracts.onnx_metadata import read_contract
from engines.errors import ContractError, EngineError
from engines.home import cache_home
from engines.tensorrt.plan_files import Plan, kept_plans, plans_home
from engines.tensorrt.plan_search import Usability, judge_plans

MB = 1e6
ABANDONED_S = 3600  # a younger file may belong to a build that is running


class Kept(NamedTuple):
    """A row of `list`: a plan, or an exported ONNX file."""

    model: str
    backend: str
    precision: str
    batch: str
    built_for: str
    bytes: int
    made: datetime
    usable: bool
    note: str
    stale: bool
    path: Path

    def cells(self) -> list[str]:
        """The cells of the table's row."""
        usable = ("yes" if self.usable else "no") + (f": {self.note}" if self.note else "")
        size, age = f"{self.bytes / MB:.1f}", age_text(datetime.now(UTC) - self.made)
        return [self.model, self.backend, self.precision, self.batch, self.built_for, size, age, usable]


def list_engines(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """List what was built and exported: GPU, size, age, and whether it can run on this machine.

    Example: `posestream engine list`
    """
    plans = kept_plans()
    rows = [*map(_plan_row, plans, judge_plans(plans)), *map(_export_row, _exports())]
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows], indent=2, default=str))
        return
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("model", "backend", "precision", "batch", "built for", "MB", "age", "usable here"):
        table.add_column(name, overflow="fold", justify="right" if name == "MB" else "left")
    for row in rows:
        table.add_row(*row.cells())
    Console().print(table)


def clean(
    model: Annotated[str | None, typer.Argument(help="Delete what was made from this model.")] = None,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Delete what is damaged, out of date, or does not fit this machine any more."
        ),
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Delete everything, also the timings that speed up builds.")
    ] = False,
) -> None:
    """Delete compiled engines and exported files; `posestream engine build` and `export` can make them again.

    Examples:
    `posestream engine clean --stale`

    `posestream engine clean rtmpose-m-body8`
    """  # fmt: skip
    if not (model or stale or everything):
        raise typer.BadParameter("name a model, or give --stale or --all; see posestream engine list")
    freed = 0
    plans = kept_plans()
    for plan, usability in zip(plans, judge_plans(plans), strict=True):
        row = _plan_row(plan, usability)
        if model in (None, row.model) and (row.stale or not stale):
            plan.delete()
            freed += _deleted(row)
    for path in _exports():
        row = _export_row(path)
        if model in (None, row.model) and (row.stale or not stale):
            path.unlink()
            _weights(path).unlink(missing_ok=True)
            freed += _deleted(row)
    if model is None:
        freed += _sweep(everything)
    typer.echo(f"{freed / MB:.1f} MB freed")


def age_text(age: timedelta) -> str:
    """An age in its largest whole unit: 47 hours."""
    minutes = int(age.total_seconds() // 60)
    for name, length in (("days", 24 * 60), ("hours", 60)):
        if minutes >= 2 * length:
            return f"{minutes // length} {name}"
    return f"{minutes} min"


def _plan_row(plan: Plan, usability: Usability) -> Kept:
    key, intact = plan.key, plan.is_intact()
    reasons = usability.reasons if intact else ["damaged, build it again", *usability.reasons]
    note = "; ".join(reasons) or ("" if plan.verified else "will be verified when it is first loaded")
    return Kept(
        model=plan.contract.name,
        backend=f"{key.flavour} {key.version}",
        precision=key.precision,
        batch=str(key.batch),
        built_for=key.gpu or f"any GPU of {key.compute_capability}",
        bytes=plan.size,
        made=plan.built,
        usable=not reasons,
        note=note,
        stale=usability.stale or not intact,
        path=plan.path,
    )


def _export_row(path: Path) -> Kept:
    try:
        contract = read_contract(path)
    except ContractError:  # written by another version of posestream
        contract = None
    weights = _weights(path)
    name = contract.name if contract else path.stem
    try:
        current: Path | None = exported_path(load_contract(name))
    except EngineError:
        current = None
    replaced = current is not None and path != current
    return Kept(
        model=name,
        backend="onnx",
        precision="",
        batch="",
        built_for="any machine",
        bytes=path.stat().st_size + (weights.stat().st_size if weights.is_file() else 0),
        made=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        usable=contract is not None and not replaced,
        note="out of date, export it again" if replaced else "" if current else "runs only by its path",
        stale=contract is None or replaced,
        path=path,
    )


def _exports() -> list[Path]:
    return sorted((cache_home() / "onnx").glob("*.onnx"))


def _weights(onnx: Path) -> Path:
    """The file beside an ONNX file with weights that are too large for it."""
    return onnx.with_name(f"{onnx.name}.data")


def _deleted(row: Kept) -> int:
    """Report a deletion; returns the bytes freed."""
    typer.echo(f"deleted {row.path.name}")
    return row.bytes


def _sweep(everything: bool) -> int:
    """Delete what interrupted builds left; with `everything` also the kernel timings. Returns bytes freed."""
    owned = {plan.path.stem for plan in kept_plans()}
    freed = 0
    for path in sorted(plans_home().glob("*")):
        abandoned = path.suffix != ".cache" and time.time() - path.stat().st_mtime > ABANDONED_S
        if path.stem not in owned and (abandoned or everything):
            freed += path.stat().st_size
            path.unlink()
    return freed
