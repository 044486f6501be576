"""How boxes move: for each a Kalman filter of constant velocity, driven by white-noise acceleration.

The noise of x, y, width and height is independent, so the 8x8 filter of DeepSORT and ByteTrack falls apart
into four of position and velocity. A state (T, 5, 4) float64 holds for T boxes centre x, centre y, width and
height in px; their speeds in px/s; and the variance, the covariance and the speed's variance of these.
"""

from __future__ import annotations

import numpy as np

AT, SPEED, VAR, COV, SPEED_VAR = range(5)
SIZE = slice(2, 4)  # of the four: width and height

# Noise, in units of the object's size (the mean of its width and height).
BOX_STD = 0.05  # of a detected box, as in DeepSORT
SPEED_STD = 2.0  # 1/s, of an object just found
ACCELERATION = 1.0  # 1/s² · √s, white-noise acceleration


def begin(boxes: np.ndarray) -> np.ndarray:
    """The states (N, 5, 4) of boxes (N, 4) x0 y0 x1 y1 that are seen for the first time."""
    state = np.zeros((len(boxes), 5, 4))
    state[:, AT] = _to_centres(boxes)
    size = _size(state[:, AT])
    state[:, VAR], state[:, SPEED_VAR] = (BOX_STD * size) ** 2, (SPEED_STD * size) ** 2
    return state


def predict(state: np.ndarray, dt_s: np.ndarray) -> np.ndarray:
    """The state `dt_s` (T,) later, a new one."""
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
    """Kalman update, in place, of `rows` (n,) with the boxes (n, 4) x0 y0 x1 y1 that were seen."""
    met = state[rows]  # a copy
    seen = _to_centres(boxes)
    noise = (BOX_STD * _size(seen)) ** 2  # (n, 1)
    gains = met[:, VAR : COV + 1] / (met[:, VAR] + noise)[:, None]  # (n, 2, 4): of place and of speed
    met[:, : SPEED + 1] += gains * (seen - met[:, AT])[:, None]
    met[:, SPEED_VAR] -= gains[:, 1] * met[:, COV]
    met[:, VAR : COV + 1] *= 1 - gains[:, :1]
    state[rows] = met


def boxes_of(state: np.ndarray) -> np.ndarray:
    """(T, 4) float64, x0 y0 x1 y1."""
    centres, halves = state[:, AT, :2], state[:, AT, SIZE] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _to_centres(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) x0 y0 x1 y1 to (N, 4) float64 centre x, centre y, width, height."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def _size(at: np.ndarray) -> np.ndarray:
    return np.maximum((at[:, 2:3] + at[:, 3:4]) / 2, 1.0)  # (N, 1) px
