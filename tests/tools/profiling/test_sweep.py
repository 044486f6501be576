"""A measurement for each combination of settings."""

from __future__ import annotations

import json
import threading

import pytest
import yaml

from pipeline.errors import ConfigError, RunError
from tools.profiling.document import Profile
from tools.profiling.session import StopRequest
from tools.profiling.settings import Settings
from tools.profiling.sweep import Failed, as_json, read_points, settings_at, sweep

pytestmark = pytest.mark.slow


@pytest.fixture
def graph(tmp_path):
    nodes = {
        "source": {"op": "toys:Numbers"},
        "work": {"op": "profiling_toys:Sleeps", "ms": 4, "after": "source"},
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "graph": nodes}))
    return path


@pytest.mark.parametrize(
    ("texts", "points"),
    [
        ([], [{}]),
        (["streams=1,2"], [{"streams": "1"}, {"streams": "2"}]),
        (["streams=1,2", "pose.threads=1,4"],
         [{"streams": s, "pose.threads": t} for s in "12" for t in "14"]),
        (["streams=1 backend=a,b"], [{"streams": "1", "backend": "a"}, {"streams": "1", "backend": "b"}]),
    ],
)  # fmt: skip
def test_all_combinations(texts, points):
    assert read_points(texts) == points


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["streams"], "expected NAME=VALUE"),
        (["streams="], "expected NAME=VALUE"),
        (["streams=1,,2"], "expected NAME=VALUE"),
        (["steams=1"], "did you mean 'streams'?"),
        (["streams=1", "streams=2"], "given twice"),
        (["processes=0"], "numbers from 1"),
        (["streams=two"], "numbers from 1"),
    ],
)
def test_a_bad_sweep_is_refused(texts, message):
    with pytest.raises(ConfigError, match=r"--sweep") as error:
        read_points(texts)
    assert message in str(error.value)


def test_settings_at_a_point():
    base = Settings("human-lite", {"a": "walk.mp4"}, changes={"detect.every": 3, "pose.backend": "torch"})
    point = {"streams": "4", "batch": "2", "backend": "litert", "track.max_age_s": "0.5"}
    found = settings_at(base, point)
    assert (found.streams, found.processes, found.swept) == (4, None, point)
    assert found.changes == {
        "detect.every": 3, "detect.batch.max": 2, "pose.batch.max": 2, "detect.backend": "litert",
        "pose.backend": "litert", "track.max_age_s": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["batch", "backend"])
def test_a_setting_that_no_node_has_is_refused(graph, name):
    with pytest.raises(ConfigError, match=r"no node of .*toy\.yaml"):
        settings_at(Settings(graph, {}), {name: "1"})


def test_each_point_is_measured_and_a_failed_one_does_not_stop_the_sweep(graph):
    base = Settings(graph, {"a": "1000000"}, seconds=0.5, warmup_s=0.1)
    points = read_points(["work.ms=4,many,20", "streams=1,2"])
    seen = []
    results = sweep(base, points, stop=StopRequest(), on_result=seen.append)
    assert seen == results
    assert [result.swept if isinstance(result, Failed) else result.settings for result in results] == points
    failed = [result for result in results if isinstance(result, Failed)]
    assert len(failed) == 2
    assert "work.ms" in str(failed[0].error)
    profiles = [result for result in results if isinstance(result, Profile)]
    assert [profile.streams_wanted for profile in profiles] == [1, 2, 1, 2]
    assert profiles[0].fps > 1.5 * profiles[2].fps
    listed = json.loads(as_json(results))
    assert [entry["settings"] for entry in listed] == points
    assert [("error" in entry) for entry in listed] == [False, False, True, True, False, False]
    assert Profile.model_validate(listed[0]) == results[0]


def test_if_all_points_fail_the_first_error_is_raised(graph):
    base = Settings(graph, {"a": "1000"}, seconds=0.5)
    with pytest.raises(ConfigError, match=r"work\.ms"):
        sweep(base, read_points(["work.ms=many,few"]), stop=StopRequest())


def test_a_run_that_fails_is_a_point_that_fails(tmp_path):
    nodes = {"source": {"op": "toys:Numbers"}, "fails": {"op": "toys:FailAt", "seq": 3, "after": "source"}}
    path = tmp_path / "fails.yaml"
    path.write_text(yaml.safe_dump({"name": "fails", "graph": nodes}))
    base = Settings(path, {"a": "100000000"}, seconds=0.3, warmup_s=0)
    failed, fine = sweep(base, read_points(["fails.seq=3,-1"]), stop=StopRequest())
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RunError)
    assert isinstance(fine, Profile)


def test_a_sweep_ends_when_it_is_stopped(graph):
    stop = StopRequest()
    base = Settings(graph, {"a": "1000000"}, seconds=60, warmup_s=0)
    threading.Timer(1.5, stop.stop).start()
    results = sweep(base, read_points(["streams=1,2,3"]), stop=stop)
    assert [result.settings for result in results] == [{"streams": "1"}]
