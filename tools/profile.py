"""`posestream profile`: where the time of a graph goes, what limits it, and how far from the best it is."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from operators.cameras.uri import redact
from operators.graph_files import name_sources
from pipeline.errors import ConfigError
from tools.attach import MAX_AGE_S
from tools.camera_options import name_cameras
from tools.run import Changes, interrupts, parse_changes

if TYPE_CHECKING:
    from tools.profiling.document import Profile
    from tools.profiling.settings import Settings

MEASURE = "What is measured"
SHOW = "What is written"


def profile(
    graph: Annotated[
        str, typer.Argument(metavar="GRAPH", help="A ready graph (posestream graph list) or a .yaml file.")
    ],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Video files, images, folders of images; with --live cameras, too. NAME=SOURCE names one.",
        ),
    ],
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Repeat the sources until there are so many streams.",
            show_default="the sources as they are",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", "-t", min=0.5, help="How long to measure.", rich_help_panel=MEASURE)
    ] = 20.0,
    warmup: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds before that, from the first frame on.", rich_help_panel=MEASURE),
    ] = 3.0,
    changes: Changes = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the sources.",
            show_default="as the graph says; else one a core",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="As attach runs it: files play at their own pace; frames that come too fast are dropped.",
            rich_help_panel=MEASURE,
        ),
    ] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="Measure with each of these values, and with all combinations of several: of streams, "
            "processes, batch, backend, or NODE.OPTION.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    no_bound: Annotated[
        bool,
        typer.Option("--no-bound", help="Measure no models and no decoding alone.", rich_help_panel=MEASURE),
    ] = False,
    sample_hz: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1000.0,
            help="How often to look where the Python of each stage is; 0: no flame graph, no places.",
            rich_help_panel=MEASURE,
        ),
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--json",
            metavar="FILE",
            help="The profile as JSON, a list of them for a sweep.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A report in one file, for a browser.", rich_help_panel=SHOW),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Every call and every frame, for ui.perfetto.dev; packed where it ends in .gz.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    flame: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Processor time by stacks of Python, for speedscope.app or flamegraph.pl.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="BASELINE.json",
            help="What changed since this profile; exit code 1 if anything is worse.",
            rich_help_panel=SHOW,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, metavar="PERCENT", help="For --compare.", rich_help_panel=SHOW)
    ] = 10.0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no table.", rich_help_panel=SHOW)
    ] = False,
) -> None:
    """Run a graph for some seconds and say where its time goes.

    The table begins with what limits the run and what to turn; then come the stages, the engines and the
    streams. Files are played over and over. Afterwards each model and the decoding are measured alone, and
    ours is given as a part of the best that they would allow.

    The graph runs as it stands: its own sinks write where it says, and no results are kept beside that.
    Measure on a machine that does nothing else. Ctrl-C ends early, and shows what was measured until then.

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
    from tools.profiling.settings import Settings
    from tools.profiling.sweep import read_points

    points = read_points(sweep or [])
    single = {"--trace": trace, "--flame": flame, "--compare": compare}
    if points != [{}] and (given := [name for name, path in single.items() if path]):
        raise ConfigError(f"{', '.join(given)} and --sweep do not go together: they are of one measurement")
    baseline = read_profile(compare) if compare else None
    for file in (out, html, trace, flame):
        if file and not file.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {file}: there is no folder {file.parent}")
    settings = Settings(
        graph=graph,
        sources=name_cameras(sources) if live else name_sources(sources),
        changes=parse_changes(changes or []),
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
    files = Files(out, html, flame)
    with _Watched(quiet=quiet) as watched:
        if points == [{}]:
            interrupted, worse = _one(settings, watched, files, baseline, tolerance / 100)
        else:
            interrupted, worse = _sweep(settings, points, watched, files), False
    if interrupted:
        raise typer.Exit(130)
    if worse:
        raise typer.Exit(1)


class Files(NamedTuple):
    """What is written besides the table; None: not."""

    json: Path | None
    html: Path | None
    flame: Path | None


class _Watched:
    """What is shown while it is measured, and Ctrl-C: once ends it, twice does not wait for what was read."""

    def __init__(self, *, quiet: bool):
        from tools.profiling.session import StopRequest

        errors = Console(stderr=True)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
        self.console = Console(quiet=quiet)
        self.stop = StopRequest()
        self._shown = Progress(
            *columns, console=errors, transient=True, disable=quiet or not errors.is_terminal
        )
        self._task = self._shown.add_task("", total=None)
        self._open = ExitStack()

    def __enter__(self) -> _Watched:
        self._open.enter_context(interrupts(self.stop))
        self._open.enter_context(self._shown)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def say(self, what: str, share: float | None) -> None:
        """What goes on, and how much of it is done."""
        total = None if share is None else 1.0
        self._shown.update(self._task, description=what, total=total, completed=share or 0.0)

    def hide(self) -> None:
        """Nothing goes on any more."""
        self._shown.stop()


def _one(
    settings: Settings, watched: _Watched, files: Files, baseline: Profile | None, tolerance: float
) -> tuple[bool, bool]:
    """Measure, show and write; whether it was interrupted, and whether it is worse than the baseline."""
    from tools.profiling.compare import compare, print_comparison
    from tools.profiling.recording.flame import collapsed
    from tools.profiling.session import NothingMeasuredError, measure
    from tools.profiling.table import print_profile

    try:
        measured = measure(settings, stop=watched.stop, on_progress=watched.say)
    except NothingMeasuredError:
        if watched.stop.stopped.is_set():
            raise typer.Exit(130) from None
        raise
    watched.hide()
    if files.json:
        _write(files.json, measured.model_dump_json(indent=1))
    if files.flame:
        _write(files.flame, collapsed(measured.stacks))
    print_profile(measured, watched.console)
    comparison = compare(baseline, measured, tolerance) if baseline else None
    if comparison:
        print_comparison(comparison, watched.console)
    if files.html:
        from tools.profiling.report.html import write_html

        write_html(measured, files.html, comparison)
    return watched.stop.stopped.is_set(), bool(comparison and comparison.worse)


def _sweep(settings: Settings, points: list[dict[str, str]], watched: _Watched, files: Files) -> bool:
    """Measure at all points, show and write; whether it was interrupted."""
    from tools.profiling.sweep import Failed, as_json, sweep
    from tools.profiling.table import print_sweep

    results = sweep(settings, points, stop=watched.stop, on_progress=watched.say)
    watched.hide()
    if files.json:
        _write(files.json, as_json(results))
    profiles = [result for result in results if not isinstance(result, Failed)]
    if profiles:
        print_sweep(profiles, watched.console)
    for result in results:
        if isinstance(result, Failed):
            at = " ".join(f"{name}={value}" for name, value in result.swept.items())
            watched.console.print(
                f"{at} failed: {result.error}", style="red", markup=False, highlight=False, soft_wrap=True
            )
    if files.html and profiles:
        from tools.profiling.report.html import write_html

        write_html(profiles, files.html)
    return watched.stop.stopped.is_set()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
