"""Whole graphs on many streams: frames/s, ages of frames, use of the GPU, and bytes copied."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av

from engines.device.names import parse_device
from measuring.clip import FPS
from measuring.isolation import Row
from measuring.networks import Model
from measuring.nvdec import on_nvdec
from measuring.torch_networks import PLAIN, in_operators
from operators import REGISTRY
from pipeline.graph import Graph, check_graph
from pipeline.measurement.run_stats import RunStats
from pipeline.run import Run
from tools.profiling.machine.gpus import GpuSampler, load_nvml

WARM_S = 2.0
SAMPLE_S = 0.1
TRACE_S = 0.4
MAX_BATCH = 64
WAIT_MS = 4


@dataclass(frozen=True)
class Load:
    """A clip, and the models that process each of its frames.

    Boxes are the detector's `persons` best, however low their scores, and the tracker follows all of them. So
    each frame has exactly `persons` crops, whatever the weights and the picture.
    """

    clip: str
    device: str
    detector: Model
    pose: Model | None
    persons: int
    every: int = 1  # the detector runs on each n-th frame
    batch: int = 32  # most frames of one call of the detector
    frames_a_call: int | None = None  # of the pose model; by default as many as fill a batch

    @property
    def torch_ways(self) -> dict[str, tuple[str, bool]]:
        """For `torch_networks.in_operators`."""
        return self.detector.torch_way | (self.pose.torch_way if self.pose else {})

    def graph(self) -> Graph:
        """decode, detect, track, and pose if there is a pose model."""
        on: dict[str, Any] = {} if self.device == "cpu" else {"device": self.device}
        batch = {"max": self.batch, "wait_ms": WAIT_MS}
        nodes: dict[str, dict[str, Any]] = {
            "decode": {"op": "decode", "loop": 0, **on},
            "detect": {
                "op": "detect", "model": self.detector.path, "backend": _backend(self.detector),
                "min_score": 1e-6, "max_detections": self.persons, "every": self.every, "batch": batch,
                "after": "decode", **on,
            },
            "track": {"op": "track", **dict.fromkeys(("low_score", "high_score", "new_score"), 0.0),
                      "batch": {"max": 16}, "after": "detect"},
        }  # fmt: skip
        if self.pose:
            frames = self.frames_a_call or max(1, MAX_BATCH // self.persons)
            nodes["pose"] = {
                "op": "pose", "model": self.pose.path, "backend": _backend(self.pose),
                "max_instances": self.persons, "batch": {"max": frames, "wait_ms": WAIT_MS},
                "after": "track", **on,
            }  # fmt: skip
        return check_graph({"name": "gpu-bench", "graph": nodes}, REGISTRY)


def _backend(model: Model) -> str:
    return PLAIN if model.torch_way else model.backend


def measured(loads: Sequence[Load], counts: Sequence[int], seconds: float, live: bool) -> Iterator[Row]:
    """A row for each load and number of streams; `live` streams keep their own pace, as cameras do."""
    for load in loads:
        for streams in counts:
            yield measure(load, streams, seconds, live)


def measure(load: Load, streams: int, seconds: float, live: bool) -> Row:
    """Run this many streams of the clip at once, and measure them for `seconds` after the warm-up.

    Raises:
        PipelineError: the graph fails.
    """
    with in_operators(load.torch_ways):
        return _measure(Run(load.graph(), live=live, keep_open=True), load, streams, seconds, live)


def _measure(run: Run, load: Load, streams: int, seconds: float, live: bool) -> Row:
    run.start()
    sampler = _sampler()
    row: Row = {"streams": streams, "persons": load.persons, "paced": live}
    try:
        for number in range(streams):  # a run that has failed takes none; `finish` says why it failed
            run.add_source(f"camera{number}", load.clip)
            if live:
                time.sleep(1 / FPS / streams)  # cameras are not synchronous
        if not run.wait(WARM_S if load.device != "cpu" else seconds):
            before, start = run.stats(), time.monotonic()
            ended = False
            while not ended and time.monotonic() - start < seconds:
                if sampler:
                    sampler.sample(time.monotonic() - start)
                ended = run.wait(SAMPLE_S)
            window = run.stats().since(before)
            row |= figures(window) | gpu_use(sampler, window)
            if load.device != "cpu" and not ended:
                row |= copies(run)
    finally:
        run.stop()
        run.finish()  # raises the error of a run that failed
    return row


def figures(window: RunStats) -> Row:
    """The figures of a window of a run."""
    instances = sum(stream.instances for stream in window.streams)
    settled = max(window.finished + window.dropped, 1)
    return {
        "fps": round(window.fps, 1),
        "detections_per_s": round(instances / window.seconds, 1),
        "age_p50_ms": round(window.age_p50_ms, 1),
        "age_p95_ms": round(window.age_p95_ms, 1),
        "age_p99_ms": round(window.age_p99_ms, 1),
        "dropped": round(window.dropped / settled, 4),
        "cores": round(window.cores_busy, 2),
        "uploaded": window.stages[0].counters.get("uploaded_frames", 0),
        "frames_a_call": {stage.name: round(stage.mean_batch, 1) for stage in window.stages[1:]},
        "busy": {stage.name: round(stage.busy / max(stage.workers, 1), 2) for stage in window.stages},
    }


def gpu_use(sampler: GpuSampler | None, window: RunStats) -> Row:
    """The use of the first GPU by NVML; its percentages are means over a sixth of a second or more."""
    if sampler is None or not (used := sampler.use(window.finished)):
        return {}
    first = used[0]
    values = {
        "gpu": first.busy, "nvdec": first.decoder, "gpu_mb": first.memory_mb, "watts": first.power_w,
        "clock_mhz": first.clock_mhz,
    }  # fmt: skip
    return {name: round(value, 3) for name, value in values.items() if value is not None}


def copies(run: Run) -> Row:
    """Bytes copied for each finished frame, and waits for the whole device, while the run goes on."""
    from measuring.cuda_trace import cuda_trace

    with cuda_trace() as trace:
        before = run.stats()
        run.wait(TRACE_S)
        frames = max(run.stats().since(before).finished, 1)
    return {
        "to_device_bytes": round(trace.bytes["HtoD"] / frames),
        "to_host_bytes": round(trace.bytes["DtoH"] / frames),
        "on_device_bytes": round(trace.bytes["DtoD"] / frames),
        "traced_frames": frames,
        "device_wide_waits": trace.device_wide,
    }


def decoded(clip: str, device: str, counts: Sequence[int], seconds: float) -> Iterator[Row]:
    """Frames/s of decoding alone, with FFmpeg by PyAV, by number of streams."""
    for streams in counts:
        frames, stopped = [0] * streams, threading.Event()
        failures: list[Exception] = []
        threads = [
            threading.Thread(target=_decode, args=(clip, device, frames, number, stopped, failures))
            for number in range(streams)
        ]
        for thread in threads:
            thread.start()
        sampler = _sampler()
        _until(lambda frames=frames: all(frames), 10.0, stopped)
        before, start = sum(frames), time.monotonic()
        while (now := time.monotonic()) - start < seconds and not failures:
            if sampler:
                sampler.sample(now - start)
            time.sleep(SAMPLE_S / 2)
        rate = (sum(frames) - before) / (time.monotonic() - start)
        stopped.set()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        used = sampler.use(1)[0].decoder if sampler else None
        yield {"streams": streams, "fps": round(rate, 1), "nvdec": None if used is None else round(used, 3)}


def _decode(
    clip: str,
    device: str,
    frames: list[int],
    number: int,
    stopped: threading.Event,
    failures: list[Exception],
) -> None:
    index = parse_device(device).number
    try:
        while not stopped.is_set():
            with av.open(clip) as container:
                stream = container.streams.video[0]
                stream.thread_count = 1
                decoder = stream.codec_context if device == "cpu" else on_nvdec(container, index)
                for packet in container.demux(stream):
                    frames[number] += len(decoder.decode(packet))
                    if stopped.is_set():
                        break
    except Exception as error:
        failures.append(error)
        stopped.set()


def _until(done: Any, at_most_s: float, stopped: threading.Event) -> None:
    end = time.monotonic() + at_most_s
    while not done() and time.monotonic() < end and not stopped.is_set():
        time.sleep(0.02)


def _sampler() -> GpuSampler | None:
    nvml = load_nvml()
    return GpuSampler(nvml) if nvml else None
