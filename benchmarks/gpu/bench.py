"""Speed on an NVIDIA GPU: whole graphs by number of streams, and the pose model by batch size.

    python benchmarks/gpu/bench.py [--minutes 7] [--streams 1,2,4,8,16,32,64] [--batch 1,2,4,8,16,32,64]
                                   [--persons 1] [--seconds 3] [--clip FILE] [--detector MODEL] [--pose MODEL]
                                   [--dry-run] [--commit HASH] [--json FILE] [--out FOLDER]
                                   [--carried FOLDER]

Streams: files of 1080p H.264 go through decode, detect, track and pose as fast as they can; frames stay on
the GPU. The table compares this with decoding alone on as many streams and with the two models alone at their
best batch; "of bound" is the share of the slower of these two. Then 50 streams are paced at 30 frames/s each.

Pose: crops/s of RTMPose-m in FP16 by batch size, with each backend that is installed, alone and in the graph.
The graph runs with TensorRT if it is installed, else with ONNX Runtime if that has CUDA, else with PyTorch.

The result says what is random. Weights are, if neither the cache nor POSESTREAM_MIRROR has trained ones.
Boxes always are: the detector's best, however low their scores, so that each frame has --persons crops.
Unless --clip is given, the clip is generated: figures that move before a texture. A measurement that cannot
run here, or for which no time is left, has a row with the reason. --dry-run runs all of it on the CPU, with
small inputs. Without --json the result goes to benchmarks/results/gpu/, named after the GPU; without a GPU it
goes to build/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packing import carried

if __name__ == "__main__":
    carried.use_from(sys.argv[1:])
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measuring.clip import make_clip
from measuring.isolation import Deadline, Row, run_isolated
from measuring.networks import (
    Model,
    alone,
    built,
    by_compiler,
    by_onnxruntime,
    exported,
    in_half,
    named,
    no_cuda_provider,
)
from measuring.result_files import parser, result_path, save_result
from measuring.streams import Load, decoded, measured
from measuring.tables import PACED_P95_MS, TARGET, show
from measuring.torch_networks import COMPILED, HALF, PLAIN

from engines.device.names import cuda_devices
from engines.home import cache_home
from engines.tensorrt.flavours import FLAVOURS

DETECTOR, POSE = "rtmdet-nano-pth", "rtmpose-m-body8"
# Streams of 30 frames/s, about 1,500 detections/s, at which a p95 of 901 ms was measured on one H100.
PACED = 50
# Long enough for some seconds at full speed, since decoders start it again at its end.
CLIP_S = 300
GRAPH_STREAMS, GRAPH_BATCHES, GRAPH_EVERY = 8, (1, 8, 64), 10


@dataclass
class Setting:
    """What is measured, and on which device."""

    device: str
    size: tuple[int, int]
    streams: list[int]
    batches: list[int]
    graph_batches: list[int]
    graph_streams: int
    paced: int
    persons: int
    seconds: float
    detector: str
    pose: str
    clip: str = ""


def main() -> int:
    made = parser(__doc__ or "")
    made.add_argument("--streams", type=numbers, help="numbers of streams; default 1,2,4,8,16,32,64")
    made.add_argument("--batch", type=numbers, help="batch sizes; default 1,2,4,8,16,32,64")
    made.add_argument("--persons", type=int, default=1, help="crops of each frame; default 1")
    made.add_argument("--seconds", type=float, help="length of each measurement; default 3")
    made.add_argument("--clip", type=Path, metavar="FILE", help="video to use instead of the generated one")
    made.add_argument("--detector", default=DETECTOR, metavar="MODEL", help=f"default {DETECTOR}")
    made.add_argument("--pose", default=POSE, metavar="MODEL", help=f"default {POSE}")
    made.add_argument("--dry-run", action="store_true", help="run all of it on the CPU, with small inputs")
    given = made.parse_args()
    if not given.dry_run and not cuda_devices():
        raise SystemExit(
            "bench.py: no CUDA device here; --dry-run runs all of it on the CPU, with small inputs"
        )
    setting, deadline = setting_of(given), Deadline(given.minutes)
    with tempfile.TemporaryDirectory() as folder:
        setting.clip = str(given.clip or make_clip(*clip_of(setting, given.dry_run)))
        rows, random = measure(setting, deadline, folder)
    show(rows, setting.size)
    more = {"setting": vars(setting) | {"clip": Path(setting.clip).name}, "random": random}
    save_result(result_path("bench", given), rows, given, target=TARGET, paced_p95_ms=PACED_P95_MS, **more)
    return 0 if any("fps" in row for row in rows) else 1


def numbers(text: str) -> list[int]:
    """Parse the option value 1,2,4."""
    values = [int(word) for word in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers of at least 1, such as 1,2,4")
    return values


def setting_of(given: argparse.Namespace) -> Setting:
    """What to measure; for a dry run, with small inputs."""
    dry = given.dry_run
    sizes = [1, 2] if dry else [1, 2, 4, 8, 16, 32, 64]
    batches = given.batch or sizes
    return Setting(
        device="cpu" if dry else "cuda:0",
        size=(192, 108) if dry else (1920, 1080),
        streams=given.streams or sizes,
        batches=batches,
        graph_batches=[batch for batch in batches if dry or batch in GRAPH_BATCHES],
        graph_streams=1 if dry else GRAPH_STREAMS,
        paced=2 if dry else PACED,
        persons=given.persons,
        seconds=given.seconds or (0.3 if dry else 3.0),
        detector=given.detector,
        pose=given.pose,
    )


def clip_of(setting: Setting, dry: bool) -> tuple[Path, tuple[int, int], float]:
    """The clip's path, size and length in s."""
    seconds = 1 if dry else CLIP_S
    width, height = setting.size
    return cache_home() / "benchmarks" / f"gpu-{width}x{height}-{seconds}s.mp4", setting.size, seconds


