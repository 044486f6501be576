"""The host's cost of a frame on the GPU path: the same graph on a device that takes no time.

    python benchmarks/gpu/host.py [--streams 1,8,32,64] [--persons 1] [--seconds 4] [--json FILE]

This needs PyTorch, but no GPU. Decoded frames lie on the "device", kernels and models do nothing, and boxes
are always the same. All else runs as it does beside a GPU: surfaces, streams and events, launches, read-out,
tracking, threads and edges. So the frames/s here are the most with which one process can feed a GPU. Not
included is the time inside FFmpeg and inside CUDA's driver.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import harness
import torch
from bench import numbers

import operators.detect
import operators.pose
from engines.backends.base import Engine
from engines.contracts.contract import Contract
from engines.device.devices import open_device, thread_stream
from engines.device.pool import SurfacePool
from engines.device.transfers import KeepAlive
from engines.images.yuv import rgb_matrix
from engines.kernels import crop, nms
from engines.tensorrt.engine import TensorrtEngine
from engines.tensorrt.flavours import TensorRT
from operators import REGISTRY
from pipeline.graph import check_graph
from pipeline.operator import Source
from pipeline.packet import Packet
from pipeline.run import Run
from tests.support.devices.fake_tensorrt import FakeContext, FakeEngine, FakeTensor, array_at, fake_tensorrt

WARM_S = 2.0
SIZE = (64, 36)  # width, height of the frames; nothing reads them
# The models' outputs are small: here the CPU reads them out, on the GPU path the GPU does.
CANDIDATES, BINS = 64, 16
BOXES = np.zeros((CANDIDATES, 5), np.float32)  # x0 y0 x1 y1 score: side by side, best first
BOXES[:, 0] = 90 * np.arange(CANDIDATES)
BOXES[:, 2], BOXES[:, 3], BOXES[:, 4] = BOXES[:, 0] + 80, 200, np.linspace(0.9, 0.3, CANDIDATES)
COLUMNS = ("streams", "frames/s", "µs a frame", "detect", "track", "pose", "frames a call")


class Decoded(Source):
    """A source of frames on the device, as fast as the graph takes them."""

    provides = ("image",)

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def read(self, stream: str, uri: str) -> Iterator[Packet]:
        device, (width, height) = open_device("cpu"), SIZE
        pool, kept, matrix = SurfacePool(device, 64), KeepAlive(), rgb_matrix("bt709", full_range=False)
        planes = [
            torch.zeros((height, width), dtype=torch.uint8),
            torch.zeros((height // 2, width // 2, 2), dtype=torch.uint8),
        ]
        copying = thread_stream(device)
        for seq in itertools.count():
            if self._stopped.is_set():
                return
            image = pool.from_device(
                planes, matrix, copying, device.legacy_stream_event(), owner=planes, keep_alive=kept
            )
            yield Packet(stream, seq, seq * 33_333_333, time.time_ns(), SIZE, image)

    def stop(self) -> None:
        self._stopped.set()


class NoKernel:
    """A kernel that launches nothing; for suppression, it keeps the first `persons` boxes of each image."""

    def __init__(self, persons: int):
        self._persons = persons

    def launch(self, grid: tuple[int, ...], block: tuple[int, ...], params: np.ndarray, stream: int) -> None:
        if params.dtype == nms.PARAMETERS:
            kept, count = int(params["kept"]), int(params["count"])
            ctypes.memset(kept, 0, grid[0] * count)
            for image in range(grid[0]):
                ctypes.memset(kept + image * count, 1, self._persons)


class IdleContext(FakeContext):
    """Runs nothing: outputs are written once, when their addresses are set; detectors get `BOXES`."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        tensor = self.engine.tensors[name]
        if not tensor.is_input:
            output = array_at(address, (self.rows, *tensor.shape), tensor.dtype)
            output[:] = BOXES if tensor.shape == BOXES.shape else 0
        return super().set_tensor_address(name, address)

    def execute_async_v3(self, handle: int) -> bool:
        return True


