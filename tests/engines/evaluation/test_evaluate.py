import contextlib
import copy
import io
import json

import numpy as np
import pytest

from engines.contracts.skeletons import load_skeleton
from engines.errors import EngineError
from engines.evaluation.average_precision import THRESHOLDS, evaluate, oks
from engines.evaluation.coco_files import read_annotations, results_of

NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def annotation(image=1, category=1, side=200.0, at=(100.0, 100.0), labelled=17, **others):
    """A square instance with keypoints along its diagonal; those from `labelled` on are not labelled."""
    points = np.zeros((17, 3))
    points[:labelled, :2] = np.array(at) + np.linspace(0, side, 17)[:labelled, None]
    points[:labelled, 2] = 2
    return {
        "image_id": image, "category_id": category, "bbox": [*at, side, side], "area": side**2, "iscrowd": 0,
        "num_keypoints": labelled, "keypoints": points.ravel().tolist(), **others,
    }  # fmt: skip


def found(of, score=0.9, shift=0.0, **others):
    """A result that lies `shift` px right of an annotation."""
    points = np.array(of["keypoints"]).reshape(-1, 3)
    points[:, 0] += shift
    return {
        "image_id": of["image_id"], "category_id": of["category_id"], "score": score,
        "keypoints": points.ravel().tolist(), **others,
    }  # fmt: skip


@pytest.fixture
def annotated(tmp_path):
    """A function that writes annotations and reads them."""

    def write(annotations, skeleton="coco17", categories=("person", "dog"), images=3):
        keypoints = list(load_skeleton(skeleton).keypoints)
        data = {
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(1, images + 1)],
            "categories": [
                {"id": i, "name": name, "keypoints": keypoints} for i, name in enumerate(categories, 1)
            ],
            "annotations": [{"id": i, **one} for i, one in enumerate(annotations, 1)],
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(data))
        return read_annotations(path)

    return write


def measured(known, entries, **options):
    return evaluate(known, results_of(entries, known, "results"), **options)


def test_oks_follows_the_formula():
    """A keypoint that is off by its deviation, sqrt(area) * 2 sigma, is worth exp(-1/2)."""
    sigmas, points = np.array([0.1, 0.05]), np.array([[[10, 10, 2], [20, 20, 1]]], float)
    box, area = np.array([[0, 0, 50, 20]], float), np.array([1000.0])
    shifted = points[..., :2].copy()
    shifted[0, 1, 0] += np.sqrt(1000) * 2 * 0.05
    both = oks(np.concatenate([points[..., :2], shifted]), points, box, area, sigmas)
    np.testing.assert_allclose(both, [[1], [(1 + np.exp(-0.5)) / 2]])
    points[0, 0, 2] = 0  # not labelled: it does not count
    np.testing.assert_allclose(oks(shifted, points, box, area, sigmas), [[np.exp(-0.5)]])


def test_perfect_results_give_1_and_none_give_0(annotated):
    instances = [annotation(side=50), annotation(image=2)]
    known = annotated(instances)
    assert measured(known, [found(it) for it in instances]) == pytest.approx(dict.fromkeys(NAMES, 1.0))
    assert measured(known, []) == dict.fromkeys(NAMES, 0.0)
    half = measured(known, [found(instances[1])])
    assert (half["AR"], half["ARM"], half["APL"]) == pytest.approx((0.5, 0.0, 1.0))


def test_a_wrong_result_with_a_higher_score_costs_precision(annotated):
    one = annotation()
    right, wrong = found(one, 0.5), found(one, 0.9, shift=1000)
    assert measured(annotated([one]), [right, wrong])["AP"] == pytest.approx(0.5)
    assert measured(annotated([one]), [right, {**wrong, "score": 0.1}])["AP"] == pytest.approx(1.0)


