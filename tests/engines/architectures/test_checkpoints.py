"""Checkpoints: which files are read, which are refused without running them, and the errors for wrong ones."""

import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.architectures import build  # noqa: E402
from engines.architectures.checkpoints import (  # noqa: E402
    load_checkpoint,
    load_weights,
    read_checkpoint_contract,
    save_checkpoint,
)
from engines.contracts.contract import load_contract  # noqa: E402
from engines.errors import ContractError, EngineError  # noqa: E402

WEIGHTS = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1.0, 2.0])}
# As mmpose 1.x publishes it: dataset_meta holds arrays, and hooks leave NumPy numbers.
META = {
    "epoch": 420,
    "cfg": "model = dict(type='TopdownPoseEstimator')",
    "dataset_meta": {
        "sigmas": np.linspace(0.02, 0.1, 17),
        "skeleton_links": np.arange(6, dtype=np.int32).reshape(3, 2),
        "names": np.array(["nose", "eye"]),
        "objects": np.array([{"a": 1}, None], dtype=object),
    },
    "hook_msgs": {"best_score": np.float64(0.758), "count": np.int64(3)},
}


class RunsACommand:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


class HistoryBuffer:
    """Stands for mmengine's class, which training checkpoints carry in message_hub."""


HistoryBuffer.__module__ = "mmengine.logging.history_buffer"


def tiny(variant="t", **changes):
    contract = load_contract("rtmpose-m-body8")
    small = contract.input.model_copy(update={"size": (64, 64)})
    return contract.model_copy(update={"variant": variant, "input": small, **changes})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(tiny())


@pytest.mark.parametrize(
    ("content", "zipped"),
    [
        (WEIGHTS, True),
        ({"state_dict": WEIGHTS, "meta": META}, True),
        ({"state_dict": WEIGHTS, "meta": META}, False),  # the format in which OpenMMLab publishes
        ({"model": WEIGHTS, "start_epoch": 300, "optimizer": {"state": {}}}, True),
        ({"ema": {"module": WEIGHTS, "updates": 7}, "model": {"head.weight": torch.zeros(1)}}, True),
        ({"state_dict": WEIGHTS, "ema_state_dict": {"head.weight": torch.zeros(1)}}, True),
    ],
)
def test_weights_are_found(tmp_path, content, zipped):
    path = tmp_path / "it.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = load_checkpoint(path)
    assert list(found) == list(WEIGHTS)
    for name, expected in WEIGHTS.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_is_run(tmp_path, zipped):
    path, mark = tmp_path / "evil.pth", tmp_path / "was-run"
    torch.save(
        {"state_dict": WEIGHTS, "meta": RunsACommand(mark)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        EngineError, match=r"^evil.pth was refused.*needs (posix|nt)\.system, and weights need"
    ):
        load_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # proves that the file would have run it
    assert mark.exists()


def test_a_file_that_needs_a_class_is_refused_with_its_name(tmp_path, monkeypatch):
    for name in ("mmengine", "mmengine.logging", HistoryBuffer.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[HistoryBuffer.__module__].HistoryBuffer = HistoryBuffer
    path = tmp_path / "epoch_10.pth"
    torch.save({"state_dict": WEIGHTS, "message_hub": {"loss": HistoryBuffer()}}, path)
    with pytest.raises(
        EngineError, match=r"needs mmengine\.logging\.history_buffer\.HistoryBuffer.*publish_model"
    ):
        load_checkpoint(path)


def test_numpy_is_allowed_only_while_a_file_is_read(tmp_path):
    """NumPy's functions are replaced only while a file is read, not for other code in the process."""
    path = tmp_path / "it.pth"
    torch.save({"state_dict": WEIGHTS, "meta": META}, path)
    load_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def truncated(path):
    torch.save({"state_dict": {"w": torch.zeros(10_000)}}, path)
    path.write_bytes(path.read_bytes()[:20_000])


def other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>404</html>"),
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        truncated,
        other_zip,
    ],
    ids=["empty", "html", "noise", "truncated", "zip"],
)
def test_files_that_are_no_checkpoints_give_an_error_of_one_line(tmp_path, write, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"it{suffix}"
    write(path)
    with pytest.raises(
        EngineError, match=rf"^it{suffix} is damaged or no checkpoint \(.+\); fetch it again"
    ) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "a list"),
        ({}, "the keys "),
        ({"state_dict": {}, "epoch": 3}, "the keys state_dict, epoch"),
        ({"state_dict": {"w": 3.0}}, "the keys state_dict"),
        ({1: torch.zeros(1)}, "the keys 1"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, content, what):
    path = tmp_path / "it.pth"
    torch.save(content, path)
    with pytest.raises(EngineError, match=rf"^it.pth holds {what}.*, expected tensors by name"):
        load_checkpoint(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"nothing.pth: there is no such file"):
        load_checkpoint(tmp_path / "nothing.pth")


