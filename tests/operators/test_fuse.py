import numpy as np
import pytest

from engines.errors import ContractError
from engines.estimators.ensemble import Augmentation, Ensemble, fuse
from operators.fuse import Fuse
from operators.graphs.graph_files import models_of
from pipeline.errors import OptionError
from pipeline.operator import RunInfo
from pipeline.packet import Instances, Packet
from tests.support.models.toy_models import contract, install, spots, top_down

NONE = (np.nan, np.nan)


@pytest.mark.parametrize(
    ("points", "scores", "expected", "score"),
    [
        ([(10, 20)], [0.7], (10, 20), 0.7),
        ([(10, 20), (13, 20)], [0.5, 1.0], (12, 20), 0.75),
        ([(10, 20), (12, 22), (11, 21), (90, 20)], [0.9, 0.9, 0.9, 0.9], (11, 21), 0.675),
        (
            [(10, 20), (90, 20)],
            [0.5, 0.6],
            (90, 20),
            0.3,
        ),  # of two that disagree, the one with the higher score
        ([(10, 20), (10, 20), (90, 20)], [0.4, 0.4, 0.6], (10, 20), 0.8 / 3),  # two against one
        ([(0, 0), (100, 0), (50, 90)], [0.5, 0.5, 0.6], (50, 90), 0.2),  # all far from their mean
        ([(10, 20), NONE], [0.8, -0.1], (10, 20), 0.4),
        ([(10, 20), (30, 40)], [1.5, 0.0], (10, 20), 0.75),
        ([NONE, NONE], [0.0, -0.1], NONE, 0),
    ],
)
def test_poses_are_fused_by_their_scores_without_outliers(points, scores, expected, score):
    points, scores = np.array(points, np.float32), np.array(scores, np.float32)
    found = fuse(points[:, None, None], scores[:, None, None], np.full((1, 1), 5.0))
    np.testing.assert_allclose(found.points[0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(found.scores[0, 0], score, atol=1e-6)


def test_models_and_augmentations_agree_on_a_spot(tmp_path):
    """For mirrored crops only the middle keypoints agree, since this toy model confuses left and right."""
    models = [top_down(tmp_path, contract(kind, name=kind)) for kind in ("simcc", "heatmap")]
    augmentations = [
        Augmentation(),
        Augmentation(mirrored=True),
        Augmentation(degrees=20),
        Augmentation(degrees=-20),
        Augmentation(scale=1.2),
    ]
    where = [(100, 110), (80, 60), (125, 65)]
    boxes = np.array([[60, 30, 140, 130]] * 2, np.float32)
    found = Ensemble(models, augmentations, 1.0)([spots(*where)], np.zeros(2, int), boxes)
    np.testing.assert_allclose(found.points[:, 0], [where[0]] * 2, atol=0.4)
    np.testing.assert_allclose(found.scores[:, 0], 0.96, atol=0.04)
    np.testing.assert_allclose(found.points[:, 1:], [[where[k % 3] for k in range(1, 17)]] * 2, atol=1.5)
    assert found.scores[0, 1] < 0.9  # two of ten were outliers
    nobody = Ensemble(models, augmentations, 1.0)([], np.zeros(0, int), boxes[:0])
    assert [array.shape for array in nobody] == [(0, 17, 2), (0, 17)]


def test_skeletons_must_agree(tmp_path):
    models = [top_down(tmp_path, contract("simcc", name=name, skeleton=name)) for name in ("coco17", "ap10k")]
    with pytest.raises(ContractError, match="different skeletons: ap10k, coco17"):
        Ensemble(models, [Augmentation()], 1.0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    install(tmp_path, "toy-bins", "simcc")
    install(tmp_path, "toy-maps", "heatmap")


@pytest.mark.usefixtures("home")
def test_from_packets_to_packets():
    operator = Fuse(["toy-bins", "toy-maps"], rotations=(15.0,), max_instances=1)
    operator.open(RunInfo("run", "graph", 0))
    boxes = np.array([[10, 10, 50, 60], [60, 30, 140, 130]], np.float32)
    found = Instances(boxes=boxes, scores=np.array([0.4, 0.9], np.float32))
    packets = [Packet("yard", n, 0, 0, (200, 160), spots((110 + n, 70)), found) for n in range(2)]
    results = operator.process([*packets, packets[0].replace(seq=2, instances=None)])
    operator.close()
    for n, result in enumerate(results[:2]):
        assert result.instances.validate().skeleton == "coco17"
        np.testing.assert_array_equal(result.instances.boxes, boxes[1:])
        np.testing.assert_allclose(result.instances.keypoints[0, 0], (110 + n, 70), atol=0.5)
    assert results[2].instances is None


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        ({"models": ["rtmpose-m-body9"]}, "models", "did you mean 'rtmpose-m-body8'"),
        ({"models": ["rtmdet-nano"]}, "models", "rtmdet-nano is a detect model"),
        ({"models": ["blazepose-full"]}, "models", "expected top-down models"),
        ({"models": ["rtmpose-m-body8", "rtmpose-m-ap10k"]}, "models", "rtmpose-m-ap10k gives ap10k"),
        ({"models": ["rtmpose-m-body8"]}, "models", "one pose needs no fusing"),
        (
            {"models": ["rtmpose-m-body8"], "flip": True, "rotations": (5, 10, 15), "scales": (0.9,)},
            "rotations",
            "9 crops .* at most 8",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(options, option, message):
    with pytest.raises(OptionError, match=message) as error:
        Fuse.ports(options)
    assert error.value.option == option


def test_scores_are_needed_to_choose_by_them():
    models = ["rtmpose-m-body8", "hrnet-w32-coco"]
    assert Fuse.ports({"models": models}).needs == {"image", "boxes"}
    assert Fuse.ports({"models": models, "max_instances": 3}).needs == {"image", "boxes", "scores"}


def test_models_of_a_graph_include_all_of_an_ensemble():
    assert models_of("ensemble") == ["rtmdet-nano", "rtmpose-m-body8", "hrnet-w32-coco-dark"]
