"""What the host alone does for a frame on the GPU path: the same graph, on a device that takes no time.

    python benchmarks/gpu/host.py [--streams 1,8,32,64] [--persons 1] [--seconds 4] [--json FILE]

No GPU is needed, only PyTorch. Decoded frames lie on the "device", kernels and models do nothing, and boxes
are always the same; all else is what runs beside a GPU: surfaces, streams and events, launches, read-out,
tracking, threads and edges. So its frames/s are the most that one process can keep a GPU busy with. What is
not in it: FFmpeg's own calls for a frame, and those of CUDA's driver.
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
from types import SimpleNamespace
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

WARM_S = 2.0
SIZE = (64, 36)  # of the frames; nothing looks at them
CANDIDATES, BINS = 64, 16  # of the models' outputs: the processor must do here what the GPU would
COLUMNS = ("streams", "frames/s", "µs a frame", "detect", "track", "pose", "frames a call")


class Decoded(Source):
    """Frames on the device, as fast as they are taken."""

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
        mine = thread_stream(device)
        for seq in itertools.count():
            if self._stopped.is_set():
                return
            image = pool.from_device(
                planes, matrix, mine, device.legacy_stream_event(), owner=planes, keep_alive=kept
            )
            yield Packet(stream, seq, seq * 33_333_333, time.time_ns(), SIZE, image)

    def stop(self) -> None:
        self._stopped.set()


class NoKernel:
    """Launches nothing; of the boxes to suppress it keeps the first `persons` of each image."""

    def __init__(self, persons: int):
        self._persons = persons

    def launch(self, grid: tuple[int, ...], block: tuple[int, ...], given: np.ndarray, stream: int) -> None:
        if given.dtype == nms.PARAMETERS:
            kept, count = int(given["kept"]), int(given["count"])
            ctypes.memset(kept, 0, grid[0] * count)
            for image in range(grid[0]):
                ctypes.memset(kept + image * count, 1, self._persons)


def no_tensorrt(contract: Contract) -> Any:
    """A module like `tensorrt` whose plan is the contract's model, and whose runs do nothing.

    Its detector has always found the same boxes, side by side.
    """
    width, height = contract.input.size
    shapes = {contract.input.name: (3, height, width)}
    for output in contract.outputs.values():
        shapes[output.name] = tuple(
            CANDIDATES if n < 0 else min(n, BINS) if n > 100 else n for n in output.shape[1:]
        )
    dtypes = {name: np.int64 if name == "labels" else np.float32 for name in shapes}
    boxes = np.zeros((CANDIDATES, 5), np.float32)
    boxes[:, 0] = 90 * np.arange(CANDIDATES)
    boxes[:, 2], boxes[:, 3], boxes[:, 4] = boxes[:, 0] + 80, 200, np.linspace(0.9, 0.3, CANDIDATES)

    class Context:
        rows = 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self.rows = shape[0]
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            if name != contract.input.name:
                shape = (self.rows, *shapes[name])
                room = (ctypes.c_char * (int(np.prod(shape)) * np.dtype(dtypes[name]).itemsize)).from_address(
                    address
                )
                np.frombuffer(room, dtypes[name]).reshape(shape)[:] = (
                    boxes if shapes[name] == boxes.shape else 0
                )
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self.rows, *shapes[name])

        update_device_memory_size_for_shapes = staticmethod(lambda: 1)
        set_device_memory = staticmethod(lambda address, size: None)
        execute_async_v3 = staticmethod(lambda stream: True)

    names = list(shapes)
    plan = SimpleNamespace(
        num_io_tensors=len(names),
        get_tensor_name=names.__getitem__,
        get_tensor_shape=lambda name: (-1, *shapes[name]),
        get_tensor_mode=lambda name: "in" if name == contract.input.name else "out",
        get_tensor_dtype=dtypes.__getitem__,
        get_tensor_profile_shape=lambda name, profile: [(rows, *shapes[name]) for rows in (1, 16, 64)],
        create_execution_context=lambda strategy: Context(),
    )
    return SimpleNamespace(
        __version__="none",
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        Logger=SimpleNamespace(Severity=SimpleNamespace(ERROR=1, INTERNAL_ERROR=2, VERBOSE=3)),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda content: plan),
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="ours"),
        nptype=lambda dtype: dtype,
    )


def load(contract: Contract, **_: Any) -> Engine:
    """In place of `load_engine`."""
    kept = Path(tempfile.gettempdir(), "none.kernels")
    return TensorrtEngine(TensorRT(no_tensorrt(contract)), b"", kept, name=contract.name, device="cpu")


def measure(streams: int, persons: int, seconds: float) -> dict[str, Any]:
    """So many streams at once."""
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
        before, cpu = run.figures(), time.process_time()
        run.wait(seconds)
        lately, cpu = run.figures().since(before), time.process_time() - cpu
    finally:
        run.stop()
        run.finish()
    stats = lately.stats()
    stages = {stage.name: stage for stage in stats.stages}
    return {
        "streams": streams,
        "persons": persons,
        "fps": round(stats.fps, 1),
        "persons_a_frame": round(sum(one.instances for one in lately.streams) / max(stats.finished, 1), 2),
        "us_a_frame": round(cpu / max(stats.finished, 1) * 1e6),
        **{
            f"{name}_us": round(stages[name].cpu * stats.seconds / max(stages[name].packets_in, 1) * 1e6)
            for name in ("detect", "track", "pose")
        },
        "frames_a_call": {name: round(stages[name].mean_batch, 1) for name in ("detect", "track", "pose")},
    }


def cells(row: dict[str, Any]) -> list[str]:
    """For the table."""
    figures = (row[name] for name in ("us_a_frame", "detect_us", "track_us", "pose_us"))
    calls = " ".join(map(str, row["frames_a_call"].values()))
    return [str(row["streams"]), f"{row['fps']:.0f}", *map(str, figures), calls]


def main() -> int:
    made = harness.parser(__doc__ or "")
    made.add_argument("--streams", type=numbers, default=[1, 8, 32, 64], help="1,8,32,64 unless given")
    made.add_argument("--persons", type=int, default=1, help="a frame; 1 unless given")
    made.add_argument("--seconds", type=float, default=4.0, help="of each measurement; 4 unless given")
    given: argparse.Namespace = made.parse_args()
    torch.set_num_threads(1)
    kernel = NoKernel(given.persons)
    crop.kernel_for = nms.kernel_for = lambda *_: kernel  # type: ignore[assignment,misc,return-value]
    operators.detect.load_engine = operators.pose.load_engine = load  # type: ignore[assignment]
    rows = [measure(streams, given.persons, given.seconds) for streams in given.streams]
    harness.show("the host's part of the GPU path", COLUMNS, [cells(row) for row in rows])
    harness.write(given.json, harness.result(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
