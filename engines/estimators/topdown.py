"""Top-down pose: crops of all instances of many images, run as one batch, decoded, mapped to the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engines.backends.base import Engine, Items
from engines.backends.batches import BUCKETS
from engines.codecs.base import TopDownCodec
from engines.contracts.contract import Contract
from engines.contracts.skeletons import load_skeleton
from engines.device.arrays import Outputs, copied, flipped, mean, to_host
from engines.device.image import Image
from engines.estimators.crops import Crops
from engines.images.geometry import crop_to_frame, invert_affine, transform_points

# Crops in one engine run, from however many frames: on the host, a larger batch only takes more memory.
RUN_MAX = 32


class Keypoints(NamedTuple):
    """The keypoints of N instances, a row each, in the order of their boxes."""

    points: np.ndarray  # (N, K, 2) float32, px of the frame; NaN where the model gave none
    scores: np.ndarray  # (N, K) float32, as the model gives them, unclipped


class TopDown:
    """A top-down model with its pre- and post-processing; the same numbers as MMPose's."""

    def __init__(self, contract: Contract, engine: Engine, *, flip_test: bool = False):
        """Take an engine that runs the contract's model.

        Args:
            contract: of the model.
            engine: an engine that runs it.
            flip_test: run the mirrored crops too, and decode the mean of both outputs.

        Raises:
            ContractError: the contract is not that of a top-down model.
        """
        self.codec = _top_down_codec(contract)
        assert contract.skeleton is not None  # every pose model has one
        self.contract, self.engine, self.flip_test = contract, engine, flip_test
        self.skeleton = load_skeleton(contract.skeleton)
        self.far_corner = _far_corner(contract)

    def __call__(self, images: Sequence[Image], image_index: np.ndarray, boxes: np.ndarray) -> Keypoints:
        """Estimate the pose in each box.

        Args:
            images: RGB, uint8 (H, W, 3), or YUV, of any sizes; all on the host or all on a device.
            image_index: (N,), the image that each box belongs to.
            boxes: (N, 4) x0, y0, x1, y1 px; parts outside of the image are padded. N may be 0.
        """
        return self.in_regions(images, image_index, self.regions(boxes))

    def regions(self, boxes: np.ndarray) -> np.ndarray:
        """The regions (N, 5) float64 for boxes (N, 4): centre x, y, width, height in px, and angle 0.

        As in MMPose's GetBBoxCenterScale and TopdownAffine: the box is padded, then its short side is
        stretched to the input's aspect.
        """
        return _regions(boxes, self.contract)

    def in_regions(self, images: Sequence[Image], image_index: np.ndarray, regions: np.ndarray) -> Keypoints:
        """Estimate the pose in each region.

        Args:
            images: as for a call.
            image_index: likewise.
            regions: (N, 5) px and rad: centre x, y, width, height, angle. A width below 0 mirrors the crop;
                the keypoints are still returned in px of the image, with its left and right.
        """
        count = len(self.skeleton.keypoints)
        points = np.empty((len(regions), count, 2), np.float32)
        scores = np.empty((len(regions), count), np.float32)
        to_frame = crop_to_frame(regions, self.far_corner)
        crops = Crops(images, image_index, invert_affine(to_frame), self.contract.input)
        at_once = RUN_MAX if crops.device is None else BUCKETS[-1]
        for start in range(0, len(crops), at_once):
            part = slice(start, start + at_once)
            reduced = to_host(self.codec.reduce(self._run(crops[part])))
            found, scores[part] = self.codec.finish(reduced, self.contract.input.size)
            points[part] = transform_points(found, to_frame[part])
        mirrored = np.flatnonzero(regions[:, 2] < 0)
        points[mirrored] = points[mirrored][:, self.skeleton.mirror]
        scores[mirrored] = scores[mirrored][:, self.skeleton.mirror]
        return Keypoints(points, scores)

    def _run(self, batch: Crops) -> Outputs:
        """The model's outputs by role; with the flip test, the mean of those for plain and mirrored crops."""
        if not self.flip_test:
            return self._outputs(batch)
        columns = 3 if self.contract.input.layout == "nchw" else 2
        pixels = batch.made()
        outputs = copied(self._outputs(pixels))  # the next run may overwrite the engine's own
        mirrored = self._outputs(flipped(pixels, columns))
        return mean(outputs, self.codec.mirror_back(mirrored, self.skeleton.mirror))

    def _outputs(self, batch: Items) -> Outputs:
        found = self.engine.run({self.contract.input.name: batch})
        return {role: found[output.name] for role, output in self.contract.outputs.items()}

    @property
    def halved(self) -> int:
        """How often the engine has halved its batches because a device's memory was too small."""
        return self.engine.halved

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()


def crop_boxes(
    images: Sequence[Image], image_index: np.ndarray, boxes: np.ndarray, contract: Contract
) -> np.ndarray:
    """The model's input for boxes (N, 4), as `TopDown` makes it: a batch of N.

    Raises:
        ContractError: the contract is not that of a top-down model.
    """
    to_frame = crop_to_frame(_regions(boxes, contract), _far_corner(contract))
    return np.asarray(Crops(images, image_index, invert_affine(to_frame), contract.input))


def _regions(boxes: np.ndarray, contract: Contract) -> np.ndarray:
    boxes = boxes.astype(np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    aspect = contract.input.size[0] / contract.input.size[1]
    width, height = (np.maximum(high - low, 1.0) * contract.input.box_padding).T
    width = np.maximum(width, height * aspect)
    centre_x, centre_y = (low + high).T / 2
    return np.stack([centre_x, centre_y, width, width / aspect, np.zeros_like(width)], axis=1)


def _far_corner(contract: Contract) -> tuple[int, int]:
    """Where the far corner of a region falls in the crop, px."""
    width, height = contract.input.size
    return (width - 1, height - 1) if _top_down_codec(contract).aligns_corner_pixels else (width, height)


def _top_down_codec(contract: Contract) -> TopDownCodec:
    return contract.codec_as(TopDownCodec, "read poses in boxes")  # type: ignore[type-abstract]  # of any family
