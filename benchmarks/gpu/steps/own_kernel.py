"""A user's own kernel beside posestream's work: the example in docs/operators, by CuPy and by pycuda."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring.parts import NOT_RUN

from engines.device.devices import open_device
from engines.device.streams import Device
from steps.device import noise
from tests.support.devices.device_frames import samples

if TYPE_CHECKING:
    from steps import Place

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "docs" / "operators"))
import blur_heads as example

LIBRARIES = ("cupy", "pycuda")
SIZE, PERSONS, REPEATS = (1920, 1080), 40, 200


def blur_heads(place: Place) -> Iterator[dict[str, Any]]:
    """Blur 40 heads in a frame of 1080p, with each library that is installed: same bits as on the host.

    Yields:
        for each library the time of a frame in µs, copy and kernel, with many frames queued at once; or why
        it was not run.

    Raises:
        RuntimeError: the kernel has written other bits than its twin on the host.
    """
    for library in LIBRARIES:
        if place.device == "cpu" or find_spec(library) is None:
            reason = "there is no GPU" if place.device == "cpu" else f"{library} is not installed"
            yield {"library": library, NOT_RUN: reason}
            continue
        device = open_device(place.device)
        kind = example.CupyKernel if library == "cupy" else example.PycudaKernel
        kernel = kind("blur_heads", example.PARAMETERS.itemsize, device)
        yield {"library": library, **figures(kernel, device)}


def figures(kernel: Any, device: Device) -> dict[str, Any]:
    """The bits and the time of a kernel of the example on a device.

    Raises:
        RuntimeError: it has written other bits than its twin on the host.
    """
    image, heads = noise(device, SIZE, seed=1), _heads()
    found = samples(example.blur_on_device(image, heads, kernel))
    wanted = example.blur_on_host(samples(image), heads)
    differ = sum(int((one != other).sum()) for one, other in zip(found, wanted, strict=True))
    if differ:
        raise RuntimeError(f"{differ} samples differ from those that the host computes")
    start = time.perf_counter()
    for _ in range(REPEATS):
        example.blur_on_device(image, heads, kernel)
    kernel.stream.record().synchronise()
    us = round((time.perf_counter() - start) / REPEATS * 1e6, 1)
    return {"heads": len(heads), "bits_equal": True, "us": us}


def _heads() -> np.ndarray:
    """Heads of many sizes; some overlap, some are at the border."""
    random = np.random.default_rng(0)
    circles = zip(*random.uniform((0, 0, 8), (*SIZE, 120), (PERSONS, 3)).T.tolist(), strict=True)
    return np.array([example.head_at(*circle) for circle in circles], example.HEAD)
