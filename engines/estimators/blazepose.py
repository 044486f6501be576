"""BlazePose: poses in rotated regions of many images, with one run of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engines.backends.base import Engine
from engines.codecs.blazepose_landmarks import BlazePoseLandmarksCodec
from engines.contracts.contract import Contract
from engines.device.image import Image
from engines.estimators.crops import Crops
from engines.images.geometry import crop_to_frame, invert_affine, transform_points


class Poses(NamedTuple):
    """The poses of N instances, a row each, in the order of their regions."""

    keypoints: np.ndarray  # (N, K, 2) float32, px of the frame
    keypoint_scores: np.ndarray  # (N, K) float32, 0..1
    keypoints_3d: np.ndarray  # (N, K, 3) float32, m around the hip centre, axes of the frame
    presence: np.ndarray  # (N,) float32, 0..1: the probability that there is a person in the region
    alignment: np.ndarray  # (N, 2, 2) float32, px of the frame: hip centre, point on the body circle


class BlazePoseEstimator:
    """BlazePose's landmark model with its pre- and post-processing."""

    def __init__(self, contract: Contract, engine: Engine):
        """Take an engine that runs the contract's model.

        Raises:
            ContractError: the contract is not that of BlazePose's landmark model.
        """
        self.codec = contract.codec_as(BlazePoseLandmarksCodec, "read poses in turned regions")
        self.contract, self.engine = contract, engine
        self.roles = {output.name: role for role, output in contract.outputs.items()}

    def __call__(self, images: Sequence[Image], image_index: np.ndarray, rois: np.ndarray) -> Poses:
        """Estimate the pose in each region.

        Args:
            images: RGB, uint8 (H, W, 3), or YUV, of any sizes; on the host or a device.
            image_index: (N,), the image that each region belongs to.
            rois: (N, 5) px and rad: centre x, y, width, height, angle. N may be 0.
        """
        model_input = self.contract.input
        to_frame = crop_to_frame(rois, model_input.size)
        batch = Crops(images, image_index, invert_affine(to_frame), model_input)
        outputs = self.engine.run({model_input.name: batch})
        landmarks = self.codec.decode(
            {role: outputs[name] for name, role in self.roles.items()}, model_input.size
        )
        return Poses(
            keypoints=transform_points(landmarks.points, to_frame).astype(np.float32),
            keypoint_scores=landmarks.visibility,
            keypoints_3d=_rotate_upright(landmarks.world, rois[:, 4]),
            presence=landmarks.presence,
            alignment=transform_points(landmarks.alignment, to_frame).astype(np.float32),
        )

    @property
    def halved(self) -> int:
        """How often the engine has halved its batches because a device's memory was too small."""
        return self.engine.halved

    def close(self) -> None:
        """Free the model's memory."""
        self.engine.close()


def _rotate_upright(world: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Turn points (N, K, 3) about the viewing axis, from the axes of their regions to those of the frame."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y, z = world[..., 0], world[..., 1], world[..., 2]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1).astype(np.float32)
