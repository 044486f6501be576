"""Decoding: NVDEC's frames against those of FFmpeg's own decoder, and opening decoders again and again."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import psutil
from measuring.isolation import Row

from engines.device.image import DeviceImage
from engines.images.yuv import YuvImage
from operators.decode import Decode
from steps import Place
from tests.support.devices.device_frames import samples

THREADS, ROUNDS, FRAMES = 4, 10, 20  # frames decoded in each round
SETTLED = 4  # rounds after which memory must no longer grow
GROWTH_MB = {"device": 32, "host": 64}
JOIN_S = 60.0


@contextlib.contextmanager
def refusals() -> Iterator[list[str]]:
    """The reasons for which frames are decoded on the processor, as the log gives them inside."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("posestream.decode")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


def decoded_by(place: Place, reasons: Sequence[str], uploaded: int) -> Row:
    """Which decoder the frames are from, and the reason if it is not NVDEC."""
    if place.dry or reasons or uploaded:
        return {"decoded_by": "processor", "uploaded": uploaded, "reason": "; ".join(dict.fromkeys(reasons))}
    return {"decoded_by": "NVDEC"}


def frames(place: Place) -> Iterator[Row]:
    """Every frame has the samples that FFmpeg's own decoder gives; on a GPU, NVDEC must have decoded it.

    Raises:
        RuntimeError: frames differ or are missing; or NVDEC has refused the clip, with its reason.
    """
    decode, count = Decode(device=place.device), 0
    start = time.perf_counter()
    with refusals() as reasons, av.open(place.clip) as container:
        expected = container.decode(video=0)
        for packet, frame in zip(decode.read("camera", place.clip), expected, strict=True):
            found = _planes(packet.picture)
            theirs = _planes_of_frame(frame)
            if not all(map(np.array_equal, found, theirs)):
                wrong = sum(int((a != b).sum()) for a, b in zip(found, theirs, strict=True))
                raise RuntimeError(f"frame {count}: {wrong} samples differ; decoded by NVDEC: {not reasons}")
            count += 1
    uploaded = decode.counters["uploaded_frames"]
    seconds = round(time.perf_counter() - start, 2)
    yield {"frames": count, "equal": True, "seconds": seconds, **decoded_by(place, reasons, uploaded)}
    if uploaded and not place.dry:
        raise RuntimeError("; ".join(reasons) or f"{uploaded} of {count} frames were uploaded")


def reopening(place: Place) -> Iterator[Row]:
    """Four threads open the clip ten times each; memory, files and threads must not grow.

    Raises:
        RuntimeError: something grows, or a thread fails or does not end.
    """
    used: list[dict[str, float]] = []
    errors: list[BaseException] = []
    uploaded = [0] * THREADS
    barrier = threading.Barrier(THREADS, action=lambda: used.append(_use(place)))

    def read(number: int) -> None:
        try:
            for _ in range(ROUNDS):
                decode = Decode(device=place.device, max_frames=FRAMES)
                for _packet in decode.read(f"camera{number}", place.clip):
                    pass
                uploaded[number] += decode.counters["uploaded_frames"]
                decode.close()
                barrier.wait(JOIN_S)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    with refusals() as reasons:
        threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(JOIN_S)
    if errors:
        raise RuntimeError(f"a thread failed: {type(errors[0]).__name__}: {errors[0]}") from errors[0]
    if any(thread.is_alive() for thread in threads):
        raise RuntimeError(f"{sum(map(threading.Thread.is_alive, threads))} threads have not ended")
    before, after = used[SETTLED - 1], used[-1]
    grown = {name: round(after[name] - before[name], 1) for name in after}
    yield {"openings": THREADS * ROUNDS, "grown": grown, **decoded_by(place, reasons, sum(uploaded))}
    wrong = [name for name, most in GROWTH_MB.items() if grown.get(f"{name}_mb", 0) > most]
    wrong += [name for name in ("files", "threads") if grown[name] > 0]
    if wrong:
        raise RuntimeError(f"{' and '.join(wrong)} grow from round {SETTLED} to {ROUNDS}: {grown}")


def _planes(picture: object) -> list[np.ndarray]:
    """Y, U and V of a picture of the host or a device."""
    if isinstance(picture, DeviceImage):
        y, *colours = samples(picture)
        return [y, *(colours if len(colours) == 2 else np.moveaxis(colours[0], -1, 0))]
    assert isinstance(picture, YuvImage)
    return [picture.y, picture.u, picture.v]


def _planes_of_frame(frame: av.VideoFrame) -> list[np.ndarray]:
    """Y, U and V as FFmpeg has them."""
    width, height = frame.width, frame.height
    array = frame.to_ndarray(format="yuv420p").reshape(-1)
    y, u, v = np.split(array, [width * height, width * height * 5 // 4])
    return [y.reshape(height, width), *(plane.reshape(height // 2, width // 2) for plane in (u, v))]


def _use(place: Place) -> dict[str, float]:
    process = psutil.Process()
    found = {"host_mb": process.memory_info().rss / 1e6, "threads": float(process.num_threads())}
    found["files"] = float(len(list(Path("/proc/self/fd").iterdir())))
    if not place.dry:
        import torch

        free, total = torch.cuda.mem_get_info(place.device)
        found["device_mb"] = (total - free) / 1e6
    return found
