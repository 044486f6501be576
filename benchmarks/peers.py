"""Frames/s on video files: posestream, its peers, and the bound of this machine.

    python benchmarks/peers.py [CLIP …] [--only mediapipe|rtmlib|ultralytics] [--streams 1,2,4,8] [--repeat 3]
                               [--loops 2] [--pose RTMPOSE-M.onnx] [--yolo YOLO-POSE.pt] [--json FILE]

All sides of a contest run the same weights on the same clips, decode them, and draw nothing. posestream
also tracks, counts only persons that it tracks, and writes JSONL. The time for loading does not count. N
streams are N clips, each played --loops times; if there are fewer clips, they are repeated. posestream plays
them all at once, as `posestream run` does; the lines below a table say how each peer works. The sides are
measured in turn, --repeat times. Figures are medians, with the lowest and the highest value; "posestream is"
is the median of the ratios of all rounds.

The bound is the frames/s of cores that do nothing but decode and run the models, measured alone on one
thread: cores / (decode + the models' times, each as often as a frame needs it).

The peers are installed on first use, in environments of their own in the cache folder (ultralytics with
PyTorch takes 6 GB). Weights that are not given are random, which does not change the speed; making those of
RTMPose-m needs PyTorch in this environment as well.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import harness
from contests import mediapipe, rtmlib, ultralytics
from contests.contest import BOUND, CORES, OURS, Contest
from contests.environment import Figures, versions_in
from harness import Spread

from engines.errors import EngineError
from pipeline.errors import PipelineError

COLUMNS = ("", "frames/s", "cores busy", "persons a frame", "posestream is", "target")
Make = Callable[[Sequence[Path]], Contest]  # makes a contest for the clips of all streams


def main() -> None:
    parser = harness.parser(__doc__ or "", repeat=3)
    parser.add_argument("clips", nargs="*", type=existing, help="default: the sample clips")
    parser.add_argument("--only", choices=PEERS, action="append", help="only this peer; repeatable")
    parser.add_argument("--streams", type=streams, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    parser.add_argument("--loops", type=int, default=2, help="how often a clip is played; default: 2")
    parser.add_argument("--pose", type=existing, metavar="FILE.onnx", help="RTMPose-m, for rtmlib")
    parser.add_argument("--yolo", type=existing, metavar="FILE.pt", help="a YOLO pose model, for ultralytics")
    arguments = parser.parse_args()
    clips = arguments.clips or harness.sample_clips()
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(clips, arguments, Path(folder))
    except (EngineError, PipelineError) as error:
        raise SystemExit(f"peers.py: {error}") from None


def run(clips: Sequence[Path], arguments: argparse.Namespace, folder: Path) -> None:
    """Run all contests one after the other; temporary files go to `folder`."""
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for name in arguments.only or PEERS:
        make, found = PEERS[name](clips, arguments, folder)
        versions |= found
        for number in arguments.streams:
            contest = make(list(islice(cycle(clips), number)))
            measured = measure(contest, number, arguments.repeat)
            show(contest, number, arguments.repeat, measured)
            rows += measured
            document = harness.result(rows, versions=versions, clips=[clip.name for clip in clips])
            harness.write(arguments.json, document)  # after each contest, because all together take long


def existing(text: str) -> Path:
    """The path of a file that exists."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text).resolve()  # absolute, because peers run in other folders


