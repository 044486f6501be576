"""Measurements of toy graphs, from the start of the run to the document."""

from __future__ import annotations

import threading
import time

import pytest
import yaml
from profiling_toys import Stuck

from pipeline.errors import ConfigError, RunError
from tools.profiling import session
from tools.profiling.document import Profile
from tools.profiling.session import NothingMeasuredError, StopRequest, measure, prepare, repeated
from tools.profiling.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture
def toy(tmp_path):
    """A function that writes a graph file: these nodes behind an endless source, each after the one before."""

    def write(*, source="profiling_toys:Endless", **nodes):
        spec, last = {"source": {"op": source}}, "source"
        for name, node in nodes.items():
            spec[name], last = {"after": last, **node}, name
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump({"name": "toy", "graph": spec}))
        return path

    return write


SAME = {"op": "toys:Same"}


def short(graph, sources=None, **more) -> Settings:
    return Settings(graph, sources or {"a": "2"}, **{"seconds": 1.0, "warmup_s": 0.1, **more})


def test_a_profile_adds_up(toy):
    graph = toy(sleeps={"op": "profiling_toys:Sleeps", "ms": 4, "batch": {"max": 3}}, same=SAME)
    sources = {"a": "0", "b": "0"}
    profile = measure(short(graph, sources, processes=1, command="posestream profile toy"))
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
    assert profile.command == "posestream profile toy"
    assert profile.flow.closed
    assert profile.flow.read == profile.flow.finished > profile.frames > 0
    assert profile.fps == pytest.approx(profile.frames / profile.seconds)
    assert 0.9 < profile.seconds < 10
    assert [stage.name for stage in profile.stages] == ["source", "sleeps", "same"]
    assert [stage.workers for stage in profile.stages] == [2, 1, 1]
    for stage in profile.stages:
        assert stage.busy + stage.blocked + stage.idle == pytest.approx(1)
        assert 0 <= stage.computing <= stage.busy
    for edge in profile.edges:
        passed = edge.delivered + sum(edge.dropped.values()) + edge.in_flight
        assert edge.in_flight_before + edge.received == passed
    sleeps = profile.stages[1]
    assert sum(size * n for size, n in sleeps.batches.items()) == sleeps.packets_in
    assert sleeps.mean_batch == pytest.approx(3, abs=0.5)
    assert profile.stages[0].blocked > 0.5 > profile.stages[2].busy
    assert sum(stream.finished for stream in profile.streams) == profile.frames
    assert profile.use.cores > 0
    assert profile.use.memory_mb >= profile.use.memory_before_mb > 10
    assert profile.use.moments
    assert profile.bound is None  # neither a model nor a decoder
    assert profile.processes == 1
    assert profile.notes == []


def test_several_processes_are_measured_together(toy):
    burns = {"op": "profiling_toys:Burns", "ms": 20}  # so long that samples are sure to find it at work
    profile = measure(short(toy(burns=burns), {"a": "5", "b": "5"}, processes=2, seconds=1.5))
    assert profile.processes == 2
    assert profile.flow.closed
    assert {stream.name for stream in profile.streams} == {"a", "b"}
    assert all(stream.finished for stream in profile.streams)
    assert profile.stages[1].workers == 2
    # Two interpreters are larger than the one that has started them was.
    assert profile.use.memory_mb > profile.use.memory_before_mb + 20
    assert "burns" in {stack.split(";")[0] for stack in profile.stacks}


def test_a_fork_loses_frames_on_one_side_only_and_the_sum_is_closed(toy):
    graph = toy(
        same=SAME,
        quick={"op": "toys:Same", "after": "same"},
        slow={"op": "profiling_toys:Sleeps", "ms": 20, "after": "same", "on_full": "drop_oldest"},
    )
    profile = measure(short(graph))
    assert profile.flow.dropped["full"] > 0
    assert profile.flow.closed
    assert profile.flow.read == profile.flow.finished + profile.flow.dropped["full"]
    edges = {edge.consumer: edge for edge in profile.edges}
    assert edges["slow"].dropped["full"] > 0
    assert not edges["quick"].dropped
    assert len(profile.notes) == 1
    assert "the last stages took different numbers of frames" in profile.notes[0]


