"""Find the instances in whole frames: one engine run for the frames of all cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engines.backends.base import Engine
from engines.codecs import blazepose_detector, rtmdet, yolo, yolo_pose, yolox
from engines.codecs.detections import Detections, finish
from engines.contracts.contract import Contract
from engines.device.arrays import Array, Outputs, stream_of, to_host
from engines.device.image import Image
from engines.errors import ContractError
from engines.estimators.crops import Crops
from engines.images.geometry import invert_affine, letterbox_matrix, transform_points

if TYPE_CHECKING:
    from engines.device.streams import Stream

Reduce = Callable[[Outputs, Contract, float, float, "Stream | None"], dict[str, Array]]


class DetectorKind(NamedTuple):
    """How a family of detectors is read, and the thresholds that serve it unless told otherwise."""

    reduce: Reduce
    min_score: float
    nms_iou: float
    rois: bool = False  # whether it also gives rotated regions, for the pose model of the same family
    # Whether resizing aligned the centres of pixels in training (cv2.resize), or their indices (MediaPipe).
    # From 1920 px to 416 px, mistaking the two shifts the image by 1.8 px of the frame.
    centred: bool = True


KINDS: dict[str, DetectorKind] = {
    # MediaPipe's own thresholds (pose_detection_cpu.pbtxt).
    "blazepose-detector": DetectorKind(
        blazepose_detector.reduce, min_score=0.5, nms_iou=0.3, rois=True, centred=False
    ),
    # Those of the YOLOX demo. Boxes as weak as 0.3 help a tracker to keep its tracks going.
    "yolox": DetectorKind(yolox.reduce, min_score=0.3, nms_iou=0.45),
    # That of MMDetection's rtmdet_l_8xb32-300e_coco.py. Graphs by MMDeploy have suppressed at 0.6 already.
    "rtmdet": DetectorKind(rtmdet.reduce, min_score=0.3, nms_iou=0.65),
    # Those of ultralytics' predict (cfg/default.yaml).
    "yolo": DetectorKind(yolo.reduce, min_score=0.25, nms_iou=0.7),
    "yolo-pose": DetectorKind(yolo_pose.reduce, min_score=0.25, nms_iou=0.7),
}


class Detector:
    """A detector or one-stage pose model that is fed whole frames and answers in px of the frames."""

    def __init__(self, contract: Contract, engine: Engine):
        """Take an engine that runs the contract's model.

        Raises:
            ContractError: the contract is not that of a detector.
        """
        if contract.codec.kind not in KINDS:
            raise ContractError(
                f"{contract.name}: codec {contract.codec.kind!r} does not detect; "
                f"choose a model whose codec is one of {sorted(KINDS)}"
            )
        self.contract, self.engine, self.kind = contract, engine, KINDS[contract.codec.kind]

    def __call__(
        self,
        images: Sequence[Image],
        min_score: float | None = None,
        nms_iou: float | None = None,
    ) -> list[Detections]:
        """The detections of each image, best first, in px of that image.

        Args:
            images: (H, W, 3) uint8 RGB, or YUV, each of its own size; all on the host or all on a device.
            min_score: None for that of `KINDS`.
            nms_iou: likewise.
        """
        if not images:
            return []
        batch, matrices = letterboxed(images, self.contract)
        found = self.engine.run({self.contract.input.name: batch})
        outputs = {role: found[output.name] for role, output in self.contract.outputs.items()}
        min_score = self.kind.min_score if min_score is None else min_score
        nms_iou = self.kind.nms_iou if nms_iou is None else nms_iou
        reduced = self.kind.reduce(outputs, self.contract, min_score, nms_iou, stream_of(outputs))
        detections = finish(to_host(reduced), nms_iou)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        return to_frames(detections, invert_affine(matrices), sizes, clip=not self.kind.rois)

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()


def letterboxed(images: Sequence[Image], contract: Contract) -> tuple[Crops, np.ndarray]:
    """Whole images as a detector's input, a batch of B; and the maps (B, 2, 3) from their px to its."""
    model_input = contract.input
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    of_size = {size: letterbox_matrix(size, model_input) for size in set(sizes)}
    matrices = np.stack([of_size[size] for size in sizes])  # (B, 2, 3)
    sampling = _centred(matrices) if KINDS[contract.codec.kind].centred else matrices
    return Crops(images, np.arange(len(images)), sampling, model_input), matrices


def _centred(matrices: np.ndarray) -> np.ndarray:
    """Maps of coordinates (B, 2, 3) as maps of pixel indices, where pixel i has its centre at i + 0.5."""
    shifted = matrices.copy()
    shifted[:, :, 2] += matrices[:, :, :2].sum(axis=2) / 2 - 0.5
    return shifted


def to_frames(
    found: Sequence[Detections], back: np.ndarray, sizes: Sequence[tuple[int, int]], *, clip: bool
) -> list[Detections]:
    """Detections of B frames from px of the model's input to px of the frames.

    Args:
        found: in px of the model's input.
        back: (B, 2, 3), the inverses of the letterboxes: a scale and a shift.
        sizes: of the frames, (width, height).
        clip: cut boxes off at the frame's edge; regions of interest and keypoints may always lie outside.
    """
    counts = [len(one.scores) for one in found]
    # All rows of all frames at once: frame by frame this is much of what the host does where a GPU detects.
    every = Detections._make(
        None if rows[0] is None else np.concatenate(rows) for rows in zip(*found, strict=True)
    )
    maps = back.repeat(counts, axis=0)  # (N, 2, 3)
    boxes = transform_points(every.boxes.reshape(-1, 2, 2), maps).reshape(-1, 4)
    if clip:
        boxes = np.clip(boxes, 0, np.tile(sizes, 2).repeat(counts, axis=0))
    rois, keypoints = every.rois, every.keypoints
    if rois is not None:
        rois[:, :2] = transform_points(rois[:, :2], maps)
        rois[:, 2:4] *= maps[:, :1, 0]
    if keypoints is not None:
        keypoints = transform_points(keypoints, maps).astype(np.float32)
    every = every._replace(boxes=boxes.astype(np.float32), rois=rois, keypoints=keypoints)
    stops = np.cumsum(counts).tolist()
    parts = [slice(stop - count, stop) for stop, count in zip(stops, counts, strict=True)]
    return [Detections._make(None if rows is None else rows[part] for rows in every) for part in parts]
