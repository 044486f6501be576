"""Find poses in annotated images, by a model or a whole graph, and give them as COCO results."""

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
from operators.graph_files import models_in, with_sinks
from operators.pose import Pose
from operators.pose_onestage import PoseOnestage
from operators.reading.read import read
from pipeline.errors import ConfigError
from pipeline.graph import Graph
from pipeline.operator import RunInfo
from pipeline.packet import Instances
from pipeline.run import Run

Found = Iterator[tuple[int, Instances]]  # an image's id, and what was found in it
Shown = Callable[[Iterable[Any]], Iterable[Any]]  # how far it is through what it is given, as a progress bar

AT_ONCE = 16  # images that are on their way through a graph
BATCH = 4
# MMPose's rescoring, by which published results are measured (mmpose/evaluation/metrics/coco_metric.py).
COUNTED_SCORE = 0.2


def entries(found: Iterable[tuple[int, Instances]], annotations: Annotations) -> Iterator[dict[str, Any]]:
    """Entries of COCO keypoint results, with the category's name as `label`.

    An instance's score is that of its box times the mean of its keypoints' that are above 0.2.
    """
    for image_id, instances in found:
        if not len(instances) or "keypoints" not in instances:
            continue
        assert instances.skeleton is not None  # what has keypoints has one
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
    model: str, annotations: Annotations, paths: dict[int, Path], boxes: dict[int, Instances], shown: Shown
) -> Found:
    """What a model finds in known `boxes` (by image); a one-stage model in the whole of all images.

    Raises:
        EngineError: there is no such model, it has no poses, or not these keypoints.
    """
    contract, _ = find_model(model)
    if contract.task == "detect":
        raise ContractError(f"{contract.name} is a detector; name a pose model, or a graph")
    _check_skeleton(str(contract.skeleton), annotations)
    onestage = contract.task == "pose_onestage"
    pose = PoseOnestage(model) if onestage else Pose(model)
    files = FileSource(DecodeOptions())
    pose.open(RunInfo.new("evaluate"))
    try:
        images = list(paths if onestage else boxes)  # it may find what is not there
        for start in shown(range(0, len(images), BATCH)):
            packets = [next(files.read(str(it), str(paths[it]))) for it in images[start : start + BATCH]]
            asked = [packet.replace(instances=boxes.get(int(packet.stream))) for packet in packets]
            for packet in pose.process(asked):
                pose.reset(packet.stream)
                yield int(packet.stream), packet.instances or Instances()
    finally:
        pose.close()


def by_graph(graph: Graph, annotations: Annotations, paths: dict[int, Path], shown: Shown) -> Found:
    """What a graph finds in images, each of which is a stream of its own, so that nothing is tracked.

    Raises:
        EngineError: a model of the graph does not have these keypoints.
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
            with suppress(ConfigError):  # it is stopping because of a failure, which `finish` tells
                for image, path in shown(paths.items()):
                    while len(running.sources()) >= AT_ONCE:
                        time.sleep(0.002)
                    running.add_source(str(image), str(path))
        finally:
            running.stop()
            running.wait()  # also after Ctrl-C: it still writes into the folder
        running.finish()
        for image in paths:
            for packet in read(Path(folder) / f"{image}.jsonl").packets():
                yield image, packet.instances or Instances()


def image_paths(annotations: Annotations, folder: Path) -> dict[int, Path]:
    """The annotated images by id.

    Raises:
        EngineError: some are not in the folder.
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
    """The boxes of a COCO results file of a detector, by image; those of other categories are left out.

    Raises:
        EngineError: no such file, or something else is in it.
    """
    try:
        known = [it for it in read_json(path) if it["category_id"] in annotations.categories]
        return _by_image(
            np.array([it["image_id"] for it in known], np.int64),
            np.array([it["category_id"] for it in known], np.int64),
            np.array([it["bbox"] for it in known], np.float64).reshape(-1, 4),
            np.array([it["score"] for it in known], np.float32),
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
    labels = np.array([annotations.categories[it] for it in category_ids.tolist()], np.object_)
    found = {}
    for image in annotations.images:
        rows = image_ids == image
        if rows.any():
            found[image] = Instances(
                boxes=corners[rows],
                scores=scores[rows],
                labels=labels[rows],
                track_ids=np.arange(rows.sum()),  # for models that follow tracks: each box is one
            )
    return found


def _check_skeleton(name: str, annotations: Annotations) -> None:
    load_skeleton(name).indices_for(annotations.skeleton.name)
