"""`posestream profile`: where the time of a graph goes, what limits it, and how far it is from the best."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from operators.decoding.addresses import redact
from operators.graphs.graph_run import name_sources
from pipeline.errors import ConfigError
from tools.exit_codes import FAILED, INTERRUPTED
from tools.options import profile as options
from tools.options.cameras import MAX_AGE_S, name_cameras
from tools.options.graph import Changes, parse_changes
from tools.profiling.settings import SAMPLE_HZ, Settings
from tools.signals import stop_on_signals

if TYPE_CHECKING:
    from tools.profiling.document import Profile
    from tools.profiling.output import Output


def profile(
    graph: options.GraphArgument,
    sources: options.Sources,
    streams: options.Streams = None,
    seconds: options.Seconds = 20.0,
    warmup: options.Warmup = 3.0,
    changes: Changes = None,
    processes: options.Processes = None,
    live: options.Live = False,
    sweep: options.Sweep = None,
    no_bound: options.NoBound = False,
    sample_hz: options.SampleHz = SAMPLE_HZ,
    out: options.JsonFile = None,
    html: options.HtmlFile = None,
    trace: options.TraceFile = None,
    flame: options.FlameFile = None,
    compare: options.Baseline = None,
    tolerance: options.Tolerance = 10.0,
    quiet: options.Quiet = False,
) -> None:
    """Run a graph for some seconds and say where its time goes.

    The table begins with what limits the run and which options to change; then come the stages, the engines
    and the streams. Files are repeated until the time is over. Afterwards each model and the decoding are
    measured alone, and the run is given as a share of the best that they would allow.

    Exit code 1: something is worse than in the profile given with --compare, or stages have lost packets of
    files without accounting for them.

    The graph runs as it stands: its own sinks write, and no other results are kept. Measure on a machine
    that does nothing else. Ctrl-C ends the measurement early and shows what was measured until then.

    Examples:
    `posestream profile human-lite walk.mp4`

    `posestream profile human walk.mp4 --streams 4 --html report.html --trace trace.json.gz`

    `posestream profile human-lite walk.mp4 --sweep streams=1,2,4,8 --sweep processes=1,2`

    `posestream profile human walk.mp4 --sweep "batch=1,4,16 pose.workers=1,2" --json sweep.json`

    `posestream profile human-lite yard=rtsp://192.168.1.20/stream1 --live --seconds 60`

    `posestream profile human-lite walk.mp4 --json before.json`, change something, and then
    `posestream profile human-lite walk.mp4 --compare before.json --tolerance 5`
    """  # fmt: skip
    from tools.profiling.document import read_profile
    from tools.profiling.output import Output
    from tools.profiling.sweep import read_points

    points = read_points(sweep or [])
    is_sweep = points != [{}]
    single = {"--trace": trace, "--flame": flame, "--compare": compare}
    if is_sweep and (given := [name for name, path in single.items() if path]):
        raise ConfigError(f"{', '.join(given)} and --sweep do not go together: a sweep has many measurements")
    baseline = read_profile(compare) if compare else None
    output = Output(Console(quiet=quiet), json=out, html=html, trace=trace, flame=flame)
    output.check()
    settings = Settings(
        graph=graph,
        sources=name_cameras(sources) if live else name_sources(sources),
        changes=parse_changes(changes),
        streams=streams,
        seconds=seconds,
        warmup_s=warmup,
        processes=processes,
        live=live,
        max_age_s=MAX_AGE_S if live else None,
        sample_hz=sample_hz,
        bound=not no_bound,
        trace=trace,
        command=shlex.join(["posestream", *map(redact, sys.argv[1:])]),
    )
    with _Terminal(quiet=quiet) as terminal:
        if is_sweep:
            failed = _sweep(settings, points, terminal, output)
        else:
            failed = _measure(settings, terminal, output, baseline, tolerance / 100)
    if terminal.interrupted:
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(FAILED)


class _Terminal:
    """Shows the progress of a measurement, and lets Ctrl-C end it: the first in order, the second at once."""

    def __init__(self, *, quiet: bool):
        from tools.profiling.session import StopRequest

        errors = Console(stderr=True)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self.stop = StopRequest()
        self._progress = Progress(
            *columns, console=errors, transient=True, disable=quiet or not errors.is_terminal
        )
        self._task = self._progress.add_task("", total=None)
        self._contexts = ExitStack()

    def __enter__(self) -> _Terminal:
        self._contexts.enter_context(stop_on_signals(self.stop))
        self._contexts.enter_context(self._progress)
        return self

    def __exit__(self, *error: object) -> None:
        self._contexts.close()

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C has come."""
        return self.stop.stopped.is_set()

    def show(self, activity: str, share: float | None) -> None:
        """Show what is going on, and which share of it is done if that is known."""
        total = None if share is None else 1.0
        self._progress.update(self._task, description=activity, total=total, completed=share or 0.0)

    def hide(self) -> None:
        """Remove the progress: the results come next."""
        self._progress.stop()


def _measure(
    settings: Settings, terminal: _Terminal, output: Output, baseline: Profile | None, tolerance: float
) -> bool:
    """Measure once and write the results; whether they are worse than the baseline or packets are lost."""
    from tools.profiling.session import NothingMeasuredError, measure

    try:
        measured = measure(settings, stop=terminal.stop, on_progress=terminal.show)
    except NothingMeasuredError:
        if terminal.interrupted:
            raise typer.Exit(INTERRUPTED) from None
        raise
    terminal.hide()
    comparison = output.write(measured, baseline, tolerance)
    return bool(comparison and comparison.worse) or _lost_packets(measured)


def _sweep(settings: Settings, points: list[dict[str, str]], terminal: _Terminal, output: Output) -> bool:
    """Measure at all points and write the results; whether packets are lost at any of them."""
    from tools.profiling.sweep import Failed, sweep

    results = sweep(settings, points, stop=terminal.stop, on_progress=terminal.show)
    terminal.hide()
    output.write_sweep(results)
    return any(_lost_packets(result) for result in results if not isinstance(result, Failed))


def _lost_packets(measured: Profile) -> bool:
    """Whether a run over files has not accounted for all packets; the results name the stages."""
    return bool(measured.flow.unaccounted) and not measured.live
