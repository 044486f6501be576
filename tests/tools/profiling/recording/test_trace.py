import json

import pytest
from recording_toys import graph
from trace_checker import Trace, TraceError

from pipeline.errors import ConfigError
from pipeline.make_run import make_run
from tests.support.models.toy_models import contract, save
from tools.profiling.recording.event_log import EventLog, Kind
from tools.profiling.recording.recorder import Recorder
from tools.profiling.recording.trace import write_trace

SECOND = 1_000_000_000


def trace_of(folder, checked, sources, *, processes=1, name="trace.json", trace=True):
    run = make_run(checked, sources, tracer=Recorder(folder / "rec", trace=trace), processes=processes)
    run.start()
    stats = run.finish()
    count = write_trace(folder / "rec", folder / name)
    found = Trace(folder / name)
    assert count == len(found.events)
    return found, stats


def routes(trace):
    """For each frame the lanes through which its arrows go."""
    return {key[1]: [trace.lane(event) for event, _ in steps] for key, steps in trace.flows.items()}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    model = save(contract("simcc"), folder / "toy.onnx")
    checked = graph(infer={"op": "infer", "file": str(model), "batch": {"max": 4, "wait_ms": 20}},
                    slow={"op": "slow", "ms": 3}, same={"op": "same_by_stream", "workers": 2},
                    end={"op": "same"})  # fmt: skip
    return trace_of(folder, checked, {"a": "30", "b": "40"})


def test_lanes_have_names_in_the_order_of_the_graph(traced):
    trace, _ = traced
    assert set(trace.processes.values()) == {"stages", "streams"}
    order = {e["args"]["sort_index"]: trace.lane(e) for e in trace.of("M") if e["name"] == "thread_sort_index"
             and trace.processes[e["pid"]] == "stages"}  # fmt: skip
    assert [order[i] for i in sorted(order)] == [
        "numbers a", "numbers b", "infer 0", "slow 0", "same 0", "same 1", "end 0"
    ]  # fmt: skip


def test_arrows_follow_every_frame_through_all_stages(traced):
    trace, stats = traced
    assert stats.finished == len(trace.flows) == 70
    assert {tuple(name.split()[0] for name in route) for route in routes(trace).values()} == {
        ("numbers", "infer", "slow", "same", "end")
    }
    for (_, name, _), steps in trace.flows.items():
        for event, span in steps:  # the call that took this frame
            assert (span["cat"], name in span["args"]["frames"]) == ("call", True), event
    assert {(route[0], route[3]) for route in routes(trace).values()} == {
        ("numbers a", "same 0"),
        ("numbers b", "same 1"),
    }


def test_a_span_for_each_frame(traced):
    trace, stats = traced
    spans = {(begin["name"], begin["args"]["frame"]): (begin, end) for begin, end in trace.frames.values()}
    assert spans.keys() == {*(("a", seq) for seq in range(30)), *(("b", seq) for seq in range(40))}
    assert all(begin["args"]["finished"] for begin, _ in spans.values())
    mean_ms = sum(end["ts"] - begin["ts"] for begin, end in spans.values()) / 70 / 1e3
    assert 6 < mean_ms < stats.seconds * 1e3


def test_a_call_names_the_packets_it_took(traced):
    trace, stats = traced
    calls = [span for span in trace.of("X") if span["cat"] == "call" and span["name"] == "infer"]
    assert sum(span["args"]["packets"] for span in calls) == 70
    assert max(span["args"]["packets"] for span in calls) <= 4
    assert all(len(span["args"].get("waited_ms", [])) == span["args"]["packets"] for span in calls)
    busy_ms = sum(span["dur"] for span in calls) / 1e3
    assert busy_ms == pytest.approx(stats.stages[1].busy * stats.seconds * 1e3, rel=0.05)


def test_engines_run_within_the_calls(traced):
    trace, _ = traced
    inside = [span for span in trace.of("X") if span["cat"] == "engine"]
    assert sum(span["args"]["items"] for span in inside) == 70
    assert {(span["name"], trace.lane(span)) for span in inside} == {("toy", "infer 0")}
    calls = [span for span in trace.of("X") if span["cat"] == "call" and span["name"] == "infer"]
    for span in inside:
        assert any(c["ts"] <= span["ts"] and span["ts"] + span["dur"] <= c["ts"] + c["dur"] for c in calls)