def measure(setting: Setting, deadline: Deadline, folder: str) -> tuple[list[Row], dict[str, str]]:
    """All rows, the most important measurements first; and what is random in them."""
    rows: list[Row] = []
    models, why = prepare(setting, deadline, rows, folder)
    if models is None:
        return [{"kind": "streams", "why": why}], {}
    detector, pose = models
    random = {"detector": detector.weights, "pose": pose.weights,
              "boxes": f"the {setting.persons} best of each frame, however low their scores"}  # fmt: skip
    best = add_rows(rows, {"kind": "alone", "model": "detector", "backend": detector.backend}, alone,
                    detector, setting.device, setting.batches, setting.seconds / 3,
                    within_s=deadline.left(60))  # fmt: skip
    detector_rate = max((row["items_per_s"] for row in best), default=None)
    pose_rate = measure_pose(rows, pose, setting, deadline)
    add_rows(rows, {"kind": "decode"}, decoded, setting.clip, setting.device, setting.streams,
             setting.seconds / 2, within_s=deadline.left(90))  # fmt: skip
    load = Load(setting.clip, setting.device, detector, pose, setting.persons)
    add_rows(rows, {"kind": "streams"}, measured, [load], setting.streams, setting.seconds, False,
             within_s=deadline.left(180))  # fmt: skip
    for name, one in {"detect, track": replace(load, pose=None), "detect, track, pose": load}.items():
        add_rows(rows, {"kind": "paced", "graph": name}, measured, [one], [setting.paced], setting.seconds,
                 True, within_s=deadline.left(60))  # fmt: skip
    add_bounds(rows, detector_rate, pose_rate, setting.persons)
    through_graph(rows, setting, deadline, detector, pose)
    measure_others(rows, setting, deadline, detector, pose, folder)
    return rows, random


def prepare(
    setting: Setting, deadline: Deadline, rows: list[Row], folder: str
) -> tuple[tuple[Model, Model] | None, str]:
    """Both models with the fastest backend that runs both here, and the reason; each plan becomes a row.

    TensorRT and ONNX Runtime run exports. PyTorch runs the networks themselves: if the models cannot be
    exported, or if nothing here runs exports on the GPU.
    """
    models = []
    why = ""
    for name in (setting.detector, setting.pose):
        found, why_not = run_isolated(exported, name, within_s=deadline.left(120))
        if not found:
            why = f"{name} cannot be exported: {why_not}"
            break
        models.append(Model(**found[0]))
    if why:
        return _by_pytorch(setting, deadline, rows, why)
    if setting.device == "cpu":
        rows.append({"kind": "backend", "backend": "onnxruntime", "why": "no plans on the CPU"})
        return (models[0], models[1]), ""
    backend = _with_plans(setting, deadline, models, rows)
    why = "its plans of both models were built and verified"
    if not backend:
        if why := no_cuda_provider():
            return _by_pytorch(setting, deadline, rows, f"no plans, and {why}")
        backend = "onnxruntime-cuda"
        half, why_not = run_isolated(in_half, models[1], folder, within_s=deadline.left(60))
        if half:
            models[1] = replace(models[1], path=half[0]["path"])
        why = f"no plans; the pose model in {'FP16' if half else f'FP32, as FP16 failed: {why_not}'}"
    rows.append({"kind": "backend", "backend": backend, "why": why})
    return (models[0].by(backend), models[1].by(backend)), ""


def _by_pytorch(
    setting: Setting, deadline: Deadline, rows: list[Row], why: str
) -> tuple[tuple[Model, Model] | None, str]:
    """Both models as networks of PyTorch, the pose model in FP16; `why` says why no backend is faster."""
    models = []
    for name, way in ((setting.detector, PLAIN), (setting.pose, HALF)):
        found, why_not = run_isolated(named, name, way, within_s=deadline.left(60))
        if not found:
            return None, f"{why}; and not with PyTorch: {why_not}"
        models.append(Model(**found[0]))
    rows.append({"kind": "backend", "backend": PLAIN, "why": why})
    return (models[0], models[1]), ""


