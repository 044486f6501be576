"""`posestream attach`: work on cameras for as long as they are there."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from operators.cameras.uri import resolve_uri
from operators.graph_files import load_graph, with_sinks
from pipeline.errors import ConfigError, SourceError
from pipeline.graph import Graph
from pipeline.run import Run
from tools.camera_options import name_cameras, read_credentials
from tools.fragment_options import keep_making_topics, take_part
from tools.run import Changes, Fragment, GraphChoice, check_weights, interrupts, parse_changes
from tools.run_report import Progress, log_summary, print_summary
from tools.service.attached import Attached

log = logging.getLogger("posestream.attach")

CONTROL = "127.0.0.1:8787"
MAX_AGE_S = 2.0
TOKEN = "POSESTREAM_TOKEN"
SOURCES_HELP = (
    "Cameras and streams (rtsp://, rtmp://, http://, srt://, udp://, /dev/video0, kafka://BROKER/TOPIC), or "
    "files, which play at their own pace. ${VARIABLE} in a URL is taken from the environment."
)
CONTROL_HELP = f"Where the control API listens; where others can reach it, {TOKEN} has to hold a token."
TICK_S, SUMMARY_S = 0.5, 60.0
ABORT_S = 3.0  # a source that does not even stop then is left behind


def attach(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]URL",
            help=SOURCES_HELP,
            show_default=False,
        ),
    ] = None,
    graph: GraphChoice = "human-lite",
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write STREAM.jsonl to this folder.", show_default="no files"),
    ] = None,
    video: Annotated[
        bool,
        typer.Option("--video", help="Also write STREAM.mp4, as many frames of it as there is time for."),
    ] = False,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="BROKERS/TOPIC", help="Publish to this topic, as in localhost:9092/poses."),
    ] = None,
    fragment: Fragment = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="SECONDS",
            help="No stage begins to work on a frame older than this.",
            show_default=f"{MAX_AGE_S:g}; none for a fragment that reads a topic",
        ),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML: stream name → {username, password} for its URL."),
    ] = None,
    control: Annotated[str, typer.Option(metavar="HOST:PORT", help=CONTROL_HELP)] = CONTROL,
    no_control: Annotated[bool, typer.Option("--no-control", help="No control API.")] = False,
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="End once all sources have ended, as files do and cameras do not."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live view and no summaries.")] = False,
) -> None:
    """Attach to cameras: poses of all of them in one graph, with the newest frames first.

    A frame that comes while all are busy takes the place of an older one, so results stay young; every
    dropped frame is counted. Cameras that are lost are tried again for ever. Ctrl-C finishes what was read
    and leaves valid files; a second Ctrl-C stops at once.

    Cameras can be added, removed and listed while it runs (http://127.0.0.1:8787/streams), and Prometheus
    finds its figures at /metrics; docs/service.md tells all of it.

    Examples:
    `posestream attach yard=rtsp://192.168.1.20/stream1 barn=rtsp://192.168.1.21/stream1 --out results`

    `posestream attach 'yard=rtsp://me:${PASSWORD}@192.168.1.20/stream1' --kafka localhost:9092/poses`

    `posestream attach webcam=/dev/video0 --graph human-lite --set decode.fps=10`

    `posestream attach --graph human-kafka --fragment pose`

    `curl -X POST localhost:8787/streams --json '{"name": "gate", "uri": "rtsp://192.168.1.22/stream1"}'`
    """  # fmt: skip
    if not sys.stderr.isatty():
        _log_for_later()
    loaded, sinks = load_graph(graph, parse_changes(changes or [])), _sinks(out, video, kafka)
    named = name_cameras(sources or [])
    part = None if fragment is None else take_part(loaded, fragment, named, sinks, live=True)
    reads = part.sources if part else {}
    if not named and not reads and (no_control or until_end):
        raise ConfigError("no source is given, and none could be attached later: give NAME=URL, or leave out "
                          "--no-control and --until-end")  # fmt: skip
    checked = part.graph if part else with_sinks(loaded, sinks)
    if len(checked.nodes) == 1:
        raise ConfigError(
            f"{checked.where}: it only decodes; give --out, --kafka, or a graph that does something"
        )
    logins = read_credentials(credentials) if credentials else {}
    resolved = reads or {name: resolve_uri(uri, logins.get(name)) for name, uri in named.items()}
    check_weights(checked)
    _warn(checked, named)
    if part:
        keep_making_topics(part)
    run = Run(
        checked,
        resolved,
        live=True,
        max_age_s=max_age or (None if reads else MAX_AGE_S),
        keep_open=bool(reads) or not (until_end or no_control),
    )
    serve(Attached(run, logins), None if no_control else control, quiet=quiet)


def serve(attached: Attached, control: str | None, *, quiet: bool = False) -> None:
    """Run until it ends or is told to, with the control API at this address, and tell what happens.

    Raises:
        ConfigError: nothing can listen at this address.
        PosestreamError: the run failed.
        SourceError: it has ended, and no source gave anything.
        typer.Exit: with code 130, it was interrupted by Ctrl-C.
    """
    run, console = attached.run, Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if control:
            from tools.service.control import ControlServer, listen  # FastAPI takes its time

            token = os.environ.get(TOKEN) or None
            server = stack.enter_context(ControlServer(attached, listen(control, token), token))
            log.info("control API at %s", server.url)
        told = stack.enter_context(interrupts(run))
        view = stack.enter_context(Progress(console, shown=not quiet and console.is_terminal))
        attached.start()
        _watch(attached, told, view, summaries=not quiet and not console.is_terminal)
    stats = run.stats()
    if not quiet and stats.finished:
        print_summary(stats, console)
    if run.failure:
        raise run.failure
    if signal.SIGINT in told:
        console.print("interrupted; what was read until then is finished and written", highlight=False)
        raise typer.Exit(130)
    if not told and not stats.finished:
        raise SourceError(
            "all sources have ended, and none gave a frame; what was wrong with them stands above"
        )


def _watch(attached: Attached, told: list[int], view: Progress, *, summaries: bool) -> None:
    summary_at = time.monotonic() + SUMMARY_S
    while not attached.run.wait(TICK_S):
        attached.sample()
        view.show_cameras(attached.streams)
        if summaries and time.monotonic() >= summary_at:
            summary_at += SUMMARY_S
            log.info("%s", log_summary(attached.streams()))
        if len(told) > 1 and not attached.run.wait(ABORT_S):
            log.error("%s does not stop; left behind", ", ".join(attached.run.sources()) or "a stage")
            break


def _log_for_later() -> None:
    """Nobody looks on: whole lines with the time, as a journal wants them."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def _sinks(out: Path | None, video: bool, kafka: str | None) -> dict[str, dict[str, Any]]:
    if video and out is None:
        raise ConfigError("--video writes to the folder of --out; give --out DIR, too")
    sinks: dict[str, dict[str, Any]] = {}
    if out is not None:
        sinks["jsonl_sink"] = {"dir": str(out)}
    if video:  # a frame that cannot be encoded in time is missing in the video, and delays nothing else
        sinks["video_sink"] = {"dir": str(out), "workers": "auto", "on_full": "drop_oldest"}
    if kafka is not None:
        brokers, _, topic = kafka.rpartition("/")
        if not topic:
            raise ConfigError(f"--kafka {kafka}: expected BROKERS/TOPIC, as in localhost:9092/poses")
        sinks["kafka_sink"] = {"topic": topic} | ({"brokers": brokers} if brokers else {})
    return sinks


def _warn(graph: Graph, named: dict[str, str]) -> None:
    if not graph.sinks:
        log.warning(
            "results are kept nowhere: give --out DIR or --kafka BROKERS/TOPIC, or a graph with a sink"
        )
    for name, uri in named.items():
        if re.search(r"://[^/@]*:[^/@${]+@", uri):
            log.warning(
                "%s: others on this machine can see the password on the command line; "
                "write ${VARIABLE} for it, or use --credentials FILE", name
            )  # fmt: skip
