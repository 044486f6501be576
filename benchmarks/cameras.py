"""Scaling over cameras: how many frames 1 to 64 cameras get from one machine, and what each camera costs.

    python benchmarks/cameras.py [--cameras 1,2,4,8,16,32,64] [--camera-fps 15] [--fps RATE] [--height 360]
                                 [--graph human-lite] [--warmup 5] [--seconds 20] [--json FILE]

A camera is a file that plays at its own pace, as in `posestream attach`: a sample clip, played forwards and
backwards, encoded again at --camera-fps frames/s with --height px on its shorter side. --fps drops frames
behind the decoder (`decode.fps`). Each number of cameras runs in a new process; the cameras start one after
the other within the time of a frame, as real ones do. Results go to JSONL files; frames older than 2 s are
dropped.

`decode ms` is processor time of the decoding threads for each frame read, `work ms` all other processor time
for each frame published. Neither should grow with the number of cameras, so both are also given as a multiple
of the first row. Exit code 1 if read = published + dropped does not hold for each camera at the end, or if 64
cameras of at most one frame a second take 1,500 MB or more.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import harness
import psutil

from engines.home import cache_home
from operators.graphs.graph_files import load_graph, with_sinks
from pipeline.measurement.run_stats import RunStats
from pipeline.run import Run

MB = 1e6
MAX_AGE_S = 2.0
MEMORY_MB = 1500.0  # limit for 64 cameras of one frame a second
COLUMNS = (
    "cameras", "published/s", "published", "age p50 ms", "p99 ms", "MB", "MB a camera", "decode ms",
    "× first", "work ms", "× first", "cores", "threads", "dropped",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What is the same for all numbers of cameras."""

    clip: Path
    camera_fps: int
    graph: str
    fps: float | None
    warmup_s: float
    seconds: float


@dataclass(frozen=True)
class Point:
    """The figures for a number of cameras, in the measured time."""

    cameras: int
    published_fps: float
    published: float  # share of the frames that were published or dropped
    dropped: dict[str, float]  # by reason, as a share of the same frames
    age_p50_ms: float
    age_p99_ms: float
    memory_mb: float  # resident, highest value
    memory_a_camera_mb: float  # without the memory of the process before it read anything
    cpu_ms_read: float  # processor time of the process for each frame read …
    cpu_ms_published: float  # … and for each frame published
    decode_ms: float  # processor time of the decoding threads for each frame read
    work_ms: float  # all other processor time for each frame published
    cores: float
    threads: int
    open_books: list[str]  # cameras for which read = finished + dropped does not hold at the end


def main() -> int:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("--cameras", default="1,2,4,8,16,32,64", help="default: 1,2,4,8,16,32,64")
    parser.add_argument("--camera-fps", type=int, default=15, help="default: 15")
    parser.add_argument("--fps", type=float, help="drop frames down to this many frames/s; default: all")
    parser.add_argument("--height", type=int, default=360, help="shorter side in px; default: 360")
    parser.add_argument("--graph", default="human-lite", help="default: human-lite")
    parser.add_argument("--warmup", type=float, default=5.0, help="in seconds; default: 5")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds to measure; default: 20")
    given = parser.parse_args()
    clip = make_clip(given.height, given.camera_fps)
    setting = Setting(clip, given.camera_fps, given.graph, given.fps, given.warmup, given.seconds)
    points: list[Point] = []
    for cameras in (int(number) for number in given.cameras.split(",")):
        # A new process each time, because memory left over from the last one would count.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            points.append(process.submit(measure, cameras, setting).result())
        print(f"{cameras} cameras: {points[-1].published_fps:.1f} frames/s", file=sys.stderr, flush=True)
    rate = given.fps or given.camera_fps
    harness.show(
        f"{given.graph}, cameras of {given.camera_fps} frames/s, {rate:g} used, {given.height} px",
        COLUMNS,
        [cells(point, points[0]) for point in points],
    )
    targets = judge(points, rate)
    for target, met in targets.items():
        print(f"  {'met   ' if met else 'MISSED'}  {target}")
    document = harness.result([asdict(point) for point in points], targets=targets, clip=clip.name)
    harness.write(given.json, document)
    return 0 if all(targets.values()) else 1