def test_live_sources_are_not_waited_for(toy):
    graph = toy(sleeps={"op": "profiling_toys:Sleeps", "ms": 30})
    profile = measure(short(graph, {"a": "3"}, live=True, max_age_s=5))
    assert profile.live
    assert sum(profile.flow.dropped.values()) > 0
    assert profile.flow.closed
    assert (profile.verdict.kind, profile.verdict.stage) == ("waiting", "sleeps")


def test_the_measurement_ends_with_the_sources(toy):
    profile = measure(short(toy(source="toys:Numbers", same=SAME), {"a": "150@5"}, seconds=60))
    assert profile.seconds < 30
    assert profile.flow.read == 150
    assert len(profile.notes) == 1
    assert "ended with a source" in profile.notes[0]


def test_sources_that_end_in_the_warm_up_are_refused(toy):
    with pytest.raises(ConfigError, match="ended after 5 frames, in the warm-up"):
        measure(short(toy(source="toys:Numbers", same=SAME), {"a": "5"}, warmup_s=20))


def test_a_run_that_fails_says_why(toy):
    graph = toy(source="toys:Numbers", fails={"op": "toys:FailAt", "seq": 30})
    with pytest.raises(RunError, match="bad frame 30"):
        measure(short(graph, {"a": "1000@2"}, seconds=30))


def stopped_after(seconds):
    stop = StopRequest()
    threading.Timer(seconds, stop.stop).start()
    return stop


def test_a_stopped_measurement_judges_what_it_has_measured(toy):
    start = time.monotonic()
    profile = measure(short(toy(same=SAME), seconds=60), stop=stopped_after(1.5))
    assert time.monotonic() - start < 30
    assert 0 < profile.seconds < 20
    assert profile.frames > 0
    assert profile.flow.closed


def test_a_measurement_that_is_stopped_in_the_warm_up_has_measured_nothing(toy):
    with pytest.raises(NothingMeasuredError):
        measure(short(toy(same=SAME), warmup_s=60), stop=stopped_after(0.5))


def test_a_stage_that_never_ends_is_left_behind_and_named(toy, monkeypatch):
    for name, seconds in {"FIRST_FRAME_S": 1.0, "DRAIN_S": 0.5, "ABORT_S": 0.5}.items():
        monkeypatch.setattr(session, name, seconds)
    Stuck.freed.clear()
    try:
        profile = measure(short(toy(same=SAME, stuck={"op": "profiling_toys:Stuck"}), {"a": "0"}))
    finally:
        Stuck.freed.set()
    assert profile.frames == 0
    assert (profile.verdict.kind, profile.verdict.stage) == ("waiting", "stuck")
    assert "self.freed.wait()" in profile.verdict.said
    assert len(profile.notes) == 1
    assert "does not end" in profile.notes[0]
    stages = {stage.name: stage for stage in profile.stages}
    assert stages["stuck"].busy > 0.8
    assert stages["same"].blocked > 0.8
    assert stages["source"].blocked > 0.8


@pytest.mark.parametrize(
    ("sources", "streams", "expected"),
    [
        ({"a": "1", "b": "2"}, None, {"a": "1", "b": "2"}),
        ({"a": "1", "b": "2"}, 1, {"a": "1"}),
        ({"a": "1", "b": "2"}, 5, {"a": "1", "b": "2", "a-2": "1", "b-2": "2", "a-3": "1"}),
        ({"a": "1", "a-2": "2"}, 4, {"a": "1", "a-2": "2", "a-3": "1", "a-2-2": "2"}),
    ],
)
def test_sources_are_repeated_under_new_names(sources, streams, expected):
    assert repeated(sources, streams) == expected


def test_files_are_played_in_a_loop_unless_the_settings_say_otherwise(tmp_path):
    graph = tmp_path / "only.yaml"
    graph.write_text("name: only\ngraph:\n  decode: {op: decode}\n  same: {op: 'toys:Same', after: decode}\n")
    assert prepare(Settings(graph, {})).source.options["loop"] == 0
    assert prepare(Settings(graph, {}, changes={"decode.loop": 2})).source.options["loop"] == 2


def test_live_measurements_stay_in_one_process(toy):
    with pytest.raises(ConfigError, match="one process"):
        measure(short(toy(same=SAME), live=True, processes=2))


def test_a_graph_that_only_decodes_is_refused(toy):
    with pytest.raises(ConfigError, match="only decodes"):
        measure(short(toy()))
