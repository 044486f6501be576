"""Find the instances in whole frames: one engine run for the frames of all cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.backends.base import Engine
from engines.codecs.base import DetectionRequest, DetectorCodec
from engines.codecs.detections import Detections
from engines.contracts.contract import Contract
from engines.device.arrays import stream_of, to_host
from engines.device.image import Image
from engines.estimators.crops import Crops
from engines.images.geometry import invert_affine, letterbox_matrix, transform_points


class Detector:
    """A detector or one-stage pose model: whole frames in, detections in px of the frames out."""

    def __init__(self, contract: Contract, engine: Engine):
        """Take an engine that runs the contract's model.

        Raises:
            ContractError: the contract is not that of a detector.
        """
        self.codec, self.sizes = _detector_codec(contract), contract.sizes()
        self.contract, self.engine = contract, engine

    def __call__(
        self,
        images: Sequence[Image],
        min_score: float | None = None,
        nms_iou: float | None = None,
    ) -> list[Detections]:
        """The detections of each image, best first, in px of that image.

        Args:
            images: (H, W, 3) uint8 RGB, or YUV, each of its own size; all on the host or all on a device.
            min_score: detections below are left out; None for the default of the model's family.
            nms_iou: of two boxes of one class that overlap by more, the better one stays; None likewise.
        """
        if not images:
            return []
        batch, matrices = letterboxed(images, self.contract)
        found = self.engine.run({self.contract.input.name: batch})
        outputs = {role: found[output.name] for role, output in self.contract.outputs.items()}
        min_score = self.codec.default_min_score if min_score is None else min_score
        nms_iou = self.codec.default_nms_iou if nms_iou is None else nms_iou
        request = DetectionRequest(self.sizes, min_score, nms_iou, stream_of(outputs))
        detections = self.codec.finish(to_host(self.codec.reduce(outputs, request)), nms_iou)
        sizes = [(image.shape[1], image.shape[0]) for image in images]
        return to_frames(detections, invert_affine(matrices), sizes, clip=not self.codec.gives_rois)

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()


def letterboxed(images: Sequence[Image], contract: Contract) -> tuple[Crops, np.ndarray]:
    """Whole images as a detector's input: a batch of B, and the maps (B, 2, 3) from their px to its px.

    Raises:
        ContractError: the contract is not that of a detector.
    """
    model_input = contract.input
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    by_size = {size: letterbox_matrix(size, model_input) for size in set(sizes)}
    matrices = np.stack([by_size[size] for size in sizes])  # (B, 2, 3)
    sampling = _centred(matrices) if _detector_codec(contract).aligns_pixel_centres else matrices
    return Crops(images, np.arange(len(images)), sampling, model_input), matrices


def _detector_codec(contract: Contract) -> DetectorCodec:
    return contract.codec_as(DetectorCodec, "detect")  # type: ignore[type-abstract]  # of any family


def _centred(matrices: np.ndarray) -> np.ndarray:
    """Maps of coordinates (B, 2, 3), turned into maps of pixel indices: pixel i is centred at i + 0.5."""
    shifted = matrices.copy()
    shifted[:, :, 2] += matrices[:, :, :2].sum(axis=2) / 2 - 0.5
    return shifted


def to_frames(
    found: Sequence[Detections], back: np.ndarray, sizes: Sequence[tuple[int, int]], *, clip: bool
) -> list[Detections]:
    """Map the detections of B frames from px of the model's input to px of the frames.

    Args:
        found: in px of the model's input.
        back: (B, 2, 3), the inverses of the letterboxes: a scale and a shift.
        sizes: (width, height) of the frames.
        clip: clip boxes to the frame; regions of interest and keypoints may always lie outside.
    """
    counts = [len(detections.scores) for detections in found]
    # All frames at once: one by one, this takes much of the host's time where a GPU detects.
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