def make_clip(height: int, fps: int) -> Path:
    """A sample clip of this height and rate, forwards and backwards for 20 s or 60 frames; cached."""
    path = cache_home() / "benchmarks" / f"camera-{height}px-{fps}fps.mp4"
    if path.exists():
        return path
    with av.open(str(harness.sample_clip())) as source:
        video = source.streams.video[0]
        scale = height / min(video.width, video.height)
        size = [round(side * scale / 2) * 2 for side in (video.width, video.height)]
        step = max(round(float(video.average_rate or fps) / min(fps, 15)), 1)
        frames = [
            frame.reformat(width=size[0], height=size[1], format="yuv420p")
            for number, frame in enumerate(source.decode(video))
            if number % step == 0
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{os.getpid()}-{path.name}")
    known = "libx264" in av.codecs_available
    options = {"preset": "veryfast", "tune": "zerolatency"} if known else {}  # no frame held back
    with av.open(str(part), "w") as target:
        stream = target.add_stream("libx264" if known else "mpeg4", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = 2 * fps
        there_and_back = itertools.cycle([*frames, *frames[-2:0:-1]])
        for number, frame in zip(range(max(20 * fps, 60)), there_and_back, strict=False):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, fps), 0
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    part.replace(path)
    return path


def measure(cameras: int, setting: Setting) -> Point:
    """Run this many cameras in this process."""
    process = psutil.Process()
    changes: dict[str, object] = {"decode.loop": 0} | ({"decode.fps": setting.fps} if setting.fps else {})
    with tempfile.TemporaryDirectory() as folder:
        graph = with_sinks(load_graph(setting.graph, changes), {"jsonl_sink": {"dir": folder}})
        run = Run(graph, live=True, max_age_s=MAX_AGE_S, keep_open=True)
        run.start()
        before_mb = process.memory_info().rss / MB
        for number in range(cameras):
            run.add_source(f"camera{number}", str(setting.clip))
            time.sleep(1 / (setting.fps or setting.camera_fps) / cameras)
        run.wait(setting.warmup_s)
        before, memory_mb = run.stats(), 0.0
        end = time.monotonic() + setting.seconds
        while not run.wait(min(0.5, max(end - time.monotonic(), 0))) and time.monotonic() < end:
            memory_mb = max(memory_mb, process.memory_info().rss / MB)
        window, threads = run.stats().since(before), process.num_threads()
        run.stop()
        stats = run.finish()
    memory_mb = max(memory_mb, before_mb)
    return point(cameras, window, stats, memory_mb, (memory_mb - before_mb) / cameras, threads)


def point(
    cameras: int, window: RunStats, stats: RunStats, memory_mb: float, each_mb: float, threads: int
) -> Point:
    """The figures of a window of a run; `stats` are those of the run's end."""
    read = max(sum(stream.read for stream in window.streams), 1)
    published = max(window.finished, 1)
    dropped: Counter[str] = Counter()
    for losses in [edge.dropped for edge in window.edges] + [stage.dropped for stage in window.stages]:
        dropped.update(losses)
    settled = published + dropped.total()
    decode_ns = window.stages[0].work.cpu_ns
    return Point(
        cameras=cameras,
        published_fps=round(window.fps, 2),
        published=round(window.finished / settled, 4),
        dropped={reason: round(frames / settled, 4) for reason, frames in dropped.items()},
        age_p50_ms=round(window.age_p50_ms, 1),
        age_p99_ms=round(window.age_p99_ms, 1),
        memory_mb=round(memory_mb, 1),
        memory_a_camera_mb=round(each_mb, 2),
        cpu_ms_read=round(window.cpu_ns / read / 1e6, 3),
        cpu_ms_published=round(window.cpu_ns / published / 1e6, 3),
        decode_ms=round(decode_ns / read / 1e6, 3),
        work_ms=round((window.cpu_ns - decode_ns) / published / 1e6, 3),
        cores=round(window.cores_busy, 2),
        threads=threads,
        open_books=[s.name for s in stats.streams if s.read != s.finished + s.dropped],
    )


def cells(point: Point, first: Point) -> list[str]:
    """The row of the table."""
    dropped = ", ".join(f"{reason} {share:.0%}" for reason, share in sorted(point.dropped.items()))
    return [
        str(point.cameras),
        f"{point.published_fps:.1f}",
        f"{point.published:.0%}",
        f"{point.age_p50_ms:.0f}",
        f"{point.age_p99_ms:.0f}",
        f"{point.memory_mb:.0f}",
        f"{point.memory_a_camera_mb:.1f}",
        f"{point.decode_ms:.2f}",
        f"{point.decode_ms / max(first.decode_ms, 1e-9):.2f}",
        f"{point.work_ms:.1f}",
        f"{point.work_ms / max(first.work_ms, 1e-9):.2f}",
        f"{point.cores:.2f}",
        str(point.threads),
        dropped or "none",
    ]


def judge(points: list[Point], rate: float) -> dict[str, bool]:
    """The targets, and whether each is met."""
    books = [f"{name} of {point.cameras}" for point in points for name in point.open_books]
    targets = {"read = published + dropped for each camera": not books}
    most = max(points, key=lambda point: point.cameras)
    if rate <= 1 and most.cameras == 64:
        targets[f"64 cameras: {most.memory_mb:.0f} MB, below {MEMORY_MB:.0f}"] = most.memory_mb < MEMORY_MB
    return targets


if __name__ == "__main__":
    sys.exit(main())
