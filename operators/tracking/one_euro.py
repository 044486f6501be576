"""The One-Euro filter: smooths little motion much (no jitter at rest) and fast motion little (no lag).

Casiez, Roussel and Vogel, "1€ Filter", CHI 2012.
"""

from __future__ import annotations

import math

import numpy as np


class OneEuro:
    """One-Euro filters for an array of signals, one for each element; all are sampled at the same times."""

    def __init__(
        self, min_cutoff: float, beta: float, derivative_cutoff: float = 1.0, restart_s: float = math.inf
    ):
        """Cut-off frequencies are in Hz. An element that was NaN for longer than `restart_s` starts anew."""
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self.restart_s = restart_s
        self.raw: np.ndarray
        self.filtered: np.ndarray
        self.derivative: np.ndarray
        self.seen_ns: np.ndarray
        self._start((0,))

    def __call__(
        self, values: np.ndarray, time_ns: int | np.ndarray, scale: float | np.ndarray = 1.0
    ) -> np.ndarray:
        """Filter one sample of every signal.

        Args:
            values: any shape, but the same at every call. NaN is returned as NaN and changes no state.
            time_ns: time of the sample. Where it does not advance, the value is returned unchanged.
            scale: factor for the speed, to make it independent of units (1 / object size in px, say);
                broadcasts to `values`.

        Returns:
            The filtered values, with the shape and dtype of `values`.

        Raises:
            ValueError: the shape differs from that of the previous call.
        """
        if not self.raw.size:
            self._start(values.shape)
        if values.shape != self.raw.shape:
            raise ValueError(
                f"expected values of shape {self.raw.shape} as before, found {values.shape}; "
                "use a filter for each shape"
            )
        seen = np.isfinite(values)
        elapsed_s = (time_ns - self.seen_ns) / 1e9
        first = seen & (np.isnan(self.raw) | (elapsed_s > self.restart_s))
        later = seen & ~first & (elapsed_s > 0)
        dt_s = np.where(later, elapsed_s, 1.0)

        # Speed from the last raw value, as in MediaPipe; the paper uses the last filtered value.
        speed = np.where(later, values - self.raw, 0.0) * scale / dt_s
        derivative = self.derivative + _alpha(self.derivative_cutoff, dt_s) * (speed - self.derivative)
        cutoff = self.min_cutoff + self.beta * np.abs(derivative)
        filtered = self.filtered + _alpha(cutoff, dt_s) * (values - self.filtered)

        self.raw = np.where(first | later, values, self.raw)
        self.filtered = np.where(later, filtered, np.where(first, values, self.filtered))
        self.derivative = np.where(later, derivative, np.where(first, 0.0, self.derivative))
        self.seen_ns = np.where(first | later, time_ns, self.seen_ns)
        return np.where(later, filtered, values).astype(values.dtype, copy=False)

    def take(self, rows: np.ndarray) -> None:
        """Keep these rows (M,) of the first axis, in this order; -1 adds a row without history."""
        if self.raw.size:
            before = (self.raw, self.filtered, self.derivative, self.seen_ns)
            old = rows >= 0
            self._start((len(rows), *self.raw.shape[1:]))
            for after, kept in zip(
                (self.raw, self.filtered, self.derivative, self.seen_ns), before, strict=True
            ):
                after[old] = kept[rows[old]]

    def _start(self, shape: tuple[int, ...]) -> None:
        self.raw, self.filtered = np.full(shape, np.nan), np.full(shape, np.nan)
        self.derivative, self.seen_ns = np.zeros(shape), np.zeros(shape, np.int64)


def _alpha(cutoff_hz: float | np.ndarray, dt_s: np.ndarray) -> np.ndarray:
    """The weight of a new sample in a first-order low-pass filter (the paper's alpha)."""
    return 1.0 / (1.0 + 1.0 / (2 * np.pi * cutoff_hz * dt_s))
