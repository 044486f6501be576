"""Importing models: which numbers come from the file, and which from the model that it is like."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")
from engines.assets.store import fetch, sha256
from engines.contracts.contract import available_models, load_contract
from engines.conversion.import_model import import_model, own_path, remove_model
from engines.errors import AssetError, ContractError
from engines.loading.load import load_engine
from tests.support.models.tiny_onnx import carrying, peaks, shaped

BODY = load_contract("rtmpose-m-body8")
SMALL = {"input": ["n", 3, 256, 192]}, {"simcc_x": ["n", 17, 384], "simcc_y": ["n", 17, 512]}
LARGE = {"image": ["n", 3, 384, 288]}, {"x": ["n", 17, 576], "y": ["n", 17, 768]}
HORSES = {"input": ["n", 3, 256, 256]}, {"heatmaps": ["n", 17, 64, 64]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POSESTREAM_MIRROR", raising=False)
    load_contract.cache_clear()
    yield tmp_path / "home"
    load_contract.cache_clear()


def test_names_and_sizes_come_from_the_graph_and_the_rest_from_like(tmp_path):
    path = shaped(tmp_path / "Mine v2.onnx", *LARGE)
    contract = import_model(path, like="rtmpose-m-body8")
    assert contract == load_contract("mine-v2")
    assert (contract.title, contract.licence) == ("Mine v2.onnx, like rtmpose-m-body8", "not stated")
    assert (contract.input.name, contract.input.size, contract.codec) == ("image", (288, 384), BODY.codec)
    assert (contract.input.mean, contract.input.box_padding) == (BODY.input.mean, 1.25)
    assert [it.name for it in contract.outputs.values()] == ["x", "y"]
    assert (contract.asset.sha256, contract.asset.bytes) == (sha256(path), path.stat().st_size)
    load_engine(contract, path=fetch(contract.asset)).close()


def test_the_input_size_comes_from_the_graph_not_from_like(tmp_path):
    contract = import_model(peaks(tmp_path / "m.onnx", 1024, stride=4, keypoints=17), like="hrnet-w32-coco")
    assert (contract.input.size, contract.codec.size) == ((1024, 1024), (256, 256))


def test_a_contract_inside_the_file_is_enough(tmp_path):
    theirs = BODY.model_copy(
        update={"name": "theirs", "input": BODY.input.model_copy(update={"mean": (1, 2, 3)})}
    )
    contract = import_model(carrying(shaped(tmp_path / "mine.onnx", *SMALL), theirs))
    assert (contract.name, contract.input.mean, contract.skeleton) == ("mine", (1, 2, 3), "coco17")
    assert (contract.title, contract.licence) == (BODY.title, BODY.licence)
    with pytest.raises(
        ContractError, match=r"says input.mean is .*123.675.*, the one inside mine.onnx says .*1.0"
    ):
        import_model(tmp_path / "mine.onnx", "again", like="rtmpose-m-body8")


def test_architecture_and_variant_give_the_numbers_that_their_models_share(tmp_path):
    path = shaped(tmp_path / "mine.onnx", *HORSES)
    contract = import_model(path, architecture="hrnet", variant="w48", skeleton="ap10k")
    assert (contract.variant, contract.skeleton, contract.codec.refine) == ("w48", "ap10k", "quarter")


def test_of_several_models_of_a_variant_the_one_that_fits_is_taken(tmp_path):
    path = shaped(tmp_path / "mine.onnx", {"input": ["n", 3, 384, 288]}, LARGE[1])
    contract = import_model(path, architecture="rtmpose", variant="m")
    assert (contract.input.size, contract.skeleton) == ((288, 384), "coco17")


def test_a_checkpoint_is_loaded_as_a_test(tmp_path):
    pytest.importorskip("torch")
    from engines.architectures import build
    from engines.architectures.checkpoints import save_checkpoint

    tiny = load_contract("rtmpose-t-body8")
    save_checkpoint(tiny, build(tiny), tmp_path / "mine.safetensors")
    assert import_model(tmp_path / "mine.safetensors").variant == "t"
    with pytest.raises(ContractError, match=r"mine.safetensors"):
        import_model(tmp_path / "mine.safetensors", "small", like="rtmpose-s-body8")


def test_another_skeleton_changes_the_rows_of_outputs(tmp_path):
    outputs = {"simcc_x": ["n", 26, 384], "simcc_y": ["n", 26, 512]}
    path = shaped(tmp_path / "mine.onnx", SMALL[0], outputs)
    contract = import_model(path, like="rtmpose-m-body8", skeleton="halpe26")
    assert [it.shape[1] for it in contract.outputs.values()] == [26, 26]


@pytest.mark.parametrize(
    ("graph", "options", "message"),
    [
        (SMALL, {}, r"mine.onnx carries no contract; name a model .*: --like NAME, or --arch"),
        (SMALL, {"like": "rtmpose-m-bdy8"}, "no model 'rtmpose-m-bdy8'; did you mean 'rtmpose-m-body8'"),
        (SMALL, {"like": "rtmpose-m-halpe26"}, "'simcc_x' is .*17x384, but .* 26 keypoints of halpe26 make"),
        (HORSES, {"like": "rtmpose-m-body8"}, r"has outputs \['heatmaps'\], the model that it is like has \['simcc_x', 's"),
        (({"input": [1, 256, 192, 3]}, SMALL[1]), {"like": "rtmpose-m-body8"}, r"is 1x256x192x3, expected \?x3x\?x\?"),
        (({**SMALL[0], "b": [1]}, SMALL[1]), {"like": "rtmpose-m-body8"}, r"has inputs \['b', 'input'\]; expected one"),
        (SMALL, {"architecture": "hrnet", "variant": "w32"}, "differ in input or codec; name .* hrnet-w32-coco, "),
        (SMALL, {"architecture": "rtmpose"}, "no model 'rtmpose', expected --architecture and --variant: hrnet w32, "),
        (SMALL, {"like": "rtmpose-m-body8", "name": "yolox-nano"}, "'yolox-nano' is the name of a ready model"),
        (SMALL, {"like": "rtmpose-m-body8", "name": "../x"}, "'../x': a name may have small letters"),
        (SMALL, {"like": "rtmpose-m-body8", "skeleton": "coco71"}, "no skeleton 'coco71'"),
    ],
)  # fmt: skip
def test_a_misfit_is_refused_and_leaves_no_contract(tmp_path, graph, options, message):
    before = available_models()
    with pytest.raises(ContractError, match=message):
        import_model(shaped(tmp_path / "mine.onnx", *graph), **options)
    assert available_models() == before


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(AssetError, match="no such file"):
        import_model(tmp_path / "none.onnx")
    (tmp_path / "a.zip").touch()
    with pytest.raises(ContractError, match=r"a.zip: expected a file named \.onnx"):
        import_model(tmp_path / "a.zip")


def test_a_second_import_is_refused_until_the_first_is_removed(tmp_path):
    path = shaped(tmp_path / "mine.onnx", *SMALL)
    contract = import_model(path, like="rtmpose-m-body8")
    kept = fetch(contract.asset)
    with pytest.raises(ContractError, match=r"you have a model 'mine'; .*: posestream models remove mine"):
        import_model(path, like="rtmpose-m-body8")
    remove_model("mine")
    assert (kept.exists(), own_path("mine").exists(), path.exists()) == (False, False, True)
    import_model(path, like="rtmpose-m-body8")


def test_weights_shared_by_two_models_are_removed_with_the_last(tmp_path):
    path = shaped(tmp_path / "mine.onnx", *SMALL)
    kept = {fetch(import_model(path, name, like="rtmpose-m-body8").asset) for name in ("one", "two")}
    assert len(kept) == 1
    remove_model("two")
    assert kept.pop().exists()
    remove_model("one")
    assert not fetched(path)


def fetched(path):
    return [it for it in (path.parent / "home" / "assets").rglob(path.name) if it.is_file()]


def test_ready_models_are_not_removed():
    with pytest.raises(ContractError, match="yolox-nano is a ready model"):
        remove_model("yolox-nano")
