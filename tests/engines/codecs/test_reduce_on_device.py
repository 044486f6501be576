"""`reduce` of all codecs on tensors: the host never waits, and shapes depend only on shapes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import toy_onestage  # noqa: E402

from engines.codecs import heatmap, rtmdet, simcc, yolo, yolo_pose, yolox  # noqa: E402
from engines.contracts.contract import load_contract  # noqa: E402
from engines.device.arrays import mean  # noqa: E402
from engines.device.devices import open_device  # noqa: E402
from tests.support.no_waits import NoWaits  # noqa: E402

# A model, its codec, the shapes of the outputs for two images, and the rows that `reduce` returns for each.
POSES = [
    ("rtmpose-m-body8", simcc, {"simcc_x": (2, 17, 384), "simcc_y": (2, 17, 512)}, 17),
    ("hrnet-w32-coco", heatmap, {"heatmaps": (2, 17, 64, 48)}, 17),
    ("hrnet-w32-coco-dark", heatmap, {"heatmaps": (2, 17, 64, 48)}, 17),
    ("vitpose-b-coco", heatmap, {"heatmaps": (2, 17, 64, 48)}, 17),
]
DETECTORS = [
    ("yolox-nano", yolox, {"predictions": (2, 3549, 85)}, 1024),
    ("rtmdet-nano", rtmdet, {"boxes": (2, 300, 5), "labels": (2, 300)}, 300),
    ("toy", yolo, {"predictions": (2, 84, 2100)}, 1024),
    ("toy", yolo_pose, {"predictions": (2, 56, 8400)}, 1024),
]
CODECS = pytest.mark.parametrize(
    ("name", "codec", "shapes", "rows"), POSES + DETECTORS, ids=lambda given: getattr(given, "__name__", None)
)


@CODECS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fixed_shapes_without_waiting(name, codec, shapes, rows, dtype):
    """On PyTorch's `meta` device, whose tensors have no values; constants are copied there at the first call."""
    stream = open_device("cpu").new_stream()
    contract = toy_onestage.contract() if name == "toy" else load_contract(name)
    outputs = {
        role: torch.empty(shape, dtype=torch.int32 if role == "labels" else dtype, device="meta")
        for role, shape in shapes.items()
    }

    def reduce():
        if contract.task != "pose":
            return codec.reduce(outputs, contract, 0.3, 0.5, stream)
        mirrored = codec.mirror_back(outputs, contract, np.arange(rows)[::-1])
        return codec.reduce(mean(outputs, mirrored), contract)

    reduce()
    with NoWaits():
        reduced = reduce()
    assert {one.shape[:2] for one in reduced.values()} == {(2, rows)}
    assert {one.dtype for one in reduced.values() if one.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x + torch.tensor([1.0]),
        lambda x: x.to("meta"),
    ],
)
def test_the_check_finds_operations_for_which_the_host_waits(wait):
    with NoWaits(), pytest.raises(AssertionError, match="aten::"):
        wait(torch.ones(3))