def test_a_full_edge_is_shown_as_waiting_for_room(traced):
    trace, stats = traced
    waits = [span for span in trace.of("X") if span["cat"] == "wait"]
    assert {trace.lane(span) for span in waits} >= {"numbers a", "numbers b", "infer 0"}
    assert min(span["dur"] for span in waits) > 90  # shorter waits get no span
    blocked_ms = sum(span["dur"] for span in waits if trace.lane(span) == "infer 0") / 1e3
    assert blocked_ms == pytest.approx(stats.stages[1].blocked * stats.seconds * 1e3, rel=0.1, abs=5)


def test_the_number_of_waiting_packets(traced):
    trace, _ = traced
    figures = {}
    for event in trace.of("C"):
        figures.setdefault(event["name"], []).append((event["ts"], event["args"]["packets"]))
    assert figures.keys() == {"waiting for infer", "waiting for slow", "waiting for same", "waiting for end"}
    slow = [packets for _, packets in sorted(figures["waiting for slow"])]
    assert 3 <= max(slow) <= 5  # the edge holds four
    assert (min(slow), slow[-1]) == (0, 0)


def test_two_processes_share_one_clock(tmp_path):
    checked = graph(slow={"op": "slow", "ms": 2}, same={"op": "same"})
    trace, stats = trace_of(tmp_path, checked, {"a": "40", "b": "40"}, processes=2, name="trace.json.gz")
    assert set(trace.processes.values()) == {"stages of a", "stages of b", "streams"}
    assert stats.finished == len(trace.flows) == 80
    begins = {name: min(e["ts"] for e in trace.of("b") if e["name"] == name) for name in "ab"}
    ends = {name: max(e["ts"] for e in trace.of("e") if e["name"] == name) for name in "ab"}
    assert max(begins.values()) < min(ends.values())  # both ran at the same time


def test_frames_on_two_paths_are_joined_or_lost(tmp_path):
    checked = graph(left={"op": "same", "after": "numbers"}, right={"op": "slow", "ms": 1, "after": "numbers"},
                    both={"op": "same", "after": ["left", "right"]}, odd={"op": "odd"}, one={"op": "same"},
                    two={"op": "same", "after": "odd"})  # fmt: skip
    trace, _ = trace_of(tmp_path, checked, {"a": "20"})
    for frame, route in routes(trace).items():
        lost = int(frame.split()[1]) % 2 == 0
        assert route[0] == "numbers a"
        assert set(route[1:3]) == {"left 0", "right 0"}
        assert route[3:5] == ["both 0", "odd 0"]
        assert set(route[5:]) == (set() if lost else {"one 0", "two 0"})
    finished = {begin["args"]["frame"] for begin, _ in trace.frames.values() if begin["args"]["finished"]}
    assert finished == set(range(1, 20, 2))


def test_without_trace_there_are_only_calls(tmp_path):
    trace, _ = trace_of(tmp_path, graph(same={"op": "same"}), {"a": "9"}, trace=False)
    assert sum(span["args"]["packets"] for span in trace.of("X") if span["name"] == "same") == 9
    assert not trace.flows
    assert not trace.frames


