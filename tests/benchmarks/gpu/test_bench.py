"""The whole benchmark on the CPU with tiny models, from the command to the result file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bench
import numpy as np
import pytest
from measuring import tables

onnx = pytest.importorskip("onnx")
from engines.contracts.contract import load_contract  # noqa: E402
from tests.support.models import toy_models  # noqa: E402
from tests.support.models.tiny_onnx import carrying  # noqa: E402

pytestmark = pytest.mark.slow

BOXES = np.array([[20, 30, 90, 160, 0.02], [100, 40, 180, 150, 0.01], [200, 20, 260, 90, 0.005]], np.float32)


def detector(path):
    """A detector with RTMDet's tensors; it finds the same three boxes of low score in every picture."""
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),  # (B,)
        node("Mul", ["mean", "nothing"], ["zero"]),
        node("Reshape", ["zero", "each"], ["column"]),  # (B, 1, 1)
        node("Add", ["column", "rows"], ["boxes"]),
        node("ReduceMax", ["boxes", "last"], ["many"], keepdims=0),
        node("Mul", ["many", "nothing"], ["none"]),
        node("Cast", ["none"], ["labels"], to=onnx.TensorProto.INT64),
    ]
    constants = {
        "axes": np.array([1, 2, 3]), "nothing": np.float32(0), "each": np.array([-1, 1, 1]),
        "rows": BOXES[None], "last": np.array([2]),
    }  # fmt: skip
    tensor, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "toy",
        [tensor("input", kinds.FLOAT, ["batch", 3, 320, 320])],
        [tensor("boxes", kinds.FLOAT, ["batch", 3, 5]), tensor("labels", kinds.INT64, ["batch", 3])],
        [constant(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return carrying(path, load_contract("rtmdet-nano-pth"))


@pytest.mark.timeout(300)
def test_all_of_it_runs_on_the_cpu(tmp_path):
    pose = toy_models.contract("simcc")
    models = {
        "--detector": detector(tmp_path / "detector.onnx"),
        "--pose": carrying(toy_models.save(pose, tmp_path / "pose.onnx"), pose),
    }
    result = tmp_path / "result.json"
    program = str(Path(bench.__file__))
    command = [sys.executable, program, "--dry-run", "--minutes", "4.5", "--persons", "2"]
    command += ["--json", str(result), *(str(word) for pair in models.items() for word in pair)]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, env={**os.environ, "POSESTREAM_HOME": str(tmp_path), "PYTHONPATH": path}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "frames/s" in done.stdout
    document = json.loads(result.read_text())
    assert document["command"].startswith("python benchmarks/gpu/bench.py --dry-run")
    assert document["random"]["pose"] == "those of pose.onnx"
    rows = document["rows"]
    by_kind = {kind: [row for row in rows if row["kind"] == kind and "why" not in row] for kind in
               ("alone", "decode", "streams", "paced", "graph")}  # fmt: skip
    assert [row["streams"] for row in by_kind["streams"]] == [1, 2]
    for row in by_kind["streams"] + by_kind["graph"]:
        assert row["fps"] > 0
        assert row["detections_per_s"] == pytest.approx(row["persons"] * row["fps"], rel=0.1)
    assert all(row["of_bound"] > 0 for row in by_kind["streams"])
    assert [row["graph"] for row in by_kind["paced"]] == ["detect, track", "detect, track, pose"]
    assert [row["batch"] for row in by_kind["alone"]] == [1, 2, 1, 2]
    (other,) = [row for row in rows if row.get("backend") == bench.COMPILED]
    assert other["why"]  # torch.compile needs one of our networks, and the toy is none


@pytest.mark.parametrize(
    ("device", "export_fails", "reason"),
    [
        ("cuda:0", "", "no plans, and this onnxruntime .* has no CUDA provider"),
        ("cpu", "EngineError: onnxslim is missing", "rtmdet-nano-pth cannot be exported: .*onnxslim"),
    ],
)
def test_pytorch_runs_the_models_where_nothing_runs_exports(monkeypatch, device, export_fails, reason):
    pytest.importorskip("torch")

    def run_here(function, *arguments, within_s):
        if function is bench.exported:
            done = [] if export_fails else [{"path": f"{arguments[0]}.onnx", "weights": "trained"}]
            return done, export_fails
        return list(function(*arguments)), ""

    monkeypatch.setattr(bench, "run_isolated", run_here)
    monkeypatch.setattr(bench, "FLAVOURS", {})  # TensorRT is not installed
    monkeypatch.delenv("POSESTREAM_MIRROR", raising=False)
    setting = bench.setting_of(SimpleNamespace(dry_run=False, streams=None, batch=None, persons=1, seconds=1,
                                               detector=bench.DETECTOR, pose=bench.POSE))  # fmt: skip
    setting.device = device
    rows = []
    models, why = bench.prepare(setting, bench.Deadline(5), rows, "")
    assert [(model.path, model.backend) for model in models] == [
        (bench.DETECTOR, "torch"),
        (bench.POSE, "torch, FP16"),
    ]
    assert not why
    assert rows[-1]["backend"] == "torch"
    assert re.search(reason, rows[-1]["why"])


def test_it_needs_a_gpu_unless_it_is_a_dry_run(monkeypatch):
    monkeypatch.setattr(bench, "cuda_devices", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    with pytest.raises(SystemExit, match="no CUDA device here; --dry-run"):
        bench.main()


@pytest.mark.parametrize(
    ("detector_rate", "pose_rate", "bounds"),
    [
        (4000.0, 2000.0, {"decode_alone_fps": 900.0, "engines_alone_fps": 800.0, "of_bound": 0.5}),
        (None, 2000.0, {"decode_alone_fps": 900.0}),
    ],
)
def test_the_share_is_that_of_the_lower_bound(detector_rate, pose_rate, bounds):
    row = {"kind": "streams", "streams": 4, "fps": 400.0}
    rows = [{"kind": "decode", "streams": 4, "fps": 900.0}, row, {"kind": "streams", "why": "crashed"}]
    bench.add_bounds(rows, detector_rate, pose_rate, persons=2)
    assert {name: row[name] for name in row.keys() - {"kind", "streams", "fps"}} == bounds
    assert tables.stream_cells(rows[2])[-1] == "crashed"
