"""Keypoints of frames on a device equal those of frames on the host, from crops to read-out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.support.models import toy_models

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.estimators.topdown import TopDown  # noqa: E402
from engines.images.yuv import YuvImage, rgb_matrix  # noqa: E402
from engines.loading.load import load_engine  # noqa: E402

MATRIX = rgb_matrix("bt709", full_range=False)
# Centre x, y, width, height, angle: upright, shrunk, turned, enlarged, mirrored, beyond the edge.
REGIONS = np.array(
    [
        (210, 160, 150, 200, 0),
        (200, 150, 300, 400, 0),
        (210, 160, 120, 160, 0.5),
        (205, 155, 45, 60, -0.2),
        (210, 160, -150, 200, 0.3),
        (90, 80, 240, 320, 0),
    ],
    np.float64,
)


def picture():
    """A picture of 400x300 px as planes of YUV, with a bright spot in each colour."""
    rgb = np.full((300, 400, 3), 20, np.float32)
    y, x = np.mgrid[:300, :400]
    for channel, (cx, cy) in enumerate(((200, 150), (213, 160), (205, 170))):
        rgb[..., channel] += 200 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 9**2))
    inverse = np.linalg.inv(MATRIX[:, :3])
    yuv = (rgb - MATRIX[:, 3]) @ inverse.T
    halved = cv2.resize(yuv[..., 1:].astype(np.float32), (200, 150), interpolation=cv2.INTER_AREA)
    y, u, v = (plane.round().clip(0, 255).astype(np.uint8) for plane in (yuv[..., 0], *cv2.split(halved)))
    return YuvImage(y, u, v, MATRIX, lambda: rgb.round().clip(0, 255).astype(np.uint8))


class OnDevice:
    """The toy model as operations of PyTorch, which keep all data on the device."""

    def __init__(self, contract):
        self.contract = contract
        self.batches = []

    def run(self, inputs):
        items = inputs["in"]
        self.batches.append(len(items))
        seen = (items if isinstance(items, torch.Tensor) else items.made())[
            :, [k % 3 for k in range(toy_models.K)]
        ]
        cells = self.contract.codec.size[::-1]
        return {"maps": torch.nn.functional.interpolate(seen, cells, mode="bilinear", align_corners=True)}

    def close(self):
        pass


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("where", ["by way of the host", "on the device"])
def test_keypoints_on_a_device_equal_those_on_the_host(where, flip_test, tmp_path):
    contract = toy_models.contract("heatmap", udp=True)
    engine = load_engine(contract, path=toy_models.save(contract, tmp_path / "toy.onnx"))
    host, device = picture(), open_device("cpu")
    image = SurfacePool(device, 1).from_host(host, thread_stream(device))
    index = np.zeros(len(REGIONS), np.int64)
    expected = TopDown(contract, engine, flip_test=flip_test).in_regions([host], index, REGIONS)
    model = TopDown(
        contract, engine if where == "by way of the host" else OnDevice(contract), flip_test=flip_test
    )
    found = model.in_regions([image], index, REGIONS)
    assert np.isfinite(expected.points).all()
    assert len(np.unique(expected.points[0].round(1), axis=0)) >= 3  # the keypoints differ from one another
    np.testing.assert_allclose(found.points, expected.points, atol=0.1)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1 / 255)


def test_one_call_has_at_most_the_largest_batch():
    contract, device = toy_models.contract("heatmap"), open_device("cpu")
    image = SurfacePool(device, 1).from_host(picture(), thread_stream(device))
    engine = OnDevice(contract)
    regions = np.tile(REGIONS, (12, 1))[:70]
    found = TopDown(contract, engine).in_regions([image], np.zeros(70, np.int64), regions)
    assert engine.batches == [64, 6]
    np.testing.assert_allclose(found.points[6:], found.points[:-6], atol=1e-3)
