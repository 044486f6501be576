"""The CUDA calls, copies and waits of a process in a stretch of time, recorded by PyTorch's profiler.

The profiler gets them from the driver (CUPTI), so it sees all libraries of the process. It waits for the
whole device when it starts and stops, so only the events between two moments in between are counted.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARGIN_NS = 1_000_000  # the profiler's clock and the host's differ by less
WAITS = {"Context Sync", "Stream Sync", "Event Sync"}  # of the host; in "Stream Wait Event" the device waits


@dataclass
class CudaTrace:
    """Counts of a stretch of time: copies by direction (HtoD, DtoH, DtoD), and waits of the host."""

    seconds: float = 0.0
    copies: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)  # of the CUDA runtime and driver, by name
    # By kind, and CUPTI's number of the stream.
    waits: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def device_wide(self) -> int:
        """How often the host waited for all work of the device."""
        contexts = sum(n for (kind, _), n in self.waits.items() if kind == "Context Sync")
        return max(contexts, self.calls["cudaDeviceSynchronize"])

    def add(self, events: Iterable[dict[str, Any]], base_ns: int, begin_ns: int, end_ns: int) -> None:
        """Count the events of a trace that start between two moments, in ns of UNIX time."""
        for event in events:
            at_ns = base_ns + event.get("ts", 0) * 1e3
            if event.get("ph") != "X" or not begin_ns <= at_ns < end_ns:
                continue
            kind, name, arguments = event.get("cat"), event["name"], event.get("args", {})
            if kind == "gpu_memcpy":
                direction = name.split()[1]  # Memcpy HtoD (Pinned -> Device)
                self.copies[direction] += 1
                self.bytes[direction] += int(arguments.get("bytes", 0))
            elif kind in ("cuda_runtime", "cuda_driver"):
                self.calls[name] += 1
            elif kind == "cuda_sync" and name in WAITS:
                self.waits[name, int(arguments.get("stream", -1))] += 1


def trace_nvdec(clip: str, index: int = 0) -> tuple[CudaTrace, int]:
    """A trace of FFmpeg alone while it decodes a clip on NVDEC, and the number of its frames.

    The waits in it are those of NVIDIA's decoder library. CUPTI does not say which library waits, so what a
    whole graph waits for has to be compared with this.

    Raises:
        EngineError, av.error.FFmpegError: as `open_nvdec`.
    """
    import av

    from measuring.nvdec import on_nvdec

    with av.open(clip) as container:
        decoder = on_nvdec(container, index)
        packets = list(container.demux(video=0))
        half = len(packets) // 2
        for packet in packets[:half]:  # the decoder is created with the first ones
            decoder.decode(packet)
        with cuda_trace() as trace:
            frames = sum(len(decoder.decode(packet)) for packet in packets[half:] if packet.size)
    return trace, frames


@contextmanager
def cuda_trace() -> Iterator[CudaTrace]:
    """Record all threads inside the `with` block; the counts are there after it."""
    import torch
    from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile

    found = CudaTrace()
    config = _ExperimentalConfig(enable_cuda_sync_events=True)
    with profile(activities=[ProfilerActivity.CUDA], experimental_config=config) as profiler:
        torch.cuda.synchronize()
        time.sleep(2 * MARGIN_NS / 1e9)
        begin_ns = time.time_ns()
        yield found
        end_ns = time.time_ns()
        time.sleep(2 * MARGIN_NS / 1e9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        document = json.loads(path.read_bytes())
    found.seconds = (end_ns - begin_ns) / 1e9
    base_ns = int(document.get("baseTimeNanoseconds", 0))
    found.add(document["traceEvents"], base_ns, begin_ns - MARGIN_NS, end_ns + MARGIN_NS)
