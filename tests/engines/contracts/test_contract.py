"""The contracts in `configs/`, and the checks when a contract is read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engines.contracts.config_files import CONFIGS, check_config
from engines.contracts.contract import Asset, Contract, load_contract
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError

MODELS = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
CHECKPOINTS = [name for name in MODELS if load_contract(name).asset.filename.endswith(".pth")]


@pytest.mark.parametrize("name", MODELS)
def test_contracts_in_configs(name):
    contract = load_contract(name)
    asset = contract.asset
    assert contract.name == name
    assert all(getattr(source, "url", "https://").startswith("https://") for source in asset.sources)
    if asset.sha256 and not asset.in_full:
        assert asset.sha256 in asset.filename
        assert asset.sources[0].url.endswith(f"/{asset.filename}")
    if contract.codec.kind in ("simcc", "heatmap"):
        assert contract.input.box_padding == 1.25
        assert contract.input.colour == "rgb"
        assert contract.input.mean[0] > contract.input.mean[2]
        sides = {"body8": "coco17", "coco": "coco17", "ap10k": "ap10k", "halpe26": "halpe26"}
        assert contract.skeleton == sides.get(
            name.split("-")[2] if name.count("-") > 1 else "", "coco-wholebody133"
        )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_has_an_architecture(name):
    pytest.importorskip("torch")
    from engines.architectures import variants

    assert load_contract(name).variant in variants(load_contract(name).architecture)


def test_no_two_models_share_a_file():
    names = {load_contract(name).asset.filename for name in MODELS}
    assert len(names) == len(MODELS)


def read(name: str, **changes):
    """A model's contract with some fields changed, each named by its path, as if read from a file."""
    data = load_contract(name).model_dump()
    for path, value in changes.items():
        *parents, field = path.split("__")
        part = data
        for parent in parents:
            part = part[parent]
        part[field] = value
    return check_config(Contract, data, "mine.yaml")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rtmpose-m-body8", {"input__size": (288, 384)},
         r"mine.yaml: rtmpose-m-body8: output 'simcc_x' is \?x17x384, but 288x384 px at 2 bins a px and 17 keypoints of "
         r"coco17 make \?x17x576; correct"),
        ("rtmpose-m-body8", {"codec__split_ratio": 3.0}, r"is \?x17x384, but .* at 3 bins a px .* make \?x17x576"),
        ("rtmpose-m-body8", {"skeleton": "halpe26"}, r"is \?x17x384, but .* 26 keypoints of halpe26 make \?x26x384"),
        ("rtmpose-m-body8", {"skeleton": None}, "a pose model needs a skeleton"),
        ("rtmpose-m-body8", {"outputs": {}}, r"codec 'simcc' reads output 'simcc_x', outputs has only \[\]"),
        ("hrnet-w32-coco", {"codec__size": (64, 64)},
         "heatmaps of 64x64 on an input of 192x256 have strides of 3 and 4 px, expected the same whole number"),
        ("hrnet-w32-coco", {"codec__size": (96, 128)},
         r"output 'heatmaps' is \?x17x64x48, but heatmaps of 96x128 and 17 keypoints of coco17 make \?x17x128x96"),
        ("yolox-nano", {"input__size": (640, 640)},
         r"'output' is 1x3549x85, but 640x640 px in strides of \[8, 16, 32\] and 80 labels make \?x8400x85"),
        ("yolox-nano", {"labels": ["person"]}, r"and 1 labels make \?x3549x6"),
        ("rtmdet-nano", {"outputs__boxes__shape": (-1, -1, 4)}, r"is \?x\?x4, but boxes with scores make \?x\?x5"),
        ("yolox-nano", {"labels": "coco8"}, "no label 'coco8'; did you mean 'coco80'"),
        ("yolox-nano", {"asset__sha256": "c789161e4"}, "asset.sha256: String should match"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_both_values(name, changes, message):
    with pytest.raises(ContractError, match=message):
        read(name, **changes)


def test_varying_sizes_contradict_nothing():
    contract = read("rtmpose-m-body8", outputs__simcc_x__shape=(-1, -1, -1))
    assert contract.outputs["simcc_x"].shape == (-1, -1, -1)


def test_labels_can_be_the_name_of_a_list():
    labels = load_contract("yolox-s").labels
    assert (len(labels), labels[0], labels[79]) == (80, "person", "toothbrush")
    assert load_contract("yolox-nano").labels == labels


@pytest.mark.parametrize(
    ("stated", "in_full", "same"),
    [("ab" * 32, True, True), ("ab" * 4, False, True), ("abababac", False, False), (None, False, False)],
)
def test_partial_checksums(stated, in_full, same):
    asset = Asset(filename="a", sha256=stated, sources=[{"kind": "file", "url": "a"}])
    assert (asset.in_full, asset.has_checksum("ab" * 32)) == (in_full, same)


def test_keypoints_are_numbered_as_in_mmpose():
    assert load_skeleton("ap10k").keypoints[:5] == ("left_eye", "right_eye", "nose", "neck", "root_of_tail")
    assert load_skeleton("halpe26").keypoints[17:20] == ("head", "neck", "hip")
    assert load_skeleton("coco-wholebody133").keypoints[91] == "left_hand_root"


def test_reading_contracts_needs_neither_opencv_nor_pytorch():
    script = (
        "import sys; from engines.contracts.contract import available_models, load_contract\n"
        "for name in available_models(): load_contract(name)\n"
        "print({'cv2', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
