"""Kalman filters for boxes: constant velocity with white-noise acceleration.

The noise of x, y, width and height is independent, so the 8x8 filter of DeepSORT and ByteTrack splits into
four filters of position and velocity. A state (T, 5, 4) float64 has five rows for each of T boxes: the
positions (centre x, centre y, width, height) in px, their speeds in px/s, their variances, the covariances of
position and speed, and the variances of the speeds.
"""

from __future__ import annotations

import numpy as np

AT, SPEED, VAR, COV, SPEED_VAR = range(5)
SIZE = slice(2, 4)  # width and height among the four positions

# Standard deviations, in units of the object's size (the mean of its width and height).
BOX_STD = 0.05  # of a detected box, as in DeepSORT
SPEED_STD = 2.0  # 1/s, of a new track, whose speed is not known yet
ACCELERATION = 1.0  # 1/s² · √s, white-noise acceleration


def begin(boxes: np.ndarray) -> np.ndarray:
    """The states (N, 5, 4) of new tracks, from boxes (N, 4) x0 y0 x1 y1 px."""
    state = np.zeros((len(boxes), 5, 4))
    state[:, AT] = _to_centres(boxes)
    size = _size(state[:, AT])
    state[:, VAR], state[:, SPEED_VAR] = (BOX_STD * size) ** 2, (SPEED_STD * size) ** 2
    return state


def predict(state: np.ndarray, dt_s: np.ndarray) -> np.ndarray:
    """The state (T, 5, 4) after `dt_s` (T,) seconds; `state` itself is not changed."""
    later, dt_s = state.copy(), dt_s[:, None]
    at, speed, var, cov, speed_var = (later[:, row] for row in range(5))
    noise = (ACCELERATION * _size(at)) ** 2 * dt_s  # (T, 1) px²/s²
    at += dt_s * speed
    np.maximum(at[:, SIZE], 1.0, out=at[:, SIZE])
    var += dt_s * (2 * cov + dt_s * speed_var) + noise * dt_s**2 / 3
    cov += dt_s * speed_var + noise * dt_s / 2
    speed_var += noise
    return later


def correct(state: np.ndarray, rows: np.ndarray, boxes: np.ndarray) -> None:
    """Kalman update, in place, of the tracks `rows` (n,) with their detected boxes (n, 4) x0 y0 x1 y1 px."""
    updated = state[rows]  # a copy
    measured = _to_centres(boxes)
    noise = (BOX_STD * _size(measured)) ** 2  # (n, 1)
    gains = updated[:, VAR : COV + 1] / (updated[:, VAR] + noise)[:, None]  # (n, 2, 4): position, speed
    updated[:, : SPEED + 1] += gains * (measured - updated[:, AT])[:, None]
    updated[:, SPEED_VAR] -= gains[:, 1] * updated[:, COV]
    updated[:, VAR : COV + 1] *= 1 - gains[:, :1]
    state[rows] = updated


def boxes_of(state: np.ndarray) -> np.ndarray:
    """The boxes (T, 4) float64 x0 y0 x1 y1 px of states."""
    centres, halves = state[:, AT, :2], state[:, AT, SIZE] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _to_centres(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float64 centre x, centre y, width, height of boxes (N, 4) x0 y0 x1 y1."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _size(at: np.ndarray) -> np.ndarray:
    return np.maximum((at[:, 2:3] + at[:, 3:4]) / 2, 1.0)  # (N, 1) px
