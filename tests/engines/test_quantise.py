"""INT8 of the small real model: the graph, what it is calibrated on, and that nobody runs it unasked."""

import cv2
import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import EngineError
from engines.examples import drawn
from engines.metadata import is_quantised, read_contract, read_notes
from engines.prepared import runnable
from engines.quantise import quantise_model
from engines.verify import verify_model

onnx = pytest.importorskip("onnx")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, contrast in enumerate((1.0, 0.8, 0.6)):
        cv2.imwrite(str(folder / f"{n}.png"), (drawn()[..., ::-1] * contrast).astype(np.uint8))
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_convolutions_are_quantised_and_the_fp32_model_is_the_reference(small_home, pictures, tmp_path):
    made = quantise_model(small_home.contract, [pictures, pictures / "0.png"], tmp_path / "m.onnx")
    assert made.pictures == 4
    nodes = onnx.load(made.path).graph.node
    dequantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    in_int8 = [set(node.input[:2]) <= dequantised for node in convolutions]
    assert not in_int8[0]
    assert not in_int8[-1]
    assert sum(in_int8) > len(convolutions) / 2
    for node, quantised in zip(convolutions, in_int8, strict=True):
        assert not (quantised and onnx.helper.get_node_attr_value(node, "group") > 1)

    assert is_quantised(made.path)
    assert not is_quantised(small_home.exported.path)
    assert read_notes(made.path)["calibrated_on"] == "4 pictures"
    assert read_contract(made.path) == small_home.contract
    assert runnable(small_home.contract) == small_home.exported.path
    assert made.report.reference == "PyTorch"
    expected, found = (
        OnnxEngine(path).run({"input": small_home.batch[:1]})["simcc_x"].ravel()
        for path in (small_home.exported.path, made.path)
    )
    likeness = np.corrcoef(expected, found)[0, 1]
    assert 0.8 < likeness < 0.999999  # 8 bits, and yet the same model
    assert verify_model(small_home.contract, path=made.path).outputs == made.report.outputs


def test_without_pictures_there_is_no_calibration(small_home, tmp_path):
    (tmp_path / "text.txt").write_text("not a picture")
    with pytest.raises(EngineError, match=r"no picture or video in .*text\.txt"):
        quantise_model(small_home.contract, [tmp_path / "text.txt"], tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]