def _with_plans(setting: Setting, deadline: Deadline, models: list[Model], rows: list[Row]) -> str:
    """The first backend that could build plans of both models; "" if none could."""
    for backend, kind in FLAVOURS.items():
        if not find_spec(kind.module):
            rows.append({"kind": "plan", "backend": backend, "why": f"{kind.module} is not installed"})
            continue
        done = True
        for model in models:
            labels = {"kind": "plan", "backend": backend, "model": Path(model.path).name}
            done &= bool(add_rows(rows, labels, built, model.by(backend), setting.batches,
                                  within_s=deadline.left(150)))  # fmt: skip
            if not done:
                break
        if done:
            return backend
    return ""


def measure_pose(
    rows: list[Row], pose: Model, setting: Setting, deadline: Deadline, function: Any = alone
) -> float | None:
    """Measure the pose model alone, by batch size; its best rate, crops/s."""
    labels = {"kind": "alone", "model": "pose", "backend": pose.backend}
    found = add_rows(rows, labels, function, pose, setting.device, setting.batches, setting.seconds / 3,
                     within_s=deadline.left(60))  # fmt: skip
    return max((row["items_per_s"] for row in found), default=None)


def through_graph(
    rows: list[Row], setting: Setting, deadline: Deadline, detector: Model, pose: Model
) -> None:
    """Measure poses in the graph, one frame in a call, so that a batch has exactly the frame's crops."""
    loads = [
        Load(setting.clip, setting.device, detector, pose, batch, every=GRAPH_EVERY, frames_a_call=1)
        for batch in setting.graph_batches
    ]
    labels = {"kind": "graph", "model": "pose", "backend": pose.backend}
    add_rows(rows, labels, measured, loads, [setting.graph_streams], setting.seconds, False,
             within_s=deadline.left(20 + 15 * len(loads)))  # fmt: skip


def measure_others(
    rows: list[Row], setting: Setting, deadline: Deadline, detector: Model, pose: Model, folder: str
) -> None:
    """Measure the pose model with ONNX Runtime, TensorRT for RTX and torch.compile, if installed."""
    if setting.device != "cpu" and not pose.torch_way and pose.backend != "onnxruntime-cuda":
        half, why = run_isolated(in_half, pose, folder, within_s=deadline.left(60))
        if half:
            ort = replace(pose, path=half[0]["path"], backend="onnxruntime-cuda")
            measure_pose(rows, ort, setting, deadline, by_onnxruntime)
            through_graph(rows, setting, deadline, detector, ort)
        else:
            rows.append({"kind": "alone", "model": "pose", "backend": "onnxruntime-cuda", "why": why})
    built_for = {row["backend"] for row in rows if row["kind"] == "plan" and "why" not in row}
    rtx = pose.by("tensorrt-rtx")
    if setting.device != "cpu" and pose.backend == "tensorrt" and find_spec(FLAVOURS["tensorrt-rtx"].module):
        labels = {"kind": "plan", "backend": rtx.backend, "model": Path(rtx.path).name}
        if add_rows(rows, labels, built, rtx, setting.batches, within_s=deadline.left(60)):
            built_for.add(rtx.backend)
            measure_pose(rows, rtx, setting, deadline)
            through_graph(rows, setting, deadline, detector, rtx)
    largest_first = sorted(setting.batches, reverse=True)  # if the time runs out, the small ones are missing
    add_rows(rows, {"kind": "alone", "model": "pose", "backend": COMPILED}, by_compiler, pose,
             setting.device, largest_first, setting.seconds / 3, within_s=deadline.left(150))  # fmt: skip


def add_rows(rows: list[Row], labels: Row, function: Any, *arguments: Any, within_s: float) -> list[Row]:
    """Run a function in a process of its own, and add its rows with labels; after a failure, the reason."""
    print(*(str(label) for label in labels.values()), "…", file=sys.stderr, flush=True)
    found, why = run_isolated(function, *arguments, within_s=within_s)
    rows += [{**labels, **row} for row in found]
    if why:
        print(f"  {why}", file=sys.stderr, flush=True)
        rows.append({**labels, "why": why})
    return found


def add_bounds(rows: list[Row], detector: float | None, pose: float | None, persons: int) -> None:
    """Add to each row the frames/s of decoding and of the engines alone, and its share of the slower."""
    alone_fps = {row["streams"]: row["fps"] for row in rows if row["kind"] == "decode" and "fps" in row}
    engines = None if not detector or not pose else 1 / (1 / detector + persons / pose)
    for row in rows:
        if row["kind"] != "streams" or "fps" not in row:
            continue
        bounds = {"decode_alone_fps": alone_fps.get(row["streams"]), "engines_alone_fps": engines}
        known = {name: round(fps, 1) for name, fps in bounds.items() if fps}
        row |= known
        if len(known) == len(bounds):
            row["of_bound"] = round(row["fps"] / min(known.values()), 3)


if __name__ == "__main__":
    sys.exit(main())
