"""`posestream evaluate` from images to figures, with a toy model that detects red squares."""

import json

import cv2
import pytest
from typer.testing import CliRunner

from engines.contracts.skeletons import load_skeleton
from tests.support.models import toy_models, toy_onestage
from tools.cli import app

SPOTS = {"10.png": (36, 20, 255), "9.png": (68, 36, 200)}  # in natural order 9 comes first
IDS = {"10.png": 500, "9.png": 700}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Two images with a red square each, annotated as the toy model finds them; the toy models are installed."""
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path))
    toy_onestage.install(tmp_path, "toy-yolo")
    toy_models.install(tmp_path, "toy-simcc", "simcc")
    images, annotations = tmp_path / "images", []
    images.mkdir()
    for name, (x, y, brightness) in SPOTS.items():
        cv2.imwrite(str(images / name), toy_onestage.picture((x, y, brightness))[..., ::-1])
        centre_x, centre_y = x // 16 * 16 + 8, y // 16 * 16 + 8
        keypoints = [value for k in range(17) for value in (centre_x + k, centre_y, 2)]
        annotations.append({
            "id": len(annotations) + 1, "image_id": IDS[name], "category_id": 1, "iscrowd": 0,
            "bbox": [centre_x - 16, centre_y - 16, 32, 32], "area": 32 * 40, "num_keypoints": 17,
            "keypoints": keypoints,
        })  # fmt: skip
    categories = [{"id": 1, "name": "person", "keypoints": list(load_skeleton("coco17").keypoints)}]
    described = {
        "images": [{"id": IDS[name], "file_name": name} for name in SPOTS],
        "categories": categories,
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(described))
    (tmp_path / "graph.yaml").write_text(
        "name: toy\ngraph:\n  decode: {op: decode}\n"
        "  pose: {op: pose_onestage, model: toy-yolo, min_score: 0.5, after: decode}\n"
    )
    return tmp_path


def evaluated(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


@pytest.mark.parametrize(("option", "name"), [("--model", "toy-yolo"), ("--graph", "graph.yaml")])
def test_a_model_and_a_graph_are_measured_on_images(option, name, data):
    value = data / name if option == "--graph" else name
    figures = evaluated("coco", data / "truth.json", data / "images", option, value)
    assert (figures["found"], figures["annotated"], figures["images"]) == (2, 2, 2)
    assert (figures["AP"], figures["AR"], figures["APL"]) == (pytest.approx(1), pytest.approx(1), None)


def test_a_top_down_model_gets_annotated_or_detected_boxes(data):
    figures = evaluated("coco", data / "truth.json", data / "images", "--model", "toy-simcc")
    assert figures["found"] == 2
    boxes = [
        {"image_id": 700, "category_id": 1, "bbox": [50, 20, 32, 32], "score": 0.5},
        {"image_id": 700, "category_id": 99, "bbox": [50, 20, 32, 32], "score": 0.5},
    ]
    (data / "boxes.json").write_text(json.dumps(boxes))
    given = ["--model", "toy-simcc", "--detections", data / "boxes.json"]
    assert evaluated("coco", data / "truth.json", data / "images", *given)["found"] == 1


def test_results_of_the_coco_sink_on_a_folder_are_matched_to_its_images(data):
    out = data / "out"
    run = ["run", data / "images", "--graph", data / "graph.yaml", "--coco", "--out", out, "--quiet"]
    assert CliRunner().invoke(app, [*map(str, run)], catch_exceptions=False).exit_code == 0
    results = out / "images.coco.json"
    assert [entry["image_id"] for entry in json.loads(results.read_text())] == [0, 1]
    figures = evaluated("results", results, data / "truth.json", "--images", data / "images")
    assert figures["AP"] == pytest.approx(1)


def test_other_categories_are_left_out_and_reported(data):
    truth = json.loads((data / "truth.json").read_text())
    truth["categories"][0]["name"] = "horse"
    (data / "truth.json").write_text(json.dumps(truth))
    given = ["coco", data / "truth.json", data / "images", "--model", "toy-yolo"]
    figures = evaluated(*given)
    assert (figures["AP"], figures["of other categories"]) == (0, {"person": 2})
    assert evaluated(*given, "--any-category")["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "yolox-nano"], "yolox-nano is a detector"),
        (["--model", "toy-yolo", "--skeleton", "ap10k"], "does not map onto 'ap10k'"),
    ],
)
def test_models_that_do_not_fit_are_refused(arguments, message, data):
    given = ["evaluate", "coco", str(data / "truth.json"), str(data / "images"), *arguments]
    error = CliRunner().invoke(app, given).exception
    assert message in str(error)


def test_missing_images_are_named(data):
    (data / "images" / "9.png").unlink()
    given = ["evaluate", "coco", str(data / "truth.json"), str(data / "images"), "--model", "toy-yolo"]
    assert "lacks 1 of 2 annotated images: 9.png" in str(CliRunner().invoke(app, given).exception)
