import math

import numpy as np
import pytest

from operators.tracking.one_euro import OneEuro

REGULAR = np.arange(60) * 33_333_333
IRREGULAR = np.cumsum(np.random.default_rng(1).integers(1_000_000, 90_000_000, 60))


def one_euro_by_hand(values, times_ns, min_cutoff, beta, derivative_cutoff, scale):
    """The reference: the filter of one signal, one sample after the other."""

    def alpha(cutoff, dt):
        return 1 / (1 + 1 / (2 * math.pi * cutoff * dt))

    out, derivative, raw, filtered, last = [], 0.0, None, None, None
    for value, now in zip(values, times_ns, strict=True):
        if raw is None:
            filtered = value
        else:
            dt = (now - last) / 1e9
            a = alpha(derivative_cutoff, dt)
            derivative = a * (value - raw) * scale / dt + (1 - a) * derivative
            a = alpha(min_cutoff + beta * abs(derivative), dt)
            filtered = a * value + (1 - a) * filtered
        raw, last = value, now
        out.append(filtered)
    return out


@pytest.mark.parametrize("times_ns", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
@pytest.mark.parametrize(
    ("min_cutoff", "beta", "scale"), [(1.0, 0.0, 1.0), (0.05, 80.0, 1 / 200), (0.1, 40.0, 1.0)]
)
def test_it_agrees_with_the_scalar_formula(times_ns, min_cutoff, beta, scale):
    signals = np.cumsum(np.random.default_rng(3).normal(size=(60, 3, 2)), axis=0)
    one_euro = OneEuro(min_cutoff, beta, 1.0)
    filtered = np.array([one_euro(values, now, scale) for values, now in zip(signals, times_ns, strict=True)])
    for i, j in np.ndindex(3, 2):
        expected = one_euro_by_hand(signals[:, i, j], times_ns, min_cutoff, beta, 1.0, scale)
        np.testing.assert_allclose(filtered[:, i, j], expected, rtol=1e-9)


def test_the_first_sample_and_samples_without_a_later_time_are_unchanged():
    one_euro = OneEuro(0.05, 1.0)
    first, second = np.array([1.0, 2.0]), np.array([5.0, -5.0])
    assert one_euro(first, 1000) is first or (one_euro(first, 1000) == first).all()
    np.testing.assert_array_equal(one_euro(second, 1000), second)
    np.testing.assert_array_equal(one_euro(second, 10), second)
    assert (one_euro(second, 33_000_000) != second).all()


def test_nan_leaves_the_state_of_its_element_as_it_is():
    signal = np.cumsum(np.random.default_rng(3).normal(size=60))
    gaps = np.zeros(60, bool)
    gaps[[0, 7, 8, 9, 30]] = True
    one_euro = OneEuro(0.05, 5.0)
    pairs = np.stack([signal, np.where(gaps, np.nan, signal)], axis=1)
    filtered = np.array([one_euro(pair, now) for pair, now in zip(pairs, IRREGULAR, strict=True)])
    np.testing.assert_array_equal(np.isnan(filtered[:, 1]), gaps)
    expected = one_euro_by_hand(signal[~gaps], IRREGULAR[~gaps], 0.05, 5.0, 1.0, 1.0)
    np.testing.assert_allclose(filtered[~gaps, 1], expected, rtol=1e-9)


def test_an_element_starts_anew_after_a_long_gap():
    one_euro = OneEuro(0.05, 0.0, restart_s=2.0)
    one_euro(np.array([0.0, 0.0]), 0)
    one_euro(np.array([0.0, np.nan]), 1_500_000_000)
    continued, restarted = one_euro(np.array([100.0, 100.0]), 2_500_000_000)
    assert continued < 50
    assert restarted == 100


def test_another_shape_is_refused():
    one_euro = OneEuro(1.0, 0.0)
    one_euro(np.zeros(3), 0)
    with pytest.raises(ValueError, match=r"\(3,\) as before, found \(4,\)"):
        one_euro(np.zeros(4), 1)
