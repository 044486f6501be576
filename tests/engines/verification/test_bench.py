"""Measuring the small real model: the figures agree with each other, and slow sizes are left out."""

import json

from engines.verification.bench import bench_model


def test_each_batch_size_is_measured(small_home):
    bench = bench_model(small_home.contract, batches=[4, 1], seconds=0.3)
    result = json.loads(json.dumps(bench.as_dict()))
    assert (result["model"], result["backend"], result["threads"]) == ("small-rtmpose", "onnxruntime", 1)
    assert "no CUDA device" in result["why"]
    assert [row["batch"] for row in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert row["runs"] >= 3
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        # The median run takes no longer than twice the mean one.
        assert row["items_per_s"] <= 2000 * row["batch"] / row["p50_ms"]
        assert row["memory_mb"] is None or 0 <= row["memory_mb"] < 2000


def test_sizes_that_would_take_too_long_are_left_out(small_home):
    rows = bench_model(small_home.contract, batches=[1, 10**9, 10**10], seconds=0.02).rows
    assert [row.items_per_s is None for row in rows] == [False, True, True]
    assert rows[1].cells()[:2] == ["1000000000", "too slow"]
