"""The first minutes on a GPU: does each part of the path work, from the driver to whole graphs?

    python benchmarks/gpu/first.py [--carried FOLDER] [--out FOLDER] [--minutes 3] [--commit HASH] [--dry-run]

Each part runs in a process of its own, under its own time limit, and prints one line. All results are in one
JSON, written after each part, and all output, tracebacks and the stacks of what hangs in one log beside it.
--carried is the folder that carry.py has filled; without it, posestream's packages must be installed. If
NVDEC refuses the clip, frames are decoded on the processor and uploaded, and the results say why. --dry-run
runs on the CPU what can run there. Exit code 1 if a part failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packing import carried

# name, function (imported in the part's own process), most seconds
PARTS = (
    ("driver and libraries", "steps.machine:driver_and_libraries", 20),
    ("imports", "steps.machine:imports", 40),
    ("context and streams", "steps.device:context_and_streams", 20),
    ("kernel crop", "steps.device:kernel_crop", 25),
    ("kernel nms", "steps.device:kernel_nms", 20),
    ("NVDEC frames", "steps.decoding:frames", 25),
    ("NVDEC reopened", "steps.decoding:reopening", 30),
    ("CUDA graph capture", "steps.device:graph_capture", 20),
    ("no device-wide waits", "steps.whole:no_device_wide_waits", 40),
    ("kernel of a user", "steps.own_kernel:blur_heads", 25),
    ("1, 8 and 32 streams", "steps.whole:streams", 60),
)
LONG = 100  # times the carried clip of 3 s; at 1,000 frames/s it lasts 9 s


def main() -> int:
    given = started(__doc__ or "", minutes=3.0)
    from measuring.parts import Report

    report = Report("first", given, dry_run=given.dry_run)
    with tempfile.TemporaryDirectory() as folder:
        place = place_of(given, Path(folder))
        for name, function, seconds in PARTS:
            report.run(name, function, place, within_s=seconds)
    return report.close()


def started(
    doc: str,
    minutes: float,
    words: Sequence[str] | None = None,
    options: Mapping[str, dict[str, Any]] | None = None,
) -> argparse.Namespace:
    """Read the options, install what is carried, and check that there is a GPU or that none is asked for.

    posestream can be imported only after this.

    Args:
        doc: what --help shows.
        minutes: the time limit unless --minutes is given.
        words: of the command line; None for all.
        options: further options, with the arguments of `add_argument`.
    """
    carried.use_from(sys.argv[1:])
    from measuring.result_files import parser

    from engines.device.names import cuda_devices

    made = parser(doc, minutes)
    made.add_argument("--dry-run", action="store_true", help="run on the CPU what can run there")
    for name, arguments in (options or {}).items():
        made.add_argument(name, **arguments)
    given = made.parse_args(words)
    if not given.dry_run and not cuda_devices():
        raise SystemExit(f"{Path(sys.argv[0]).name}: no CUDA device here; --dry-run rehearses on the CPU")
    return given


def place_of(given: argparse.Namespace, folder: Path) -> Any:
    """The device, and the clips; those that are not carried are made in `folder`."""
    from measuring.clip import LOOP_S, make_clip, repeated
    from steps import Place

    clip = given.carried / carried.CLIP if given.carried else None
    clip = clip or make_clip(folder / carried.CLIP, (1920, 1080), LOOP_S)
    return Place(
        "cpu" if given.dry_run else "cuda:0", str(clip), str(repeated(clip, folder / "long.mp4", LONG))
    )


if __name__ == "__main__":
    sys.exit(main())
