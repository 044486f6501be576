import numpy as np
import pytest

from engines.contracts.config_files import check_config
from engines.contracts.skeletons import Skeleton, available_skeletons, load_skeleton
from engines.errors import ContractError

COCO_SIGMAS = [.026, .025, .025, .035, .035, .079, .079, .072, .072,
               .062, .062, .107, .107, .087, .087, .089, .089]  # fmt: skip

SMALL = {
    "name": "small",
    "keypoints": ["nose", "left_hand", "right_hand"],
    "pairs": [["left_hand", "right_hand"]],
    "limbs": [["nose", "left_hand"]],
    "sigmas": [0.026, 0.062, 0.062],
}


@pytest.mark.parametrize(
    ("name", "keypoints", "pairs", "limbs"),
    [
        ("coco17", 17, 8, 19),
        ("ap10k", 17, 7, 17),
        ("halpe26", 26, 11, 27),
        ("blazepose33", 33, 16, 35),
        ("coco-wholebody133", 133, 61, 65),
    ],
)
def test_numbers_of_keypoints_pairs_and_limbs(name, keypoints, pairs, limbs):
    skeleton = load_skeleton(name)
    assert skeleton.name == name
    assert (len(skeleton.keypoints), len(skeleton.pairs), len(skeleton.limbs)) == (keypoints, pairs, limbs)
    assert len(skeleton.sigmas) == len(skeleton.sides) == keypoints
    assert 0.005 < min(skeleton.sigmas) <= max(skeleton.sigmas) <= 0.107


@pytest.mark.parametrize("name", available_skeletons())
def test_mirroring_twice_changes_nothing_and_left_becomes_right(name):
    skeleton = load_skeleton(name)
    assert (skeleton.mirror[skeleton.mirror] == np.arange(len(skeleton.keypoints))).all()
    for i, keypoint in enumerate(skeleton.keypoints):
        other = skeleton.keypoints[skeleton.mirror[i]]
        if "left" in keypoint:
            assert (skeleton.sides[i], other) == ("left", keypoint.replace("left", "right"))
        mirrored = {"left": "right", "right": "left", "centre": "centre"}
        assert skeleton.sides[skeleton.mirror[i]] == mirrored[skeleton.sides[i]]


@pytest.mark.parametrize("name", available_skeletons())
def test_limbs_are_mirror_images_of_limbs(name):
    skeleton = load_skeleton(name)
    limbs = {frozenset(limb) for limb in skeleton.limb_indices.tolist()}
    assert {frozenset(skeleton.mirror[list(limb)].tolist()) for limb in limbs} == limbs


@pytest.mark.parametrize("name", ["coco17", "blazepose33", "halpe26", "coco-wholebody133"])
def test_mapping_onto_coco17(name):
    skeleton = load_skeleton(name)
    index = skeleton.indices_for("coco17")
    assert [skeleton.keypoints[i] for i in index] == list(load_skeleton("coco17").keypoints)
    assert [skeleton.sigmas[i] for i in index] == COCO_SIGMAS


def test_blazepose_maps_onto_coco17_as_mediapipe_numbers_it():
    index = load_skeleton("blazepose33").indices_for("coco17")
    assert index.tolist() == [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]


def test_sigmas_are_the_published_ones():
    whole = np.array(load_skeleton("coco-wholebody133").sigmas)
    parts = np.split(whole, [17, 23, 91, 112])
    assert [len(part) for part in parts] == [17, 6, 68, 21, 21]
    assert parts[1].tolist() == [0.068, 0.066, 0.066, 0.092, 0.094, 0.094]
    assert parts[3].tolist() == parts[4].tolist()
    assert load_skeleton("halpe26").sigmas[17:] == (0.026, 0.026, 0.066) + 6 * (0.079,)
    assert sorted(load_skeleton("ap10k").sigmas) == sorted(COCO_SIGMAS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [0.1, 0.1]}, r"small.yaml: sigmas: expected 3 positive numbers, found 2"),
        ({"limbs": [["nose", "left_hnad"]]}, r"limbs: no keypoint 'left_hnad'; did you mean 'left_hand'\?"),
        ({"pairs": [["left_hand", "left_hand"]]}, r"pairs: a keypoint occurs in two"),
        ({"keypoints": ["nose", "nose", "left_hand"]}, r"keypoints: a name occurs twice"),
        ({"subsets": {"coco17": ["knee"]}}, r"coco17: no keypoint 'knee'"),
        ({"colour": "red"}, r"colour: Extra inputs"),
    ],
)
def test_invalid_skeletons_are_refused(change, message):
    with pytest.raises(ContractError, match=message):
        check_config(Skeleton, {**SMALL, **change}, "small.yaml")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: load_skeleton("coco71"), r"no skeleton 'coco71'; did you mean 'coco17'\?"),
        (lambda: load_skeleton("../models/yolox-nano"), r"no skeleton"),
        (
            lambda: load_skeleton("ap10k").indices_for("coco17"),
            r"ap10k does not map onto 'coco17', only onto",
        ),
    ],
)
def test_messages_for_unknown_names(ask, message):
    with pytest.raises(ContractError, match=message):
        ask()
