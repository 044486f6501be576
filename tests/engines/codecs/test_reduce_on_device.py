"""`reduce` of every codec on tensors: the host never waits, and output shapes depend on input shapes only."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.codecs.base import DetectionRequest  # noqa: E402
from engines.codecs.registry import CODECS  # noqa: E402
from engines.contracts.contract import load_contract  # noqa: E402
from engines.device.arrays import mean  # noqa: E402
from engines.device.devices import open_device  # noqa: E402
from tests.support.devices.no_waits import NoWaits  # noqa: E402
from tests.support.models import toy_onestage  # noqa: E402

# For each family: a model, the shapes of its outputs for two images, and the rows that `reduce` keeps of each.
POSES = [
    ("simcc", "rtmpose-m-body8", {"simcc_x": (2, 17, 384), "simcc_y": (2, 17, 512)}, 17),
    ("heatmap", "hrnet-w32-coco", {"heatmaps": (2, 17, 64, 48)}, 17),
    ("heatmap", "hrnet-w32-coco-dark", {"heatmaps": (2, 17, 64, 48)}, 17),
    ("heatmap", "vitpose-b-coco", {"heatmaps": (2, 17, 64, 48)}, 17),
]
DETECTORS = [
    ("yolox", "yolox-nano", {"predictions": (2, 3549, 85)}, 1024),
    ("rtmdet", "rtmdet-nano", {"boxes": (2, 300, 5), "labels": (2, 300)}, 300),
    ("yolo", toy_onestage.detector_contract(), {"predictions": (2, 84, 2100)}, 1024),
    ("yolo-pose", toy_onestage.contract(), {"predictions": (2, 56, 8400)}, 1024),
]
ON_THE_HOST_ONLY = {"blazepose-detector", "blazepose-landmarks"}  # LiteRT's models, whose outputs are arrays


def test_every_family_is_tested():
    tested = {kind for kind, *_ in POSES + DETECTORS}
    assert tested | ON_THE_HOST_ONLY == {codec.kind_name() for codec in CODECS}


@pytest.mark.parametrize(
    ("kind", "model", "shapes", "rows"), POSES + DETECTORS, ids=[case[0] for case in POSES + DETECTORS]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_fixed_shapes_without_waiting(kind, model, shapes, rows, dtype):
    """On PyTorch's `meta` device, which holds no values to wait for; constants are copied there once, before."""
    stream = open_device("cpu").new_stream()
    contract = load_contract(model) if isinstance(model, str) else model
    codec = contract.codec
    assert codec.kind == kind
    outputs = {
        role: torch.empty(shape, dtype=torch.int32 if role == "labels" else dtype, device="meta")
        for role, shape in shapes.items()
    }

    def reduce():
        if contract.task != "pose":
            return codec.reduce(outputs, DetectionRequest(contract.sizes(), 0.3, 0.5, stream))
        mirrored = codec.mirror_back(outputs, np.arange(rows)[::-1])
        return codec.reduce(mean(outputs, mirrored))

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
def test_the_check_catches_operations_that_wait(wait):
    with NoWaits(), pytest.raises(AssertionError, match="aten::"):
        wait(torch.ones(3))