def test_all_weights_are_loaded(tmp_path, network):
    path = tmp_path / "it.pth"
    preprocessing = {
        f"data_preprocessor.{what}": torch.tensor(values).view(3, 1, 1)
        for what, values in (("mean", tiny().input.mean), ("std", tiny().input.std))
    }
    torch.save({"state_dict": {**network.state_dict(), **preprocessing}, "meta": META}, path)
    loaded = load_weights(tiny(), path)
    assert not loaded.training
    image = torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        for role, expected in network(image).items():
            torch.testing.assert_close(loaded(image)[role], expected, rtol=0, atol=0)


def test_half_precision_weights_become_float32(tmp_path, network):
    path = tmp_path / "it.pth"
    torch.save({name: it.half() for name, it in network.state_dict().items()}, path)
    assert {it.dtype for it in load_weights(tiny(), path).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (
            lambda: tiny("m"),
            r"^rtmpose-m-body8: it.pth is not rtmpose m as the contract has it: 144 missing: .*, …; "
            r"\d+ of another shape: backbone.stem.0.conv.weight 12x3x3x3 instead of 24x3x3x3, .*; "
            r"it is variant 't'; take the contract of a model of that size: posestream models list rtmpose-t$",
        ),
        (
            lambda: tiny(skeleton="halpe26"),
            r"t as the contract has it: 2 of another shape: head.final_layer.weight 17x384x7x7 instead of "
            r"26x384x7x7, head.final_layer.bias 17 instead of 26; the size is right; compare the number of keypoints",
        ),
        (
            lambda: tiny("s", skeleton="halpe26"),
            r"variant 't' comes nearest, and keypoints, labels or input size differ too$",
        ),
        (
            lambda: load_contract("hrnet-w32-coco"),
            r"is not hrnet w32 .* missing: .* unexpected: .*; no size of hrnet is near it; is it another architecture\?",
        ),
        (
            lambda: tiny(input=tiny().input.model_copy(update={"std": (1.0, 1.0, 1.0)})),
            r"contract says input.std is \(1.0, 1.0, 1.0\), it.pth was trained with \(58.395, 57.12, 57.375\)",
        ),
    ],
)
def test_a_misfit_is_named(tmp_path, network, contract, message):
    path = tmp_path / "it.pth"
    std = torch.tensor(tiny().input.std).view(3, 1, 1)
    torch.save({"state_dict": {**network.state_dict(), "data_preprocessor.std": std}}, path)
    with pytest.raises(ContractError, match=message):
        load_weights(contract(), path)


def test_missing_and_unexpected_weights_are_listed(tmp_path, network):
    state = network.state_dict()
    state["head.gau.w"] = state.pop("head.gau.o.weight")
    torch.save(state, tmp_path / "it.pth")
    with pytest.raises(
        ContractError, match=r"1 missing: head.gau.o.weight; 1 unexpected: head.gau.w; the size is right"
    ):
        load_weights(tiny(), tmp_path / "it.pth")


def test_saved_checkpoints_carry_their_contract(tmp_path):
    pytest.importorskip("safetensors")
    # The head of this variant shares weights.
    contract = load_contract("rtmdet-nano-pth").model_copy(update={"variant": "tiny"})
    network = build(contract)
    path = tmp_path / "mine.safetensors"
    save_checkpoint(contract, network, path)
    assert list(tmp_path.iterdir()) == [path]
    assert read_checkpoint_contract(path) == contract
    assert read_checkpoint_contract(tmp_path / "other.pth") is None
    loaded = load_weights(contract, path).state_dict()
    for name, expected in network.state_dict().items():
        torch.testing.assert_close(loaded[name], expected, rtol=0, atol=0)

    wrong = contract.model_copy(update={"input": contract.input.model_copy(update={"size": (640, 640)})})
    with pytest.raises(
        ContractError, match=r"input.size is \(640, 640\), the one inside mine.safetensors says"
    ):
        load_weights(wrong, path)
    with pytest.raises(EngineError, match=r"mine.pth: checkpoints are saved as .safetensors"):
        save_checkpoint(contract, network, tmp_path / "mine.pth")


def test_an_invalid_contract_inside_is_refused(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(
        {"w": torch.zeros(1)}, tmp_path / "it.safetensors", metadata={"posestream.contract": '{"name": 3}'}
    )
    with pytest.raises(ContractError, match=r"^it.safetensors: the contract inside is not valid: name: "):
        read_checkpoint_contract(tmp_path / "it.safetensors")
