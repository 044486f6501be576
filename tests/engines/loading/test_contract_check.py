"""Contracts compared with real graphs, which are made here as small as possible."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")
from onnx import TensorProto

from engines.codecs.heatmap import HeatmapCodec
from engines.contracts.contract import Output, load_contract
from engines.errors import ContractError
from engines.estimators.topdown import TopDown
from engines.loading.load import load_engine
from tests.support.models.tiny_onnx import carrying, peaks, shaped

RTMPOSE = load_contract("rtmpose-m-body8")
IMAGE = {"input": ["n", 3, 256, 192]}
SIMCC = {"simcc_x": ["n", 17, 384], "simcc_y": ["n", 17, 512]}
HRNET = {"heatmaps": ["n", 17, 64, 48]}
YOLOX = {"output": [1, 3549, 85]}


def landmarks(side: int, stride: int = 4):
    """The contract of a landmark HRNet that was trained at side x side px."""
    cells = side // stride
    base = load_contract("hrnet-w32-coco")
    return base.model_copy(
        update={
            "name": "landmarks",
            "input": base.input.model_copy(
                update={"size": (side, side), "mean": (0, 0, 0), "std": (255, 255, 255)}
            ),
            "codec": HeatmapCodec(kind="heatmap", size=(cells, cells), sigma=2, refine="dark", udp=False),
            "outputs": {"heatmaps": Output(name="heatmaps", shape=(-1, 17, cells, cells))},
        }
    )


@pytest.mark.parametrize(
    ("model", "inputs", "outputs"),
    [
        ("rtmpose-m-body8", IMAGE, SIMCC),
        ("rtmpose-m-body8", {"input": [1, 3, "h", "w"]}, SIMCC),
        ("hrnet-w32-coco", IMAGE, HRNET),
        ("yolox-nano", {"images": [1, 3, 416, 416]}, YOLOX),
        ("rtmdet-nano", {"input": ["n", 3, 320, 320]}, {"dets": ["n", "m", 5], "labels": ["n", "m"]}),
    ],
)  # fmt: skip
def test_a_graph_that_fits_its_contract_is_loaded(tmp_path, model, inputs, outputs):
    path = shaped(tmp_path / "m.onnx", inputs, outputs)
    load_engine(load_contract(model), path=path).close()


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "message"),
    [
        ("rtmpose-m-body8", {"input": ["n", 3, 384, 288]}, {"simcc_x": ["n", 17, 576], "simcc_y": ["n", 17, 768]},
         r"rtmpose-m-body8: contract says input 'input' is 192x256 nchw, output 'simcc_x' is \?x17x384, output "
         r"'simcc_y' is \?x17x512, the file m.onnx has 288x384 nchw, 1x17x576, 1x17x768; fetch"),
        ("rtmpose-m-body8", IMAGE, {"simcc_x": ["n", 26, 384], "simcc_y": ["n", 26, 512]}, r"17x384.* has 1x26x384"),
        ("rtmpose-m-body8", IMAGE, {"simcc_x": ["n", 17, 576], "simcc_y": ["n", 17, 768]}, r"17x384.* has 1x17x576"),
        ("rtmpose-m-body8", IMAGE, HRNET, r"simcc_x is output 'simcc_x', the file m.onnx has outputs \['heatmaps'\]"),
        ("rtmpose-m-body8", {"input": ["n", 256, 192, 3]}, SIMCC, "is 192x256 nchw, the file m.onnx has 192x256 nhwc"),
        ("rtmpose-m-body8", {"input": ["n", 1, 256, 192]}, SIMCC, r"192x256 nchw, the file m.onnx has \?x1x256x192"),
        ("rtmpose-m-body8", {"x": IMAGE["input"]}, SIMCC, r"the input is 'input', the file m.onnx has inputs \['x'\]"),
        ("rtmpose-m-body8", {**IMAGE, "mask": ["n"]}, SIMCC, r"has inputs \['input', 'mask'\]"),
        ("hrnet-w32-coco", IMAGE, {"heatmaps": ["n", 17, 32, 24]}, r"is \?x17x64x48, the file m.onnx has 1x17x32x24"),
        ("yolox-nano", {"images": [1, 3, 416, 416]}, {"output": [1, 3549, 6]}, "1x3549x85, the file m.onnx has 1x3549x6"),
        ("yolox-nano", {"images": [1, 3, 416, 416]}, {"output": [1, 8400, 85]}, "is 1x3549x85, .* has 1x8400x85"),
    ],
)  # fmt: skip
def test_a_graph_that_differs_is_refused_with_both_values(tmp_path, model, inputs, outputs, message):
    path = shaped(tmp_path / "m.onnx", inputs, outputs)
    with pytest.raises(ContractError, match=message) as error:
        load_engine(load_contract(model), path=path)
    assert "\n" not in str(error.value)


def test_half_precision_is_refused(tmp_path):
    path = shaped(tmp_path / "m.onnx", IMAGE, SIMCC, TensorProto.FLOAT16)
    with pytest.raises(ContractError, match=r"input 'input' is float32, the file \S+ has float16"):
        load_engine(RTMPOSE, path=path)


def test_weights_trained_at_another_size_are_refused_with_both_sizes(tmp_path):
    path = peaks(tmp_path / "landmarks.onnx", 1024, stride=4, keypoints=17)
    with pytest.raises(ContractError) as error:
        load_engine(landmarks(768), path=path)
    for pair in ("768x768", "192x192", "1024x1024", "256x256"):
        assert pair in str(error.value)


def test_with_the_right_contract_the_same_model_is_exact_to_the_pixel(tmp_path):
    path = peaks(tmp_path / "landmarks.onnx", 1024, stride=4, keypoints=17)
    places = np.array([(500.0, 300.0), (301.5, 702.25)])
    y, x = np.mgrid[:1024, :1024]
    blobs = [255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 8**2)) for px, py in places]
    images = [np.repeat(blob.round().astype(np.uint8)[..., None], 3, axis=2) for blob in blobs]
    model = TopDown(landmarks(1024), load_engine(landmarks(1024), path=path))
    half = 512 / 1.25  # the padded box is the whole image
    boxes = np.full((2, 4), (512 - half, 512 - half, 512 + half, 512 + half), np.float32)
    points, scores = model(images, np.arange(2), boxes)
    model.close()
    assert np.abs(points - places[:, None]).max() < 0.5
    assert scores.min() > 0.9


def changed(part: str, **changes):
    return RTMPOSE.model_copy(update={part: getattr(RTMPOSE, part).model_copy(update=changes)})


@pytest.mark.parametrize(
    ("carried", "message"),
    [
        (changed("input", mean=(0, 0, 0)), r"input.mean is \(123.675, .*\), the one inside m.onnx says \(0.0, 0.0"),
        (changed("input", box_padding=1.0), "contract says input.box_padding is 1.25, .* says 1.0"),
        (changed("input", colour="bgr"), "input.colour is rgb, .* says bgr"),
        (RTMPOSE.model_copy(update={"skeleton": "ap10k"}), "skeleton is coco17, .* says ap10k"),
        (load_contract("hrnet-w32-coco"), r"outputs.simcc_x is \{.*\}, .* says None"),
    ],
)  # fmt: skip
def test_a_different_contract_inside_the_file_is_refused(tmp_path, carried, message):
    path = carrying(shaped(tmp_path / "m.onnx", IMAGE, SIMCC), carried)
    with pytest.raises(ContractError, match=f"rtmpose-m-body8: .*{message}"):
        load_engine(RTMPOSE, path=path)


def test_name_title_and_licence_inside_the_file_may_differ(tmp_path):
    other = RTMPOSE.model_copy(update={"name": "mine", "title": "Mine", "licence": "MIT"})
    load_engine(RTMPOSE, path=carrying(shaped(tmp_path / "m.onnx", IMAGE, SIMCC), other)).close()
