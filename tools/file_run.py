"""Run a graph over files in the terminal: with result files, progress, a summary and Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from operators.graphs.graph_files import with_sinks
from operators.graphs.weights import check_weights
from pipeline.graph import Graph
from pipeline.make_run import make_run
from pipeline.measurement.run_stats import RunStats
from pipeline.running import Running
from tools.exit_codes import INTERRUPTED
from tools.run_report import Progress, print_summary
from tools.signals import INTERRUPTION, stop_on_signals


def process_files(
    graph: Graph,
    sources: Mapping[str, str],
    out: Path,
    extra_sinks: Iterable[str],
    *,
    processes: int | None = None,
    quiet: bool = False,
) -> RunStats:
    """Run a graph over files; results go to files in the folder `out`.

    Raises:
        ConfigError, SourceError, AssetError, EngineError: it cannot run; nothing has been started.
        PosestreamError: the run failed.
        typer.Exit: with code 130, it was interrupted.
    """
    check_weights(graph)
    with_files = with_sinks(graph, file_sinks(out, extra_sinks))
    return show_run(make_run(with_files, sources, processes=processes), quiet=quiet)


def file_sinks(out: Path, extra: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The JSONL sink and `extra` ones, all with the folder `out`: operator name to options."""
    sinks: dict[str, dict[str, Any]] = {sink: {"dir": str(out)} for sink in ["jsonl_sink", *extra]}
    if "video_sink" in sinks:  # encoding is slow: use a worker a stream, as far as there are processors
        sinks["video_sink"]["workers"] = "auto"
    return sinks


def show_run(running: Running, *, quiet: bool) -> RunStats:
    """Start a run and wait for its end, with progress, a summary and Ctrl-C.

    Raises:
        PosestreamError: the run failed.
        typer.Exit: with code 130, it was interrupted.
    """
    console = Console(stderr=True)
    progress = Progress(console, shown=not quiet and console.is_terminal)
    with stop_on_signals(running) as signals, progress:
        running.start()
        while not running.wait(0.2):
            progress.show(running.stats)
        progress.show(running.stats)
    if not quiet and running.stats().finished:
        print_summary(running.stats(), console)
    if error := running.error():
        raise error
    if signals:
        console.print(INTERRUPTION, highlight=False)
        raise typer.Exit(INTERRUPTED)
    return running.stats()
