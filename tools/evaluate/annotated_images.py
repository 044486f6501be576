"""Find poses in annotated images with a model or a graph, and turn them into COCO results."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from engines.assets.model_files import find_model
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError, EngineError
from engines.evaluation.coco_files import Annotations, read_json
from operators.decoding.file_source import FileSource
from operators.decoding.options import DecodeOptions
from operators.graphs.graph_files import models_in, with_sinks
from operators.pose import Pose
from operators.pose_onestage import PoseOnestage
from operators.reading.read import read
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.operator import RunInfo
from pipeline.packet import Instances
from pipeline.run import Run

Found = Iterator[tuple[int, Instances]]  # an image's id, and the instances in it
Show = Callable[[Iterable[Any]], Iterable[Any]]  # passes items on and shows the progress

AT_ONCE = 16  # images that are in a graph at the same time
BATCH = 4
# Published results use MMPose's rescoring (mmpose/evaluation/metrics/coco_metric.py): only keypoint scores
# above this count.
COUNTED_SCORE = 0.2


def entries(found: Iterable[tuple[int, Instances]], annotations: Annotations) -> Iterator[dict[str, Any]]:
    """Entries of COCO keypoint results, with the category's name as `label`.

    The score of an instance is the score of its box times the mean of its keypoint scores above 0.2.
    """
    for image_id, instances in found:
        if not len(instances) or "keypoints" not in instances:
            continue
        assert instances.skeleton is not None  # instances with keypoints have one
        index = load_skeleton(instances.skeleton).indices_for(annotations.skeleton.name)
        points = instances.keypoints[:, index]
        known = instances.get("keypoint_scores")
        scores = np.ones(points.shape[:2]) if known is None else known[:, index]
        triples = np.concatenate([points, scores[..., None]], axis=2, dtype=np.float64)
        triples[~np.isfinite(triples).all(axis=2)] = 0
        for row, label, box_score in zip(triples, instances.labels, instances.scores, strict=True):
            counted = row[row[:, 2] > COUNTED_SCORE, 2]
            score = float(box_score * counted.mean()) if counted.size else 0.0
            yield {"image_id": image_id, "label": label, "keypoints": row.ravel().tolist(), "score": score}


def by_model(
    model: str, annotations: Annotations, paths: dict[int, Path], boxes: dict[int, Instances], show: Show
) -> Found:
    """Poses by a model: in the given `boxes` of each image, or, by a one-stage model, in the whole images.

    Raises:
        EngineError: there is no such model, it finds no poses, or poses without the annotated keypoints.
    """
    contract, _ = find_model(model)
    if contract.task == "detect":
        raise ContractError(f"{contract.name} is a detector; give a pose model, or a graph")
    _check_skeleton(str(contract.skeleton), annotations)
    onestage = contract.task == "pose_onestage"
    pose = PoseOnestage(model) if onestage else Pose(model)
    files = FileSource(DecodeOptions())
    pose.open(RunInfo.new("evaluate"))
    try:
        images = list(paths if onestage else boxes)  # without boxes a model may find people in any image
        for start in show(range(0, len(images), BATCH)):
            batch = images[start : start + BATCH]
            packets = [next(files.read(str(image), str(paths[image]))) for image in batch]
            with_boxes = [packet.replace(instances=boxes.get(int(packet.stream))) for packet in packets]
            for packet in pose.process(with_boxes):
                pose.reset(packet.stream)
                yield int(packet.stream), packet.instances or Instances()
    finally:
        pose.close()


def by_graph(graph: Graph, annotations: Annotations, paths: dict[int, Path], show: Show) -> Found:
    """Poses by a graph; each image is a stream of its own, so that nothing is tracked from image to image.

    Raises:
        EngineError: a model of the graph does not have the annotated keypoints.
        PosestreamError: an image cannot be read, or a stage failed.
    """
    for model in models_in(graph):
        contract, _ = find_model(model)
        if contract.skeleton is not None:
            _check_skeleton(contract.skeleton, annotations)
    with tempfile.TemporaryDirectory() as folder:
        running = Run(with_sinks(graph, {"jsonl_sink": {"dir": folder}}), keep_open=True)
        running.start()
        try:
            with suppress(ConfigError):  # the run failed and takes no more sources; `finish` raises why
                for image, path in show(paths.items()):
                    while len(running.sources()) >= AT_ONCE:
                        time.sleep(0.002)
                    running.add_source(str(image), str(path))
        finally:
            running.stop()
            running.wait()  # also after Ctrl-C, because it still writes into the folder
        running.finish()
        for image in paths:
            for packet in read(Path(folder) / f"{image}.jsonl").packets():
                yield image, packet.instances or Instances()


def image_paths(annotations: Annotations, folder: Path) -> dict[int, Path]:
    """The annotated images by id.

    Raises:
        EngineError: some images are not in the folder.
    """
    paths = {image: folder / name for image, name in annotations.images.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise EngineError(f"{folder} lacks {len(missing)} of {len(paths)} annotated images: {missing[0]} …")
    return paths


def annotated_boxes(annotations: Annotations) -> dict[int, Instances]:
    """The boxes of all annotated instances that have keypoints, by image."""
    rows = ~annotations.ignored
    return _by_image(
        annotations.image_ids[rows],
        annotations.category_ids[rows],
        annotations.boxes[rows],
        np.ones(rows.sum(), np.float32),
        annotations,
    )


def detected_boxes(path: Path, annotations: Annotations) -> dict[int, Instances]:
    """The boxes in a COCO results file of a detector, by image; other categories are left out.

    Raises:
        EngineError: there is no such file, or it holds something else.
    """
    try:
        known = [entry for entry in read_json(path) if entry["category_id"] in annotations.categories]
        return _by_image(
            np.array([entry["image_id"] for entry in known], np.int64),
            np.array([entry["category_id"] for entry in known], np.int64),
            np.array([entry["bbox"] for entry in known], np.float64).reshape(-1, 4),
            np.array([entry["score"] for entry in known], np.float32),
            annotations,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{path}: expected COCO detections (image_id, category_id, bbox, score), found "
            f"{type(error).__name__}: {error}"
        ) from None


def _by_image(
    image_ids: np.ndarray,
    category_ids: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    annotations: Annotations,
) -> dict[int, Instances]:
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1, dtype=np.float32)
    labels = np.array([annotations.categories[category] for category in category_ids.tolist()], np.object_)
    found = {}
    for image in annotations.images:
        rows = image_ids == image
        if rows.any():
            found[image] = Instances(
                boxes=corners[rows],
                scores=scores[rows],
                labels=labels[rows],
                track_ids=np.arange(rows.sum()),  # for models that keep state by track: each box is a track
            )
    return found


def _check_skeleton(name: str, annotations: Annotations) -> None:
    load_skeleton(name).indices_for(annotations.skeleton.name)
