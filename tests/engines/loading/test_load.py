"""Contracts compared with real files; changed contracts stand for wrong files, since there are no others."""

import numpy as np
import pytest

from engines.backends.litert import LitertEngine
from engines.contracts.contract import load_contract
from engines.errors import ContractError, EngineError
from engines.loading.load import load_engine

POSE, DETECTOR = load_contract("blazepose-full"), load_contract("blazepose-detector")


def changed_output(role, **changes):
    outputs = dict(POSE.outputs)
    outputs[role] = outputs[role].model_copy(update=changes)
    return {"outputs": outputs}


def changed(part, **changes):
    return {part: getattr(POSE, part).model_copy(update=changes)}


@pytest.mark.models
def test_a_model_that_fits_its_contract_is_loaded_and_closed(weights):
    engine = load_engine(POSE, path=weights("blazepose-full"))
    assert engine.inputs["input_1"] == ((1, 256, 256, 3), np.float32)
    assert list(engine.outputs) == ["Identity", "Identity_1", "Identity_3", "Identity_4"]
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"input_1": np.zeros((1, 256, 256, 3), np.float32)})


@pytest.mark.models
@pytest.mark.parametrize("n", [0, 1, 3])
def test_removing_an_unused_output_changes_no_other_output(weights, n):
    path = weights("blazepose-full")
    full, cut = LitertEngine(path), load_engine(POSE, path=path)
    images = np.random.default_rng(0).random((n, 256, 256, 3), np.float32)
    expected, found = (engine.run({"input_1": images}) for engine in (full, cut))
    assert expected.keys() - found.keys() == {"Identity_2"}
    for name, array in found.items():
        assert len(array) == n
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.models
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            changed("input", size=(224, 192)),
            r"blazepose-full: contract says input 'input_1' is 224x192 nhwc, the file \S+ has 256x256 nhwc",
        ),
        (changed("input", layout="nchw"), r"is 256x256 nchw, the file \S+ has 256x256 nhwc"),
        (changed("input", name="images"), r"the input is 'images', the file \S+ has inputs \['input_1'\]"),
        (changed_output("heatmaps", name="maps"), r"heatmaps is output 'maps', the file \S+ has outputs \['Identity'"),
        (changed_output("heatmaps", shape=(1, 32, 32, 39)), r"is 1x32x32x39, the file \S+ has 1x64x64x39"),
        (changed_output("heatmaps", shape=(1, 64, 64)), r"is 1x64x64, the file \S+ has 1x64x64x39"),
        (changed("codec", landmarks=33), r"output 'Identity' is 1x195, but 33 landmarks of 5 values make \?x165"),
        ({"skeleton": "coco17"}, r"skeleton 'coco17' has 17 keypoints, the model has 33"),
        ({"skeleton": None}, r"needs a skeleton"),
    ],
)  # fmt: skip
def test_a_mismatch_names_both_values(weights, changes, message):
    with pytest.raises(ContractError, match=message) as error:
        load_engine(POSE.model_copy(update=changes), path=weights("blazepose-full"))
    assert "\n" not in str(error.value)


@pytest.mark.models
def test_a_size_of_minus_one_in_the_contract_fits_any_size(weights):
    contract = POSE.model_copy(update=changed_output("heatmaps", shape=(-1, -1, -1, 39)))
    load_engine(contract, path=weights("blazepose-full")).close()


@pytest.mark.models
def test_the_file_of_another_model_is_refused(weights):
    with pytest.raises(ContractError, match="blazepose-detector: contract says input 'input_1' is 224x224"):
        load_engine(DETECTOR, path=weights("blazepose-full"))


BROKEN = {"empty": b"", "text": b"<!doctype html>\n" * 100, "magic only": b"\x1c\0\0\0TFL3" + b"\xff" * 500}


@pytest.mark.parametrize("name", ["weights.tflite", "weights.onnx"])
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_gives_an_error_of_one_line(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(EngineError, match=rf"{name}: .*fetch the model again") as error:
        load_engine(POSE, path=path)
    assert "\n" not in str(error.value)


@pytest.mark.models
def test_a_truncated_file_is_refused(weights, tmp_path):
    path = tmp_path / "half.tflite"
    path.write_bytes(weights("blazepose-full").read_bytes()[:3_000_000])
    with pytest.raises(EngineError, match=r"half\.tflite: not a TensorFlow Lite model of 3000000 bytes"):
        load_engine(POSE, path=path)


@pytest.mark.parametrize("name", ["none.tflite", "none.onnx"])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(EngineError, match=name):
        load_engine(POSE, path=tmp_path / name)
