"""Inputs on which models are compared: pictures, and noise, which reaches values that pictures do not."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from engines.assets.clips import available_clips, load_clip
from engines.assets.store import cached_path, is_cached
from engines.contracts.contract import Contract
from engines.estimators.crops import Crops
from engines.images.geometry import crop_to_frame, invert_affine, letterbox_matrix


class Examples(NamedTuple):
    """Inputs of a model, and where they come from."""

    batch: np.ndarray  # (B, …) float32, pre-processed as the contract says
    origin: str


def examples(contract: Contract, *, few: bool = False) -> Examples:
    """Three inputs from the first frame of a sample clip, if one was fetched, else from a drawn picture.

    With `few`, two inputs, for models that take a minute for each.
    """
    picture, origin = _picture()
    batch = inputs_of(contract, picture)
    return Examples(batch[1:] if few else batch, f"{origin} and noise")


def inputs_of(contract: Contract, picture: np.ndarray) -> np.ndarray:
    """Three inputs: a picture (H, W, 3), its middle (for models that expect a close-up), and noise."""
    height, width = picture.shape[:2]
    model_input = contract.input
    aspect = model_input.size[0] / model_input.size[1]
    middle = np.array([[width / 2, height / 2, height * 0.8 * aspect, height * 0.8, 0.0]])
    matrices = np.concatenate(
        [
            letterbox_matrix((width, height), model_input)[None],
            invert_affine(crop_to_frame(middle, model_input.size)),
        ]
    )
    noise = np.random.default_rng(0).integers(0, 256, (*model_input.size[::-1], 3), np.uint8)
    identity = np.eye(2, 3)[None]
    return np.asarray(
        Crops([picture, noise], np.array([0, 0, 1]), np.concatenate([matrices, identity]), model_input)
    )


def _picture() -> tuple[np.ndarray, str]:
    """A picture (H, W, 3) uint8 RGB, and what it shows."""
    for name in available_clips():
        clip = load_clip(name)
        if is_cached(clip.asset):
            read, frame = cv2.VideoCapture(str(cached_path(clip.asset))).read()
            if read:
                return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), f"the first frame of the clip {name}"
    return drawn_picture(), "a drawn picture (no sample clip was fetched)"


def drawn_picture() -> np.ndarray:
    """A drawn figure on a background with gradients, edges and noise: (480, 640, 3) uint8 RGB."""
    y, x = np.mgrid[:480, :640]
    picture = np.stack([x * 0.25, y * 0.4, 128 + 64 * np.sin(x / 23) * np.cos(y / 31)], axis=-1)
    picture += np.random.default_rng(1).normal(0, 6, picture.shape)
    canvas = np.ascontiguousarray(picture.clip(0, 255), dtype=np.uint8)
    limbs = [(320, 150, 320, 270), (320, 170, 260, 240), (320, 170, 385, 235)]
    limbs += [(320, 270, 280, 400), (320, 270, 365, 395)]
    for x0, y0, x1, y1 in limbs:
        cv2.line(canvas, (x0, y0), (x1, y1), (40, 60, 160), 26, cv2.LINE_AA)
    cv2.circle(canvas, (320, 115), 32, (205, 160, 130), -1, cv2.LINE_AA)
    return canvas