@pytest.fixture
def written(tmp_path):
    """Records of two stages, written by hand: a call a second, with device times that are off by some µs."""
    log = EventLog(tmp_path / "process-1")
    log.name("process", "a", SECOND // 2)
    decode, pose = log.name("lane", "decode", "a"), log.name("lane", "pose", 0)
    engine, stream = log.name("engine", "toy", "toy.plan", "tensorrt", 1), log.name("stream", "a")
    end = log.name("end", "pose")
    for seq in range(10):
        at = (seq + 1) * SECOND
        log.add((Kind.CALL, decode, at, at + 1000, 500, 0, 1, 0, stream, seq, -1))
        log.add(
            (Kind.ENGINE, pose, engine, at + 3000, at + SECOND - 3000, 0, 1, 8, 8, 16, at - 2000, at + SECOND)
        )
        log.add((Kind.CALL, pose, at + 2000, at + SECOND - 2000, 0, 1, 1, 64, stream, seq, at + 1000))
        log.add((Kind.FINISHED, end, at + SECOND - 1000, stream, seq))
    log.close()
    return tmp_path


def test_the_device_has_a_lane_of_its_own(written):
    write_trace(written, written / "trace.json")
    trace = Trace(written / "trace.json")
    spans = [span for span in trace.of("X") if span["cat"] == "device"]
    assert {(span["name"], trace.lane(span)) for span in spans} == {("toy", "GPU for pose 0")}
    assert [span["dur"] for span in spans] == pytest.approx([1_000_002, *[1_000_000] * 9], abs=2)
    copied = {span["args"]["mb_copied"] for span in trace.of("X") if span["cat"] == "engine"}
    assert copied == {0.0}


@pytest.mark.parametrize(("between", "frames"), [((0, 20), range(10)), ((3, 6), [2, 3, 4]), ((30, 40), [])])
def test_only_calls_in_the_window_are_written(written, between, frames):
    write_trace(written, written / "t.json", (between[0] * SECOND, between[1] * SECOND))
    trace = Trace(written / "t.json")
    calls = [span for span in trace.of("X") if span["cat"] == "call" and span["name"] == "pose"]
    assert [span["args"]["frames"] for span in calls] == [[f"a {seq}"] for seq in frames]
    assert len(trace.flows) == len(frames)


def test_missing_records_and_folders_are_refused(tmp_path, written):
    with pytest.raises(ConfigError, match="nothing was recorded in"):
        write_trace(tmp_path / "nothing", tmp_path / "t.json")
    with pytest.raises(ConfigError, match=r"cannot write .*: No such file"):
        write_trace(written, tmp_path / "no" / "t.json")


CALL = {"ph": "X", "pid": 1, "tid": 1, "cat": "c", "name": "call", "ts": 10, "dur": 10}
ARROW = {"pid": 1, "tid": 1, "cat": "c", "name": "a", "id": 1}
NAMED = [
    {"ph": "M", "pid": 1, "tid": 0, "ts": 0, "name": "process_name", "args": {"name": "p"}},
    {"ph": "M", "pid": 1, "tid": 1, "ts": 0, "name": "thread_name", "args": {"name": "l"}},
]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([CALL | {"ph": "Q"}], "no such phase"),
        ([CALL | {"ts": "10"}], "ts is no time"),
        ([CALL | {"dur": -1}], "dur is no time"),
        ([CALL | {"pid": 1.5}], "pid is no whole number"),
        ([CALL | {"pid": 2}], "process 2 has no name"),
        ([CALL | {"tid": 2}], "lane 2 of process 1 has no name"),
        (
            [CALL, NAMED[0] | {"pid": 2, "args": {"name": "q"}}, NAMED[1] | {"pid": 2}],
            "two lanes have one number",
        ),
        ([CALL | {"name": ""}], "name is no name"),
        ([CALL, CALL | {"ts": 15}], "two spans of a lane overlap"),
        ([CALL | {"ph": "E"}], "E without B"),
        ([CALL | {"ph": "B"}], "B without E"),
        ([CALL, ARROW | {"ph": "s", "ts": 12}], "goes s, expected"),
        ([CALL, ARROW | {"ph": "s", "ts": 12}, ARROW | {"ph": "s", "ts": 14}], "goes ss, expected"),
        ([CALL, ARROW | {"ph": "s", "ts": 12}, ARROW | {"ph": "f", "ts": 14}], "the next span"),
        ([CALL, ARROW | {"ph": "s", "ts": 12}, ARROW | {"ph": "f", "ts": 24, "bp": "e"}], "no span around"),
        ([ARROW | {"ph": "b", "ts": 12}], "no pair of b and e"),
        ([ARROW | {"ph": "b", "ts": 12}, ARROW | {"ph": "e", "ts": 11}], "ends before it begins"),
    ],
)
def test_the_checker_finds_what_is_wrong(tmp_path, events, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": NAMED + events}))
    with pytest.raises(TraceError, match=message):
        Trace(path)