def streams(text: str) -> list[int]:
    """The numbers of a list like 1,2,4,8."""
    numbers = [int(word) for word in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers of at least 1, as in 1,2,4,8")
    return numbers


def against_mediapipe(
    clips: Sequence[Path], arguments: argparse.Namespace, folder: Path
) -> tuple[Make, dict[str, str]]:
    found = versions_in(mediapipe.mediapipe_python(), ["mediapipe", "opencv-contrib-python", "numpy"])
    return partial(mediapipe.contest, loops=arguments.loops), named("mediapipe", found)


def against_rtmlib(
    clips: Sequence[Path], arguments: argparse.Namespace, folder: Path
) -> tuple[Make, dict[str, str]]:
    found = versions_in(rtmlib.rtmlib_python(), ["rtmlib", "onnxruntime", "opencv-python", "numpy"])
    pose = rtmlib.pose_file(arguments.pose)
    int8 = rtmlib.in_int8(pose, clips)
    return partial(rtmlib.contest, loops=arguments.loops, pose=pose, int8=int8), named("rtmlib", found)


def against_ultralytics(
    clips: Sequence[Path], arguments: argparse.Namespace, folder: Path
) -> tuple[Make, dict[str, str]]:
    python = ultralytics.ultralytics_python()
    found = versions_in(python, ["ultralytics", "torch", "onnxruntime", "opencv-python", "numpy"])
    models = ultralytics.prepare(arguments.yolo, clips, folder)
    return partial(ultralytics.contest, loops=arguments.loops, models=models), named("ultralytics", found)


def named(peer: str, versions: dict[str, str]) -> dict[str, str]:
    """A peer's version under its own name; versions of its libraries under the names of both."""
    return {
        package if package == peer else f"{peer}'s {package}": version
        for package, version in versions.items()
    }


PEERS = {"mediapipe": against_mediapipe, "rtmlib": against_rtmlib, "ultralytics": against_ultralytics}


def measure(contest: Contest, streams: int, rounds: int) -> list[dict[str, Any]]:
    """Measure in turn; a row for each side, and one for the bound."""
    cases: dict[str, Callable[[], Any]] = {side.name: side.run for side in contest.sides if side.run}
    found = harness.in_turn({**cases, BOUND: contest.alone}, rounds)
    rows = []
    for side in contest.sides:
        row: dict[str, Any] = {"peer": contest.name, "streams": streams, "side": side.name}
        if runs := found.get(side.name):
            row |= _figures(runs, found[side.against])
            row |= {"against": side.against, "target": side.target}
        rows.append({**row, "setting": side.setting})
    ours: list[Figures] = found[OURS]
    bounds = [contest.bound(ms, one.persons) for ms, one in zip(found[BOUND], ours, strict=True)]
    row = _figures(
        [Figures(fps, CORES, one.persons) for (fps, _), one in zip(bounds, ours, strict=True)], ours
    )
    parts = {part.name: round(part.ms_per_frame, 2) for part in bounds[-1][1]}
    terms = " + ".join(f"{name} {ms:.1f}" for name, ms in parts.items())
    rows.append(
        {"peer": contest.name, "streams": streams, "side": BOUND, **row, "target": contest.bound_target,
         "setting": f"{CORES} cores / ({terms} ms)", "parts_ms": parts}
    )  # fmt: skip
    return rows


def _figures(runs: Sequence[Figures], ours: Sequence[Figures]) -> dict[str, Any]:
    """Medians and spreads of a side, and the ratio of ours to it."""
    fps, cores, persons = (Spread.of(values) for values in zip(*runs, strict=True))
    ratio = harness.ratios([one.fps for one in ours], [one.fps for one in runs])
    return {"fps": asdict(fps), "cores": cores.median, "persons": persons.median, "ours_is": asdict(ratio)}


def show(contest: Contest, streams: int, rounds: int, rows: Sequence[dict[str, Any]]) -> None:
    """Print the table of a contest, and below it how each side worked."""
    title = f"{contest.name}, {streams} stream{'s' * (streams > 1)}, medians of {rounds} (lowest to highest)"
    harness.show(title, COLUMNS, [[row["side"], *_cells(row)] for row in rows])
    for line in [*contest.notes, *(f"{row['side']}: {row['setting']}" for row in rows)]:
        print(f"  {line}")
    print(flush=True)


def _cells(row: dict[str, Any]) -> list[str]:
    if "fps" not in row:
        return ["not run", "", "", "", ""]
    of_bound = row["side"] == BOUND
    form, scale = ("{:.0f} %", 100) if of_bound else ("{:.2f} x", 1)
    ratio = "" if row["side"] == OURS else Spread(**row["ours_is"]).written(form, scale)
    target = form.format(scale * row["target"]) if row["target"] else ""
    return [str(Spread(**row["fps"])), f"{row['cores']:.2f}", f"{row['persons']:.2f}", ratio, target]


if __name__ == "__main__":
    main()
