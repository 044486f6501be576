"""Histograms of durations."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.measurement.metrics import Histogram


@pytest.mark.parametrize("scale", [3e3, 2e6, 5e9])
def test_percentiles_are_accurate_to_a_few_percent(scale):
    durations = np.random.default_rng(0).lognormal(0, 1, 5000) * scale
    histogram = Histogram()
    for ns in durations:
        histogram.record(int(ns))
    for percent in (50, 95, 99):
        assert histogram.percentile_ms(percent) == pytest.approx(
            np.percentile(durations, percent) / 1e6, rel=0.07
        )
    assert histogram.total_ns / histogram.count == pytest.approx(durations.mean(), rel=1e-3)


def test_histograms_add_up_and_accept_any_value():
    one, two = Histogram(), Histogram()
    assert one.percentile_ms(50) == 0
    for ns in (-5, 0, 1, 2**62):
        one.record(ns)
    two.merge(one)
    two.merge(one)
    assert two.count == 8
