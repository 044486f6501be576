"""Frames that `decode` gives on a device, and the comparison of their samples with the processor's."""

from __future__ import annotations

import numpy as np

from engines.device.devices import thread_stream
from engines.device.image import DeviceImage
from engines.images.yuv import YuvImage
from operators.decode import Decode


def packets(path, device="cuda", surfaces=100, **options):
    """All packets that `decode` gives of a file, and what it has counted."""
    decode = Decode(device=device, surfaces=surfaces, **options)
    found = list(decode.read("cam", str(path)))
    return found, decode.counters


def samples(image):
    """The planes of a device image, copied to the host."""
    stream = thread_stream(image.device)
    with image.reading(stream) as planes:
        found = image.device.download({str(i): plane for i, plane in enumerate(planes)}, stream)
    return list(found.values())


def assert_same_samples(image, expected):
    """Compare YUV planes. In NV12 the two colour values of a sample lie side by side."""
    assert isinstance(image, DeviceImage)
    assert isinstance(expected, YuvImage)
    y, *colours = samples(image)
    u, v = colours if len(colours) == 2 else np.moveaxis(colours[0], -1, 0)
    for found, plane in zip((y, u, v), (expected.y, expected.u, expected.v), strict=True):
        np.testing.assert_array_equal(found, plane)
    np.testing.assert_array_equal(image.matrix, expected.matrix)
