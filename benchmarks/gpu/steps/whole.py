"""Whole graphs on PyTorch: RTMDet-nano, a tracker and RTMPose-m in FP16, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import av
from measuring.cuda_trace import trace_nvdec
from measuring.isolation import Row
from measuring.networks import RANDOM, Model
from measuring.parts import NOT_RUN
from measuring.streams import Load, measure
from measuring.torch_networks import HALF, PLAIN

from engines.errors import EngineError
from steps import Place
from steps.decoding import decoded_by, refusals

DETECTOR, POSE, POSE_DRY = "rtmdet-nano-pth", "rtmpose-m-body8", "rtmpose-t-body8"
STREAMS, SECONDS, DRY_S = (1, 8, 32), 3.0, 1.5
TRACED_STREAMS, TRACED_S = 4, 1.0
IN_FLIGHT = 64 * TRACED_STREAMS  # frames that may be decoded, but not finished


def load(place: Place, *, detector: str = PLAIN, pose: str = HALF) -> Load:
    """The graph, with each model run in one of `torch_networks.WAYS`; for a dry run, a small one."""
    models = (Model(DETECTOR, RANDOM, detector), Model(POSE_DRY if place.dry else POSE, RANDOM, pose))
    graph = Load(place.long_clip, place.device, *models, persons=1)
    return replace(graph, batch=1, frames_a_call=1) if place.dry else graph


def no_device_wide_waits(place: Place) -> Iterator[Row]:
    """While the whole graph runs, the host never waits for the whole device, unless NVIDIA's decoder does.

    Raises:
        RuntimeError: it does, or no frame was finished.
    """
    row = measure(load(place), 1 if place.dry else TRACED_STREAMS, TRACED_S, live=False)
    yield row
    if not row.get("fps"):
        raise RuntimeError("no frame was finished")
    if place.dry:
        yield {NOT_RUN: "waits are traced on a GPU only"}
        return
    if "device_wide_waits" not in row:
        raise RuntimeError("the graph ended before it was traced")
    decoders = decoder_waits(place, row["traced_frames"])
    yield {"device_wide_waits": row["device_wide_waits"], "of_decoders_at_most": decoders}
    if row["device_wide_waits"] > decoders:
        raise RuntimeError(f"{row['device_wide_waits']} waits for the whole device, decoders: {decoders}")


def decoder_waits(place: Place, frames: int) -> float:
    """How often NVIDIA's decoder library waits for the whole device in so many frames; 0 without NVDEC."""
    try:
        alone, frames_alone = trace_nvdec(place.clip)
    except (EngineError, av.error.FFmpegError):
        return 0.0
    return round(alone.device_wide * (frames + IN_FLIGHT) / max(frames_alone, 1), 1)


def streams(place: Place) -> Iterator[Row]:
    """The graph on 1, 8 and 32 streams, 3 s each.

    Raises:
        RuntimeError: no frame was finished.
    """
    for count in STREAMS[:1] if place.dry else STREAMS:
        with refusals() as reasons:
            row = measure(load(place), count, DRY_S if place.dry else SECONDS, live=False)
        row |= decoded_by(place, reasons, row["uploaded"])
        yield row
        if not row["fps"]:
            raise RuntimeError(f"{count} streams: no frame was finished")
