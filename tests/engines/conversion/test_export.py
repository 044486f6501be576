"""Exports of a small real RTMPose: the file, its outputs, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engines.conversion.export
import engines.conversion.onnx_files
from engines.architectures.checkpoints import load_weights
from engines.assets.model_files import runnable
from engines.backends.onnxruntime import OnnxEngine
from engines.comparison.example_inputs import drawn_picture, inputs_of
from engines.comparison.reference import compare_with_reference
from engines.contracts.contract import load_contract
from engines.contracts.onnx_metadata import has_random_weights, read_contract, read_notes
from engines.conversion.export import OPSET, export, export_model, random_network, to_onnx
from engines.conversion.onnx_files import save, to_float16
from engines.errors import AssetError, EngineError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).resolve().parents[3]
OUTPUTS = {"simcc_x", "simcc_y"}


def test_the_file_is_a_clean_graph_with_its_contract_inside(small_home):
    path = small_home.exported.path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == OPSET >= 17
    assert {node.op_type for node in model.graph.node}.isdisjoint(
        {"BatchNormalization", "Dropout", "Identity"}
    )
    assert read_contract(path) == small_home.contract
    assert str(ROOT).encode() not in path.read_bytes()  # the exporter's stack traces


def test_the_difference_from_pytorch_is_kept_in_the_file(small_home):
    notes = read_notes(small_home.exported.path)
    assert notes["weights"] == small_home.contract.asset.sha256
    assert notes["difference"] == small_home.exported.difference
    assert notes["difference"].keys() == OUTPUTS
    assert max(notes["difference"].values()) < 1e-4
    assert "drawn picture" in notes["compared_on"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_export_takes_any_batch_and_finds_the_checkpoints_keypoints(small_home, count):
    engine = OnnxEngine(runnable(small_home.contract))
    assert engine.inputs["input"].shape == (-1, 3, 96, 64)
    outputs = engine.run({"input": small_home.batch[:count]})
    contract = small_home.contract
    points, _ = contract.codec.finish(contract.codec.reduce(outputs), contract.input.size)
    np.testing.assert_array_equal(points, small_home.points[:count])


def test_a_second_export_finds_the_first(small_home):
    again = export_model(small_home.contract)
    assert again == small_home.exported._replace(fresh=False)


def test_an_export_of_another_model_is_not_reused(small_home, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(engines.conversion.export, "export", lambda *args, **_: calls.append(args))
    other = small_home.contract.model_copy(update={"skeleton": "ap10k"})
    export_model(other, out=small_home.exported.path)
    export_model(small_home.contract, out=tmp_path / "new.onnx")
    export_model(small_home.contract, force=True)
    assert len(calls) == 3


def test_in_half_precision_the_keypoints_stay(small_home, tmp_path):
    half = tmp_path / "half.onnx"
    save(to_float16(small_home.exported.path), half)
    assert half.stat().st_size < 0.55 * small_home.exported.path.stat().st_size
    engine = OnnxEngine(half)
    assert {spec.dtype for spec in (engine.inputs | engine.outputs).values()} == {np.dtype(np.float32)}
    report = compare_with_reference(small_home.contract, engine, small_home.exported.path)
    assert report.passed
    assert report.meaning.shift_px.max <= 0.5  # a bin
    assert report.outputs["simcc_x"].max > 1e-4  # so it did not run in FP32


def test_weights_too_large_for_one_file_go_to_a_second_file(small_home, tmp_path, monkeypatch):
    monkeypatch.setattr(engines.conversion.onnx_files, "FILE_LIMIT", 1_000_000)
    path = tmp_path / "large.onnx"
    model = onnx.load(small_home.exported.path)
    save(model, path)
    save(model, path)  # a model can be saved more than once
    assert path.stat().st_size < 1_000_000 < (tmp_path / "large.onnx.data").stat().st_size
    assert read_contract(path) == small_home.contract
    expected = OnnxEngine(small_home.exported.path).run({"input": small_home.batch})
    for name, array in OnnxEngine(path).run({"input": small_home.batch}).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.fixture
def traced(small_home, monkeypatch):
    """Exports reuse the graph that was traced already, with its weights."""
    network = load_weights(small_home.contract, small_home.checkpoint)
    monkeypatch.setattr(engines.conversion.export, "random_network", lambda *_: network)
    monkeypatch.setattr(engines.conversion.export, "to_onnx", lambda *_: onnx.load(small_home.exported.path))
    return small_home


def test_random_weights_are_marked_and_never_run_by_the_models_name(traced):
    made = export_model(traced.contract, seed=7)
    assert has_random_weights(made.path)
    assert not has_random_weights(traced.exported.path)
    assert "random-7" in made.path.name
    assert read_contract(made.path).name == "small-rtmpose-random-7"
    assert "random weights" in read_contract(made.path).title
    assert runnable(traced.contract) == traced.exported.path
    assert not export_model(traced.contract, seed=7).fresh


def test_random_weights_depend_on_the_seed_and_keep_signals(small_home):
    contract = small_home.contract
    image = torch.from_numpy(inputs_of(contract, drawn_picture()))
    with torch.no_grad():
        one, same, other = (random_network(contract, seed)(image)["simcc_x"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=0.1)
    assert 0.1 < one.std() < 100
    assert (one[0] - one[2]).abs().max() > 0.1  # it depends on the picture


def test_a_wrong_export_is_not_kept(traced, tmp_path, monkeypatch):
    model = onnx.load(traced.exported.path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1.2).tobytes()
    monkeypatch.setattr(engines.conversion.export, "to_onnx", lambda *_: model)
    with pytest.raises(EngineError, match=r"differs from PyTorch.*not kept"):
        export(traced.contract, traced.checkpoint, tmp_path / "wrong.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_files_are_named_with_the_command(small_home, tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    for call in (export_model, runnable):
        with pytest.raises(AssetError, match="posestream models pull small-rtmpose"):
            call(small_home.contract)
    checkpoint = tmp_path / small_home.checkpoint.relative_to(small_home.home)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(small_home.checkpoint)
    with pytest.raises(EngineError, match="posestream engine export small-rtmpose"):
        runnable(small_home.contract)
    with pytest.raises(EngineError, match=r"yolox_nano\.onnx contains its graph and runs as it is"):
        export_model(load_contract("yolox-nano"))


WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "onnxslim"):
    sys.modules[name] = None
import numpy as np
from engines.contracts.contract import load_contract
from engines.errors import EngineError
from engines.conversion.export import export_model
from engines.loading.load import load_engine
contract = load_contract("small-rtmpose")
out = load_engine(contract).run({"input": np.zeros((2, 3, 96, 64), np.float32)})
print(out["simcc_x"].shape, np.isfinite(out["simcc_y"]).all())
for call in (lambda: export_model(contract, force=True), lambda: load_engine(contract, backend="torch")):
    try:
        call()
    except EngineError as error:
        print(error)
"""


def test_without_pytorch_an_export_runs_and_exporting_is_refused(small_home):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ran, export_refused, torch_refused = done.stdout.splitlines()
    assert ran == "(2, 17, 128) True"
    assert export_refused.startswith(
        "exporting needs torch, which is not installed: pip install 'posestream["
    )
    assert torch_refused == "torch needs PyTorch, which is not installed: pip install 'posestream[torch]'"


def test_outputs_have_the_names_in_the_contract(small_home):
    network = torch.nn.Conv2d(3, 2, 1)

    class Two(torch.nn.Module):
        def forward(self, image):
            seen = network(image).mean(dim=-1)
            return {"simcc_y": seen + 1, "simcc_x": seen}

    contract = small_home.contract
    renamed = {
        role: output.model_copy(update={"name": f"my_{role}"}) for role, output in contract.outputs.items()
    }
    model = to_onnx(contract.model_copy(update={"outputs": renamed}), Two().eval())
    assert [output.name for output in model.graph.output] == ["my_simcc_x", "my_simcc_y"]
