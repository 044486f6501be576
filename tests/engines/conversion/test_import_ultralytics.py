"""Contracts made from ultralytics' exports; ultralytics itself is used only if it is installed."""

import importlib.util

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.contracts.onnx_metadata import read_contract, read_metadata
from engines.conversion import import_ultralytics as ultralytics_import
from engines.conversion.import_ultralytics import import_pt
from engines.errors import ContractError, EngineError
from engines.estimators.detector import Detector
from tests.support.models import toy_onestage

onnx = pytest.importorskip("onnx")

# As ultralytics 8.4 writes them.
NOTES = {
    "description": "Ultralytics YOLO11n-pose model", "author": "Ultralytics", "date": "2026-11-21T13:00:00+00:00",
    "version": "8.4.190", "license": "AGPL-3.0 License (https://ultralytics.com/license)", "stride": "32",
    "task": "pose", "batch": "1", "imgsz": "[64, 96]", "names": "{0: 'person'}", "kpt_shape": "[17, 3]",
}  # fmt: skip


@pytest.fixture
def exported(monkeypatch, tmp_path):
    """A function that imports a model whose export is the toy, with ultralytics' notes about it."""

    def run(skeleton=None, transposed=False, **notes):
        graph = toy_onestage.graph(transposed=transposed)
        for key, value in {**NOTES, **notes}.items():
            graph.metadata_props.add(key=key, value=value)
        monkeypatch.setattr(ultralytics_import, "_export", lambda path, folder: graph)
        monkeypatch.setattr(ultralytics_import.importlib.util, "find_spec", lambda library: library)
        (tmp_path / "mine.pt").write_bytes(b"weights")
        return import_pt(tmp_path / "mine.pt", tmp_path / "my-pose.onnx", skeleton=skeleton)

    return run


def test_the_contract_comes_from_ultralytics_notes_and_is_written_into_the_graph(exported, tmp_path, caplog):
    contract = exported()
    assert (contract.name, contract.task, contract.skeleton) == ("my-pose", "pose_onestage", "coco17")
    assert contract.input == toy_onestage.contract().input.model_copy(update={"placement": "centre_px"})
    assert (contract.codec, contract.labels) == (toy_onestage.contract().codec, ["person"])
    assert contract.licence == "AGPL-3.0"
    assert read_contract(tmp_path / "my-pose.onnx") == contract
    assert read_metadata(tmp_path / "my-pose.onnx").keys() == {"posestream.contract"}
    assert "mine.pt is a pickle: importing it runs code from the file" in caplog.text
    detector = Detector(contract, OnnxEngine(tmp_path / "my-pose.onnx"))
    (found,) = detector([toy_onestage.picture((36, 20, 255))], min_score=0.5)
    np.testing.assert_allclose(found.keypoints[0, 0], [40, 24], atol=1e-4)


def test_unknown_keypoints_need_a_skeleton(exported):
    with pytest.raises(ContractError, match=r"mine.pt has 5 keypoints .*--skeleton, one of ap10k"):
        exported(kpt_shape="[5, 3]")
    with pytest.raises(ContractError, match="26 keypoints of halpe26 make"):
        exported(skeleton="halpe26")


def test_outputs_that_are_not_a_prediction_a_cell_are_refused(exported, tmp_path):
    with pytest.raises(
        EngineError, match=r"gives output0 \?x24x56, expected one output of \?x56x\?.*end-to-end"
    ):
        exported(transposed=True)
    assert not (tmp_path / "my-pose.onnx").exists()


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="ultralytics is installed")
def test_without_ultralytics_the_error_says_what_to_install(tmp_path):
    with pytest.raises(EngineError, match=r"x.pt needs ultralytics.*posestream\[ultralytics\]"):
        import_pt(tmp_path / "x.pt", tmp_path / "x.onnx")


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n-pose"])
def test_detections_agree_with_ultralytics(name, tmp_path):
    """Real architectures with random weights, on a picture of the input's size, compared in all cells."""
    ultralytics, torch = pytest.importorskip("ultralytics"), pytest.importorskip("torch")
    torch.manual_seed(0)
    model = ultralytics.YOLO(f"{name}.yaml")
    model.model.args = {"imgsz": 64, "task": model.task}
    torch.save({"model": model.model, "train_args": {"imgsz": 64, "task": model.task}}, tmp_path / "mine.pt")
    contract = import_pt(tmp_path / "mine.pt", tmp_path / "mine.onnx")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    detector = Detector(contract, OnnxEngine(tmp_path / "mine.onnx"))
    (ours,) = detector([image], min_score=1e-9, nms_iou=0.99)
    loaded = ultralytics.YOLO(tmp_path / "mine.pt")
    (theirs,) = loaded.predict(
        image[..., ::-1], imgsz=64, rect=False, conf=1e-9, iou=0.99, max_det=1000, verbose=False, device="cpu"
    )
    np.testing.assert_allclose(np.sort(ours.scores), np.sort(theirs.boxes.conf.numpy()), atol=1e-5)
    boxes = theirs.boxes.xyxy.numpy()
    assert np.abs(ours.boxes[:, None] - boxes[None]).max(axis=2).min(axis=1).max() < 0.5
    if ours.keypoints is not None:
        points = theirs.keypoints.xy.numpy()
        inside = ours.keypoints.clip(0, 64)  # as ultralytics gives them
        assert np.abs(inside[:, None] - points[None]).max(axis=(2, 3)).min(axis=1).max() < 0.5
