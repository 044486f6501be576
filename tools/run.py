"""`posestream run`: process video files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Annotated, Any, Protocol

import typer
import yaml
from rich.console import Console

from engines.assets.model_files import runnable
from engines.assets.store import is_cached
from engines.contracts.contract import load_contract
from engines.errors import AssetError
from operators.graph_files import load_graph, models_in, models_named, name_sources, with_sinks
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.measurement.stats import RunStats
from pipeline.run import make_run
from pipeline.running import Running
from tools.fragment_options import run_of, take_part
from tools.run_report import Progress, print_summary

OUT = Path("out")
SINKS = {"video": "video_sink", "coco": "coco_sink", "parquet": "parquet_sink"}

# Options that `attach` has, too.
GraphChoice = Annotated[
    str, typer.Option("--graph", "-g", help="A ready graph (posestream graph list) or a .yaml file.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NODE.OPTION=VALUE", help="Change an option of the graph."),
]
Fragment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Run one part of the graph; topics take the place of the others."),
]


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Video files, images or folders of images; NAME=SOURCE names the stream.",
            show_default=False,
        ),
    ] = None,
    graph: GraphChoice = "human-lite",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results.", show_default="out; with --fragment none"),
    ] = None,
    changes: Changes = None,
    video: Annotated[
        bool, typer.Option("--video", help="Also write STREAM.mp4 with the poses drawn in.")
    ] = False,
    coco: Annotated[
        bool, typer.Option("--coco", help="Also write STREAM.coco.json, COCO keypoint results.")
    ] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write STREAM.parquet.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the sources; each takes a second to start and loads the models.",
            show_default="as the graph says; else one a core",
        ),
    ] = None,
    fragment: Fragment = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Find, track and measure the poses in video files; results go to OUT/STREAM.jsonl.

    All sources are processed at once, in one graph. Ctrl-C stops reading, finishes what was read and leaves
    valid files; a second Ctrl-C stops at once. A fragment that reads a topic runs until it is stopped.

    Examples:
    `posestream run walk.mp4 --video`

    `posestream run left=cam01.mp4 right=cam02.mp4 --out results --parquet`

    `posestream run zoo.mp4 --graph animal-boxes --set detect.min_score=0.4`

    `posestream run --graph human-kafka --fragment pose`
    """  # fmt: skip
    wanted = {"video": video, "coco": coco, "parquet": parquet}
    extra = [sink for name, sink in SINKS.items() if wanted[name]]
    checked = load_graph(graph, parse_changes(changes or []))
    named = name_sources(sources or [])
    if fragment is not None:
        part = take_part(checked, fragment, named, _sinks(out or OUT, extra) if out or extra else {})
        check_weights(part.graph)
        show_run(run_of(part, named, processes), quiet=quiet)
    elif named:
        process(checked, named, out or OUT, extra, processes=processes, quiet=quiet)
    else:
        raise ConfigError("no SOURCE is given: expected video files, images or folders of images")


def process(
    graph: Graph,
    sources: Mapping[str, str],
    out: Path,
    extra_sinks: Iterable[str],
    *,
    processes: int | None = None,
    quiet: bool = False,
) -> RunStats:
    """Run a graph over files with progress, a summary and Ctrl-C; results go to files in `out`.

    Raises:
        ConfigError, SourceError, AssetError: before anything runs.
        PosestreamError: the run failed.
        typer.Exit: with code 130, it was interrupted.
    """
    check_weights(graph)
    with_files = with_sinks(graph, _sinks(out, extra_sinks))
    return show_run(make_run(with_files, sources, processes=processes), quiet=quiet)


def _sinks(out: Path, extra: Iterable[str]) -> dict[str, dict[str, Any]]:
    sinks: dict[str, dict[str, Any]] = {sink: {"dir": str(out)} for sink in ["jsonl_sink", *extra]}
    if "video_sink" in sinks:  # encoding is work: a worker a stream, as far as there are processors
        sinks["video_sink"]["workers"] = "auto"
    return sinks


def show_run(running: Running, *, quiet: bool) -> RunStats:
    """Carry out a run with progress, a summary and Ctrl-C.

    Raises:
        PosestreamError: the run failed.
        typer.Exit: with code 130, it was interrupted.
    """
    console = Console(stderr=True)
    interrupted = watch(running, Progress(console, shown=not quiet and console.is_terminal))
    if not quiet and running.stats().finished:
        print_summary(running.stats(), console)
    if error := running.error():
        raise error
    if interrupted:
        console.print("interrupted; what was read until then is finished and written", highlight=False)
        raise typer.Exit(130)
    return running.stats()


def watch(running: Running, progress: Progress) -> bool:
    """Start a run and wait for its end, showing progress; whether it was interrupted by Ctrl-C."""
    with interrupts(running) as told, progress:
        running.start()
        while not running.wait(0.2):
            progress.show(running.stats)
        progress.show(running.stats)
    return bool(told)


class Stoppable(Protocol):
    """A run, or what stands for one."""

    def stop(self) -> None:
        """Go on with nothing new."""

    def abort(self) -> None:
        """Nor finish what was begun."""


@contextmanager
def interrupts(running: Stoppable) -> Iterator[list[int]]:
    """In here, a first Ctrl-C or SIGTERM stops the run, a second one aborts it; the list tells which came."""
    signals: SimpleQueue[int | None] = SimpleQueue()
    told: list[int] = []

    # Not in the handler: that breaks into the main thread, which may hold a lock that stopping needs.
    def obey() -> None:
        for stop in (running.stop, running.abort):
            if (number := signals.get()) is None:
                return
            told.append(number)
            stop()

    def note(signal_number: int, frame: FrameType | None) -> None:
        signals.put(signal_number)

    thread = threading.Thread(target=obey, name="interrupts", daemon=True)
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals.put(None)
        thread.join()


def check_weights(graph: Graph) -> None:
    """Refuse to start while weights are missing, naming all of them at once, or were not exported.

    Raises:
        AssetError: with the command that fetches them.
        EngineError: with the command that exports them.
    """
    models = [name for name in models_in(graph) if not name.endswith(".onnx")]  # those are files of one's own
    contracts = [load_contract(name) for name in models]
    missing = [contract.name for contract in contracts if not is_cached(contract.asset)]
    if missing:
        names = " ".join(missing)
        raise AssetError(f"the weights of {names} are not here; fetch them: posestream models pull {names}")
    on_torch = {
        name
        for node in graph.nodes
        if node.options.get("backend") == "torch"
        for name in models_named(node.options)
    }
    for contract in contracts:
        if contract.name not in on_torch:
            runnable(contract)


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """`NODE.OPTION=VALUE` as given with --set; values are read as YAML (0.4, true, [cat, dog]).

    Raises:
        ConfigError: not of that form.
    """
    parsed = {}
    for change in changes:
        target, given, value = change.partition("=")
        if not given or "." not in target:
            raise ConfigError(f"--set {change}: expected NODE.OPTION=VALUE, as in detect.min_score=0.4")
        try:
            parsed[target] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--set {change}: {value!r} is no YAML value; quote it") from None
    return parsed
