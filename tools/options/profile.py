"""The options of `posestream profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MEASURE = "What is measured"
WRITE = "What is written"

GraphArgument = Annotated[
    str, typer.Argument(metavar="GRAPH", help="A ready graph (posestream graph list) or a .yaml file.")
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Video files, images or folders of images; with --live also cameras. "
        "NAME=SOURCE names the stream.",
    ),
]
Streams = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Repeat the sources until there are this many streams.",
        show_default="the sources as they are",
        rich_help_panel=MEASURE,
    ),
]
Seconds = Annotated[
    float, typer.Option("--seconds", "-t", min=0.5, help="How long to measure.", rich_help_panel=MEASURE)
]
Warmup = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Seconds between the first frame and the start of the measurement.",
        rich_help_panel=MEASURE,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that share the sources.",
        show_default="as the graph says; else one a core",
        rich_help_panel=MEASURE,
    ),
]
Live = Annotated[
    bool,
    typer.Option(
        "--live",
        help="Run as attach does: files play at their own pace, and frames that come too fast are dropped.",
        rich_help_panel=MEASURE,
    ),
]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUES",
        help="Measure once with each of these values. NAME is streams, processes, batch, backend or "
        "NODE.OPTION; with several names, every combination is measured.",
        rich_help_panel=MEASURE,
    ),
]
NoBound = Annotated[
    bool,
    typer.Option(
        "--no-bound", help="Do not measure the models and the decoding alone.", rich_help_panel=MEASURE
    ),
]
SampleHz = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1000.0,
        help="How often to sample the Python stacks of the stages; 0 leaves out the flame graph and "
        "the lines at which stages stand still.",
        rich_help_panel=MEASURE,
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--json",
        metavar="FILE",
        help="Write the profile as JSON; for a sweep, a list of profiles.",
        rich_help_panel=WRITE,
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a report for a browser, in one file.", rich_help_panel=WRITE),
]
TraceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write every call and every frame for ui.perfetto.dev; compressed if the name ends in .gz.",
        rich_help_panel=WRITE,
    ),
]
FlameFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the processor time of each Python stack, for speedscope.app or flamegraph.pl.",
        rich_help_panel=WRITE,
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        metavar="BASELINE.json",
        help="Compare with this earlier profile; exit code 1 if anything is worse.",
        rich_help_panel=WRITE,
    ),
]
Tolerance = Annotated[
    float,
    typer.Option(
        min=0.0,
        metavar="PERCENT",
        help="With --compare: a change up to this size is neither better nor worse.",
        rich_help_panel=WRITE,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no table.", rich_help_panel=WRITE)
]
