"""Prometheus metrics: real scrapes of real runs, read by Prometheus' own parsers."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from live_toys import camera_graph
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pipeline.measurement.metrics import Histogram
from pipeline.run import Run
from tools.service.attached import Attached
from tools.service.control import ControlServer, listen
from tools.service.prometheus import BOUNDS_NS, make_registry, scrape

DOCKER = Path(__file__).resolve().parents[3] / "docker"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def samples(run: Run, accept: str = "") -> dict[tuple[str, ...], float]:
    """Scrape once: (name, label value …) to value."""
    text, _ = scrape(make_registry(run), accept)
    parse = parse_openmetrics if accept else parse_text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def ended():
    """An ended run of two cameras that were too fast for its stages."""
    run = Run(camera_graph(slow_ms=15), {"yard": "200@60", "barn": "10@3"}, live=True)
    run.start()
    assert run.wait(60)
    return run


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_scrape_holds_the_counts_of_the_run(ended, accept):
    found, stats = samples(ended, accept), ended.stats()
    yard = next(stream for stream in stats.streams if stream.name == "yard")
    assert found["posestream_stream_read_frames_total", "yard"] == 60
    assert found["posestream_stream_finished_frames_total", "yard"] == yard.finished
    assert found["posestream_stream_instances_total", "yard"] == 2 * yard.finished
    assert found["posestream_stream_dropped_frames_total", "full", "yard"] == yard.dropped > 10
    assert found["posestream_stream_read_frames_total", "barn"] == 3
    assert found["posestream_stream_attached", "barn"] == 0
    edge = ("two", "slow")
    received = found["posestream_edge_received_packets_total", *reversed(edge)]
    assert received == found["posestream_edge_delivered_packets_total", *reversed(edge)] == stats.finished
    assert found["posestream_edge_dropped_packets_total", "two", "camera", "full"] == stats.dropped
    assert found["posestream_edge_depth_packets", "slow", "two"] == 0
    assert found["posestream_stage_packets_in_total", "slow"] == stats.finished
    assert found["posestream_stage_busy_seconds_total", "slow"] >= 0.015 * stats.finished
    assert (
        found["posestream_stage_cpu_seconds_total", "slow"]
        < found["posestream_stage_busy_seconds_total", "slow"]
    )
    assert found["posestream_stage_blocked_seconds_total", "two"] > 0
    assert found["posestream_stage_batch_packets_sum", "slow"] == stats.finished
    assert found["posestream_run_info", "toy", stats.run_id] == 1
    assert found["process_resident_memory_bytes",] > 1e6


def test_ages_are_a_histogram(ended):
    found = samples(ended)
    counts = [
        (float(key[1]), value) for key, value in found.items()
        if key[0] == "posestream_stream_age_seconds_bucket" and key[2] == "yard"
    ]  # fmt: skip
    yard = next(stream for stream in ended.stats().streams if stream.name == "yard")
    assert [bound for bound, _ in counts] == sorted(bound for bound, _ in counts)
    assert [n for _, n in counts] == sorted(n for _, n in counts)
    assert counts[-1] == (float("inf"), yard.finished)
    assert found["posestream_stream_age_seconds_count", "yard"] == yard.finished
    median = next(bound for bound, n in counts if n >= yard.finished / 2)
    assert median / 1.5 <= yard.age_p50_ms / 1e3 * 1.07
    assert yard.age_p50_ms / 1e3 <= median * 1.07


def test_the_bounds_are_exact():
    for bound in BOUNDS_NS:
        histogram = Histogram()
        for ns in (bound - 1, bound, 2 * bound):
            histogram.record(ns)
        assert histogram.below([bound]) == [1]


def test_outages_and_counters_of_operators(tmp_path):
    unplugged = tmp_path / "unplugged"
    unplugged.touch()
    run = Run(camera_graph(), {"yard": f"200:{unplugged}"}, live=True, keep_open=True)
    run.start()
    try:
        wait_for(run, ("posestream_stream_lost", "yard"), 1)
        time.sleep(0.1)
        unplugged.unlink()
        wait_for(run, ("posestream_stream_lost", "yard"), 0)
        found = samples(run)
    finally:
        run.stop()
    assert run.wait(20)
    assert found["posestream_stream_outages_total", "yard"] == 1
    assert 0.1 <= found["posestream_stream_outage_seconds_total", "yard"] < 20
    assert found["posestream_source_events_total", "outages", "yard"] == 1
    assert found["posestream_operator_events_total", "outages", "camera"] == 1


def wait_for(run: Run, key: tuple[str, ...], value: float) -> None:
    deadline = time.monotonic() + 20
    while samples(run).get(key) != value:
        assert time.monotonic() < deadline, key
        time.sleep(0.02)


def test_counters_never_fall_when_a_source_comes_again():
    run = Run(camera_graph(), {"yard": "500"}, live=True, keep_open=True)
    run.start()
    key = ("posestream_stage_packets_out_total", "camera")
    before = 0.0
    try:
        for _ in range(3):
            while (now := samples(run)[key]) < before + 5:
                time.sleep(0.01)
            run.remove_source("yard")
            while run.sources():
                time.sleep(0.01)
            run.add_source("yard", "500")
            before = now
            assert samples(run)[key] >= before
    finally:
        run.stop()
    assert run.wait(20)


def test_sums_over_all_streams_never_fall(monkeypatch):
    monkeypatch.setattr("pipeline.sources.ENDED_KEPT", 1)
    run = Run(camera_graph(slow_ms=15), live=True, keep_open=True)
    run.start()
    try:
        for number in range(1, 5):
            run.add_source(f"visitor{number}", "200@30")
            deadline = time.monotonic() + 20
            while run.sources() or not all(stream.ended for stream in run.stats().streams):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            found, stats = samples(run), run.stats()
            summed = {
                what: sum(n for key, n in found.items() if key[0] == f"posestream_stream_{what}_frames_total")
                for what in ("read", "finished", "dropped")
            }
            assert summed == {"read": 30 * number, "finished": stats.finished, "dropped": stats.dropped}
        assert found["posestream_stream_read_frames_total", ""] == 60
        assert ("posestream_stream_read_frames_total", "visitor1") not in found
    finally:
        run.stop()
    assert run.wait(20)


def test_the_dashboard_asks_only_for_exported_metrics(ended):
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "posestream.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked += re.findall(r"\w+\((.*)\)", " ".join(v["query"] for v in dashboard["templating"]["list"]))
    names = set(re.findall(r"\b(?:posestream|process)_\w+", " ".join(asked)))
    text, _ = scrape(make_registry(ended), "")
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    exported = {
        family.name + suffix
        for family in parse_text(text.decode())
        for suffix in suffixes.get(family.type, [""])
    }
    assert len(names) > 12
    assert names <= exported


def test_a_scraper_reads_the_metrics_over_http(ended):
    with ControlServer(Attached(ended), listen("127.0.0.1:0", None), None) as server:
        for accept, parse in (("*/*", parse_text), (OPENMETRICS, parse_openmetrics)):
            request = urllib.request.Request(f"{server.url}/metrics", headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=10) as answer:
                names = {family.name for family in parse(answer.read().decode())}
                assert answer.headers["Content-Type"].startswith(
                    accept.partition(";")[0].replace("*/*", "text/plain")
                )
            assert {"posestream_build_info", "posestream_stream_age_seconds"} <= names