def test_ignored_instances_neither_help_nor_harm(annotated):
    one = annotation()
    crowd, unlabelled = annotation(image=2, iscrowd=1), annotation(image=3, labelled=0)
    known = annotated([one, crowd, unlabelled])
    entries = [found(one), found(crowd), found(crowd, shift=1), found({**crowd, "image_id": 3})]
    assert measured(known, entries)["AP"] == pytest.approx(1.0)
    beside = [found(one), found({**crowd, "image_id": 1}, 0.95, shift=1000)]
    assert measured(known, beside)["AP"] == pytest.approx(0.5)


def test_categories_are_evaluated_separately_by_default(annotated):
    jaguar = annotation(category=1)
    known = annotated([jaguar, annotation(image=2, category=2)], skeleton="ap10k")
    entries = [found(jaguar, category_id=2), found(annotation(image=2, category=1))]
    assert measured(known, entries)["AP"] == 0
    assert measured(known, entries, any_category=True)["AP"] == pytest.approx(1.0)
    nothing = measured(annotated([annotation(labelled=0)]), [])
    assert np.isnan([*nothing.values()]).all()


def random_data(seed):
    """Annotations and results of all kinds: crowds, several sizes, wrong results, equal scores, too many."""
    random = np.random.default_rng(seed)
    annotations, entries = [], []
    for image in range(1, 7):
        for _ in range(random.integers(0, 5)):
            one = annotation(
                image, int(random.integers(1, 3)), float(random.choice([20, 60, 150, 300])),
                tuple(random.uniform(0, 400, 2)), int(random.choice([0, 5, 17])),
                iscrowd=int(random.random() < 0.1),
            )  # fmt: skip
            annotations.append(one)
            for _ in range(random.integers(0, 12)):
                shifted = found(one, round(float(random.random()), 1))
                points = np.array(shifted["keypoints"]).reshape(-1, 3)
                points[:, :2] += random.normal(
                    0, random.choice([1, 5, 30]) * np.sqrt(one["area"]) / 200, (17, 2)
                )
                entries.append({**shifted, "keypoints": points.ravel().tolist()})
    if seed % 2:
        for entry in entries:
            entry["bbox"] = random.uniform(5, 200, 4).tolist()
    return annotations, entries


@pytest.mark.parametrize(("seed", "skeleton"), [(0, "coco17"), (1, "coco17"), (2, "ap10k"), (3, "ap10k")])
def test_agrees_with_pycocotools(seed, skeleton, annotated, tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, entries = random_data(seed)
    ours = measured(annotated(annotations, skeleton, images=6), entries)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "annotations.json")
        peer = COCOeval(truth, truth.loadRes(copy.deepcopy(entries)), "keypoints")
        peer.params.kpt_oks_sigmas = np.array(load_skeleton(skeleton).sigmas)
        peer.evaluate()
        peer.accumulate()
        peer.summarize()
    assert 0.05 < ours["AP"] < 0.95
    np.testing.assert_allclose(THRESHOLDS, peer.params.iouThrs)
    np.testing.assert_allclose([*ours.values()], peer.stats, atol=1e-9)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 99}, "image_id 99 is not in the annotations, which have 1 to 3.*--images"),
        ({"keypoints": [1, 2, 3]}, "expected the 17 keypoints of coco17, found 1"),
        ({"score": "high"}, "expected COCO keypoint results, found ValueError"),
    ],
)
def test_refuses_results_that_are_not_of_these_annotations(entry, message, annotated):
    one = annotation()
    with pytest.raises(EngineError, match=message):
        measured(annotated([one]), [{**found(one), **entry}])


def test_refuses_files_that_are_no_annotations(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(EngineError, match="expected COCO keypoint annotations"):
        read_annotations(path)
    named = {"id": 1, "name": "cat", "keypoints": ["L_Eye"]}
    path.write_text(json.dumps({"images": [], "categories": [named], "annotations": [annotation()]}))
    with pytest.raises(EngineError, match=r"1 keypoints \['L_Eye'\] … match no known skeleton.*--skeleton"):
        read_annotations(path)
    assert read_annotations(path, "ap10k").skeleton.name == "ap10k"
