"""Draw instances into a picture: limbs coloured by side, keypoints, boxes and track ids."""

from __future__ import annotations

import colorsys
import functools

import cv2
import numpy as np

from engines.contracts.skeletons import Side, Skeleton
from pipeline.packet import Instances

Colour = tuple[int, int, int]  # RGB

# Blue and orange look different with any kind of colour vision.
SIDES: dict[Side, Colour] = {"left": (0, 174, 255), "right": (255, 128, 0), "centre": (245, 245, 245)}
UNTRACKED: Colour = (200, 200, 200)
SHADOW: Colour = (20, 20, 20)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SUBPIXEL_BITS = 3  # cv2 takes coordinates in eighths of a pixel


def draw(
    image: np.ndarray, instances: Instances | None, skeleton: Skeleton | None, min_score: float = 0.5
) -> np.ndarray:
    """A copy of `image` with its instances drawn; lines and letters grow with the size of the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: of this image; keypoints that are NaN or score less than `min_score` are not drawn.
        skeleton: of the keypoints, or None to draw points only.
        min_score: of a keypoint; without keypoint scores all are drawn.
    """
    canvas = image.copy()
    if not instances:
        return canvas
    thickness = line_width(image)
    if "keypoints" in instances and instances.keypoints.size:
        visible = np.isfinite(instances.keypoints).all(axis=2)  # (N, K)
        if "keypoint_scores" in instances:
            visible &= instances.keypoint_scores >= min_score
        for points, shown in zip(instances.keypoints, visible, strict=True):
            draw_pose(canvas, points, shown, skeleton, thickness)
    if "boxes" in instances:
        ids = instances.get("track_ids")
        labels = instances.get("labels")
        for row, box in enumerate(instances.boxes):
            track_id = None if ids is None or ids[row] < 0 else int(ids[row])
            label = "" if labels is None or labels[row] is None else str(labels[row])
            if np.isfinite(box).all():
                draw_box(canvas, box, label, track_id, thickness)
    return canvas


def line_width(image: np.ndarray) -> int:
    """The width of lines in this picture in px: 3 at 1080 lines."""
    return max(1, round(min(image.shape[:2]) / 360))


def draw_pose(
    canvas: np.ndarray, points: np.ndarray, shown: np.ndarray, skeleton: Skeleton | None, thickness: int
) -> None:
    """Draw into `canvas` the limbs between shown points (K, 2), then the points; `shown` is (K,) bool."""
    limits = 4 * np.array([canvas.shape[1], canvas.shape[0]])  # cv2's coordinates are 32 bit
    fixed = np.rint(np.clip(np.nan_to_num(points), -limits, limits) * 2**SUBPIXEL_BITS).astype(np.int32)
    sides: dict[Side, np.ndarray] = {"centre": np.ones(len(points), np.bool_)}
    if skeleton is not None and len(skeleton.keypoints) == len(points):
        sides, limbs = _by_side(skeleton)
        for side, pairs in limbs.items():
            lines = fixed[pairs[shown[pairs].all(axis=1)]]  # (L, 2, 2)
            cv2.polylines(canvas, lines, False, SIDES[side], thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    radius = (thickness if len(points) <= 40 else max(1, thickness // 2)) * 2**SUBPIXEL_BITS
    for side, mask in sides.items():
        for x, y in fixed[mask & shown].tolist():
            cv2.circle(
                canvas, (x, y), radius + 2**SUBPIXEL_BITS, SHADOW, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS
            )
            cv2.circle(canvas, (x, y), radius, SIDES[side], cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)


def draw_box(canvas: np.ndarray, box: np.ndarray, label: str, track_id: int | None, thickness: int) -> None:
    """Draw a box (4,) and, on a background of its colour, label and track id."""
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = (
        np.rint(np.clip(box, -4 * max(width, height), 4 * max(width, height))).astype(int).tolist()
    )
    colour = track_colour(track_id)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, thickness)
    text = " ".join(part for part in (label, "" if track_id is None else str(track_id)) if part)
    if not text:
        return
    scale, stroke = max(0.5, 0.35 * thickness), max(1, round(0.7 * thickness))
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, stroke)
    pad = 2 + thickness
    tall, wide = text_height + below + pad, text_width + 2 * pad
    left = min(max(x0, 0), max(width - wide, 0))
    top = min(max(y0 - tall, 0), max(height - tall, 0))  # above the box, inside the picture
    cv2.rectangle(canvas, (left, top), (left + wide, top + tall), colour, cv2.FILLED)
    ink = SHADOW if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 110 else SIDES["centre"]
    cv2.putText(
        canvas, text, (left + pad, top + pad // 2 + text_height), FONT, scale, ink, stroke, cv2.LINE_AA
    )


@functools.lru_cache(maxsize=4096)
def track_colour(track_id: int | None) -> Colour:
    """The colour of a track, the same in every frame and run; ids that follow each other differ clearly."""
    if track_id is None:
        return UNTRACKED
    hue = track_id * 0.61803398875 % 1.0  # multiples of the golden ratio spread evenly over the circle
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _by_side(skeleton: Skeleton) -> tuple[dict[Side, np.ndarray], dict[Side, np.ndarray]]:
    """By side: masks (K,) of the keypoints, and limbs (L, 2); a limb from left to right counts as centre."""
    sides, limbs = np.array(skeleton.sides), skeleton.limb_indices
    ends = sides[limbs]  # (L, 2)
    left, right = (ends == "left").any(axis=1), (ends == "right").any(axis=1)
    points: dict[Side, np.ndarray] = {side: sides == side for side in SIDES}
    return points, {
        "left": limbs[left & ~right],
        "right": limbs[right & ~left],
        "centre": limbs[left == right],
    }
