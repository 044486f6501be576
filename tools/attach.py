"""`posestream attach`: work on cameras for as long as they are there."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.decoding.addresses import resolve_uri
from operators.graphs.graph_files import load_graph, with_sinks
from operators.graphs.weights import check_weights
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.run import Run
from tools.options.cameras import MAX_AGE_S, name_cameras, read_credentials
from tools.options.graph import Changes, Fragment, GraphChoice, parse_changes
from tools.run_fragment import create_topics_when_possible, select_fragment
from tools.serve import serve
from tools.service.address import DEFAULT_ADDRESS, TOKEN_VARIABLE
from tools.service.attached import Attached

log = logging.getLogger("posestream.attach")

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=]URL",
        help="Cameras and streams (rtsp://, rtmp://, http://, srt://, udp://, /dev/video0, "
        "kafka://BROKER/TOPIC), or files, which play at their own pace. ${VARIABLE} in a URL is taken "
        "from the environment.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write STREAM.jsonl to this folder.", show_default="no files"),
]
Video = Annotated[
    bool,
    typer.Option(
        "--video", help="Also write STREAM.mp4; frames that cannot be encoded in time are left out."
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(metavar="BROKERS/TOPIC", help="Publish to this topic, as in localhost:9092/poses."),
]
MaxAge = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        metavar="SECONDS",
        help="Drop a frame that is older than this when its turn comes at a stage.",
        show_default=f"{MAX_AGE_S:g}; none for a fragment that reads a topic",
    ),
]
Credentials = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML: stream name → {username, password} for its URL."),
]
Control = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Where the control API listens. If other machines can reach it, "
        f"{TOKEN_VARIABLE} must hold a token.",
    ),
]
NoControl = Annotated[bool, typer.Option("--no-control", help="Run without the control API.")]
UntilEnd = Annotated[
    bool, typer.Option("--until-end", help="End when all sources have ended: files end, cameras do not.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no live view and no summaries.")]


def attach(
    sources: Sources = None,
    graph: GraphChoice = "human-lite",
    changes: Changes = None,
    out: Out = None,
    video: Video = False,
    kafka: Kafka = None,
    fragment: Fragment = None,
    max_age: MaxAge = None,
    credentials: Credentials = None,
    control: Control = DEFAULT_ADDRESS,
    no_control: NoControl = False,
    until_end: UntilEnd = False,
    quiet: Quiet = False,
) -> None:
    """Attach to cameras: find the poses in all of them with one graph, the newest frames first.

    When everything is busy, a new frame takes the place of an older one, so results stay recent; every
    dropped frame is counted. A camera that is lost is tried again until it comes back. Ctrl-C stops reading,
    finishes what was read and leaves valid files; a second Ctrl-C stops at once.

    Cameras can be added, removed and listed while it runs (http://127.0.0.1:8787/streams), and Prometheus
    reads its metrics from /metrics; docs/service.md describes both.

    Examples:
    `posestream attach yard=rtsp://192.168.1.20/stream1 barn=rtsp://192.168.1.21/stream1 --out results`

    `posestream attach 'yard=rtsp://me:${PASSWORD}@192.168.1.20/stream1' --kafka localhost:9092/poses`

    `posestream attach webcam=/dev/video0 --graph human-lite --set decode.fps=10`

    `posestream attach --graph human-kafka --fragment pose`

    `curl -X POST localhost:8787/streams --json '{"name": "gate", "uri": "rtsp://192.168.1.22/stream1"}'`
    """  # fmt: skip
    if not sys.stderr.isatty():
        _log_lines_with_time()
    loaded = load_graph(graph, parse_changes(changes))
    sinks = _sinks(out, video, kafka)
    named = name_cameras(sources or [])
    part = None if fragment is None else select_fragment(loaded, fragment, named, sinks, live=True)
    reads = part.sources if part else {}
    if not named and not reads and (no_control or until_end):
        raise ConfigError("no source is given, and none could be attached later: give NAME=URL, or leave out "
                          "--no-control and --until-end")  # fmt: skip
    checked = part.graph if part else with_sinks(loaded, sinks)
    if len(checked.nodes) == 1:
        raise ConfigError(
            f"{checked.where}: it only decodes; give --out or --kafka, or a graph that does more"
        )
    logins = read_credentials(credentials) if credentials else {}
    resolved = reads or {name: resolve_uri(uri, logins.get(name)) for name, uri in named.items()}
    check_weights(checked)
    _warn(checked, named)
    if part:
        create_topics_when_possible(part)
    run = Run(
        checked,
        resolved,
        live=True,
        max_age_s=max_age or (None if reads else MAX_AGE_S),
        keep_open=bool(reads) or not (until_end or no_control),
    )
    serve(Attached(run, logins), None if no_control else control, quiet=quiet)


def _log_lines_with_time() -> None:
    """Log plain lines with the time: stderr is no terminal, so a file or a journal keeps them."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )


def _sinks(out: Path | None, video: bool, kafka: str | None) -> dict[str, dict[str, Any]]:
    if video and out is None:
        raise ConfigError("--video writes to the folder of --out; give --out DIR as well")
    sinks: dict[str, dict[str, Any]] = {}
    if out is not None:
        sinks["jsonl_sink"] = {"dir": str(out)}
    if video:  # drop frames that cannot be encoded in time, so that the video delays nothing else
        sinks["video_sink"] = {"dir": str(out), "workers": "auto", "on_full": "drop_oldest"}
    if kafka is not None:
        brokers, _, topic = kafka.rpartition("/")
        if not topic:
            raise ConfigError(f"--kafka {kafka}: expected BROKERS/TOPIC, as in localhost:9092/poses")
        sinks["kafka_sink"] = {"topic": topic} | ({"brokers": brokers} if brokers else {})
    return sinks


def _warn(graph: Graph, named: dict[str, str]) -> None:
    if not graph.sinks:
        log.warning("no results are kept: give --out DIR or --kafka BROKERS/TOPIC, or a graph with a sink")
    for name, uri in named.items():
        if re.search(r"://[^/@]*:[^/@${]+@", uri):
            log.warning(
                "%s: others on this machine can see the password on the command line; "
                "write ${VARIABLE} instead, or use --credentials FILE", name
            )  # fmt: skip
