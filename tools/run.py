"""`posestream run`: process video files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from operators.graphs.graph_files import load_graph
from operators.graphs.graph_run import name_sources
from operators.graphs.weights import check_weights
from pipeline.errors import ConfigError
from tools.file_run import file_sinks, process_files, show_run
from tools.options.graph import Changes, Fragment, GraphChoice, parse_changes
from tools.run_fragment import make_fragment_run, select_fragment

OUT = Path("out")
EXTRA_SINKS = {"video": "video_sink", "coco": "coco_sink", "parquet": "parquet_sink"}


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
        typer.Option(
            "--out", "-o", help="Folder for the results.", show_default="out; no files with --fragment"
        ),
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no summary.")] = False,
) -> None:
    """Find, track and measure the poses in video files; results go to OUT/STREAM.jsonl.

    All sources are processed at the same time, by one graph. Ctrl-C stops reading, finishes what was read and
    leaves valid files; a second Ctrl-C stops at once. A fragment that reads a topic runs until it is stopped.

    Examples:
    `posestream run walk.mp4 --video`

    `posestream run left=cam01.mp4 right=cam02.mp4 --out results --parquet`

    `posestream run zoo.mp4 --graph animal-boxes --set detect.min_score=0.4`

    `posestream run --graph human-kafka --fragment pose`
    """  # fmt: skip
    wanted = {"video": video, "coco": coco, "parquet": parquet}
    extra = [sink for name, sink in EXTRA_SINKS.items() if wanted[name]]
    checked = load_graph(graph, parse_changes(changes))
    named = name_sources(sources or [])
    if fragment is not None:
        sinks = file_sinks(out or OUT, extra) if out or extra else {}
        part = select_fragment(checked, fragment, named, sinks)
        check_weights(part.graph)
        show_run(make_fragment_run(part, named, processes), quiet=quiet)
    elif named:
        process_files(checked, named, out or OUT, extra, processes=processes, quiet=quiet)
    else:
        raise ConfigError("no SOURCE is given: expected video files, images or folders of images")