def idle_plan(contract: Contract) -> FakeEngine:
    """A plan with the inputs and outputs of a contract, made small, whose runs do nothing."""
    width, height = contract.input.size
    tensors = {contract.input.name: FakeTensor((3, height, width), is_input=True)}
    for output in contract.outputs.values():
        shape = tuple(CANDIDATES if n < 0 else min(n, BINS) if n > 100 else n for n in output.shape[1:])
        tensors[output.name] = FakeTensor(shape, np.int64 if output.name == "labels" else np.float32)
    return FakeEngine(tensors, (1, 16, 64), IdleContext)


def load_idle_engine(contract: Contract, **_: Any) -> Engine:
    """In place of `load_engine`: the engine of a plan whose runs do nothing."""
    plan = idle_plan(contract)
    flavour = TensorRT(fake_tensorrt(lambda logger, content: plan))
    kernels = Path(tempfile.gettempdir(), "none.kernels")
    return TensorrtEngine(flavour, b"", kernels, name=contract.name, device="cpu")


def measure(streams: int, persons: int, seconds: float) -> dict[str, Any]:
    """Run the graph on this many streams at once, and measure it after the warm-up."""
    batch = {"max": 32, "wait_ms": 4}
    nodes: dict[str, dict[str, Any]] = {
        "decode": {"op": "decoded"},
        "detect": {
            "op": "detect",
            "model": "rtmdet-nano",
            "max_detections": persons,
            "batch": batch,
            "after": "decode",
        },
        "track": {"op": "track", "batch": {"max": 16}, "after": "detect"},
        "pose": {"op": "pose", "model": "rtmpose-m-body8", "batch": batch, "after": "track"},
    }
    graph = check_graph({"name": "host", "graph": nodes}, {**REGISTRY, "decoded": Decoded})
    run = Run(graph, {f"camera{n}": "" for n in range(streams)})
    run.start()
    try:
        run.wait(WARM_S)
        before, cpu = run.stats(), time.process_time()
        run.wait(seconds)
        lately, cpu = run.stats().since(before), time.process_time() - cpu
    finally:
        run.stop()
        run.finish()
    stages = {stage.name: stage for stage in lately.stages}
    return {
        "streams": streams,
        "persons": persons,
        "fps": round(lately.fps, 1),
        "persons_a_frame": round(sum(one.instances for one in lately.streams) / max(lately.finished, 1), 2),
        "us_a_frame": round(cpu / max(lately.finished, 1) * 1e6),
        **{
            f"{name}_us": round(stages[name].cpu * lately.seconds / max(stages[name].packets_in, 1) * 1e6)
            for name in ("detect", "track", "pose")
        },
        "frames_a_call": {name: round(stages[name].mean_batch, 1) for name in ("detect", "track", "pose")},
    }


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row of the table."""
    figures = (row[name] for name in ("us_a_frame", "detect_us", "track_us", "pose_us"))
    calls = " ".join(map(str, row["frames_a_call"].values()))
    return [str(row["streams"]), f"{row['fps']:.0f}", *map(str, figures), calls]


def main() -> int:
    parser = harness.parser(__doc__ or "")
    parser.add_argument(
        "--streams", type=numbers, default=[1, 8, 32, 64], help="numbers of streams; default 1,8,32,64"
    )
    parser.add_argument("--persons", type=int, default=1, help="persons in a frame; default 1")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement; default 4")
    given: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    kernel = NoKernel(given.persons)
    crop.kernel_for = nms.kernel_for = lambda *_: kernel  # type: ignore[assignment,misc,return-value]
    operators.detect.load_engine = operators.pose.load_engine = load_idle_engine  # type: ignore[assignment]
    rows = [measure(streams, given.persons, given.seconds) for streams in given.streams]
    harness.show("the host's cost of the GPU path", COLUMNS, [cells(row) for row in rows])
    harness.write(given.json, harness.result(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
