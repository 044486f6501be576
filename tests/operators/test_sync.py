"""`sync`: groups of several cameras by time, on packets in any order and in runs of a graph."""

import itertools
from collections import Counter, defaultdict

import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.sync import Sync
from pipeline.errors import ConfigError, OptionError
from pipeline.graph import check_graph
from pipeline.make_run import make_run, run_graph
from pipeline.operator import RunInfo
from pipeline.packet import End, Event, Packet
from pipeline.run import Run

MS = 1_000_000
TOLERANCE_MS = 15


def frame(stream, seq, ms):
    return Packet(stream, seq, round(ms * MS), round(ms * MS), (64, 48))


def opened(sources, *, live=False, **options):
    sync = Sync(**{"tolerance_ms": TOLERANCE_MS, **options})
    sync.open(RunInfo("r", "g", 0, live=live, sources=tuple(sources)))
    return sync


def run_through(sync, items):
    out = []
    for item in items:
        out += sync.process([item]) if isinstance(item, Packet) else sync.pass_on(item)
    return out


def groups_of(out):
    """For each moment, in order, the `seq` of the frame of each camera."""
    found = defaultdict(dict)
    for item in out:
        if isinstance(item, Packet) and item.moment_ns is not None:
            assert item.stream not in found[item.moment_ns]  # at most one frame of a camera
            found[item.moment_ns][item.stream] = item.seq
    return list(found.values())


def dropped(sync):
    """The packets that were dropped since it was last asked."""
    return len(sync.take_dropped())


@st.composite
def recordings(draw):
    """The frames of each camera: different rates and starts, jitter, missing frames."""
    cameras = {}
    for name in "abc"[: draw(st.integers(2, 3))]:
        step_ms = draw(st.sampled_from([20, 33, 40, 100]))
        start_ms = draw(st.integers(0, 120))
        jitter = st.integers(0, 12)
        ms = [start_ms + step_ms * i + draw(jitter) for i in range(draw(st.integers(0, 12)))]
        kept = [t for t in ms if draw(st.integers(0, 4))]
        cameras[name] = [frame(name, seq, t) for seq, t in enumerate(kept)]
    return cameras


def interleaved(draw, cameras):
    """The frames and ends of all cameras in any order, but those of each camera in their order."""
    queues = {name: [*frames, End(name, len(frames))] for name, frames in cameras.items()}
    items = []
    while queues:
        name = draw(st.sampled_from(sorted(queues)))
        items.append(queues[name].pop(0))
        if not queues[name]:
            del queues[name]
    return items


def check_nothing_is_lost(cameras, out, sync):
    """Each stream is in order, ends last, and every frame is either given once or counted as dropped."""
    for name, frames in cameras.items():
        own = [item for item in out if item.stream == name]
        assert isinstance(own[-1], End)
        seqs = [item.seq for item in own[:-1]]
        assert seqs == sorted(set(seqs))
        assert set(seqs) <= {packet.seq for packet in frames}
    given_out = sum(isinstance(item, Packet) for item in out)
    assert given_out + dropped(sync) == sum(map(len, cameras.values()))


@settings(max_examples=150, deadline=None)
@given(st.data(), recordings(), st.sampled_from(["drop", "pass"]))
def test_files_give_the_same_groups_in_any_order_of_reading(data, cameras, incomplete):
    results = []
    for _ in range(2):
        sync = opened(cameras, incomplete=incomplete)
        out = run_through(sync, interleaved(data.draw, cameras))
        check_nothing_is_lost(cameras, out, sync)
        groups = groups_of(out)
        for group in groups:
            times = [cameras[name][seq].pts_ns for name, seq in group.items()]
            assert max(times) - min(times) <= TOLERANCE_MS * MS
            assert len(group) > 1
        results.append(groups)
    assert results[0] == results[1]


@settings(max_examples=150, deadline=None)
@given(st.data(), recordings())
def test_frames_that_are_nearest_to_each_other_are_in_one_group(data, cameras):
    names = sorted(cameras)[:2]
    two = {name: cameras[name] for name in names}
    found = groups_of(run_through(opened(two), interleaved(data.draw, two)))
    times = [[packet.pts_ns for packet in two[name]] for name in names]
    for (i, a), (j, b) in itertools.product(*(list(enumerate(ts)) for ts in times)):
        gap = abs(a - b)
        only = all(abs(a - t) > gap for t in times[1] if t != b) and times[1].count(b) == 1
        only &= all(abs(b - t) > gap for t in times[0] if t != a) and times[0].count(a) == 1
        if only and gap <= TOLERANCE_MS * MS:
            assert dict(zip(names, (i, j), strict=True)) in found


@settings(max_examples=150, deadline=None)
@given(st.data(), recordings(), st.sampled_from(["drop", "pass"]), st.sampled_from([None, 2, ["a", "b"]]))
def test_live_no_frame_waits_longer_than_wait_ms(data, cameras, incomplete, wanted):
    sync = opened([], live=True, incomplete=incomplete, cameras=wanted, wait_ms=100)
    clock = [0]
    sync.now_ns = lambda: clock[0]
    out = []
    for item in interleaved(data.draw, cameras):
        clock[0] += data.draw(st.integers(0, 60)) * MS
        out += run_through(sync, [item])
        for camera in sync.cameras.values():
            for held in camera.held:
                assert clock[0] - held.since_ns <= 100 * MS
    for group in groups_of(out):
        times = [cameras[name][seq].pts_ns for name, seq in group.items()]
        assert max(times) - min(times) <= TOLERANCE_MS * MS
    check_nothing_is_lost(cameras, out, sync)
    assert not sync.cameras


def test_the_moment_is_the_mean_and_differs_between_groups():
    frames = [
        frame("a", 0, 0),
        frame("b", 0, 10),
        frame("a", 1, 33),
        frame("b", 1, 43),
        End("a", 2),
        End("b", 2),
    ]
    out = run_through(opened("ab"), frames)
    assert [(item.stream, item.moment_ns) for item in out if isinstance(item, Packet)] == [
        ("a", 5 * MS), ("b", 5 * MS), ("a", 38 * MS), ("b", 38 * MS)
    ]  # fmt: skip
    still = [frame(name, seq, 0) for seq in range(3) for name in "ab"]
    assert len(groups_of(run_through(opened("ab"), [*still, End("a", 3), End("b", 3)]))) == 3


# A script: `a20` is a frame of camera a at 20 ms, `a!` lost, `a?` back, `a.` its end, `+50`: 50 ms pass.
def live(script, **options):
    sync = opened("abc" if "c" in script else "ab", live=True, wait_ms=100, **options)
    clock, seqs, out = [0], Counter(), []
    sync.now_ns = lambda: clock[0]
    for word in script.split():
        name, rest = word[0], word[1:]
        if name == "+":
            clock[0] += int(rest) * MS
        elif rest in ("!", "?"):
            out += sync.pass_on(Event(name, "lost" if rest == "!" else "back", 0))
        elif rest == ".":
            out += sync.pass_on(End(name, 0))
        else:
            out += sync.process([frame(name, seqs[name], int(rest))])
            seqs[name] += 1
    return sync, out


def shown(item):
    if not isinstance(item, Packet):
        return f"{item.stream}{'.' if isinstance(item, End) else '!'}"
    return f"{item.stream}{item.pts_ns // MS}{'' if item.moment_ns is None else '*'}"


@pytest.mark.parametrize(
    ("script", "options", "expected", "counted"),
    [
        ("a0 b1", {}, "", {}),  # a frame of a that is closer to b1 could still come
        ("a0 b1 a33", {}, "a0* b1*", {"groups": 1}),
        ("a0 b1 a33 b34", {}, "a0* b1* a33* b34*", {"groups": 2}),  # now the frame rate is known
        ("a0 a33 +50 a66", {}, "", {}),
        ("a0 a33 +101 a66", {}, "", {"dropped: a camera is late": 2}),
        ("a0 a33 +101 a66", {"incomplete": "pass"}, "a0 a33", {"passed alone": 2}),
        ("a0 b1 a33 a66 b! +1 a99", {}, "a0* b1* b!", {"groups": 1, "dropped: a camera is lost": 3}),
        ("a0 b1 a33 a66 b! b? +1 a99 b67", {}, "a0* b1* b! b!",
         {"groups": 1, "dropped: a camera is lost": 2, "dropped: no partner in time": 1}),
        ("a0 b100 a99 a133", {}, "a99* b100*", {"groups": 1, "dropped: no partner in time": 1}),
        ("a0 b1 c2 a33 b34 c! a66 b67", {}, "a0* b1* c2* c! a33* b34* a66* b67*", {"groups": 3}),
        ("a0 b1 c100 a33 b34 a66", {}, "", {"dropped: no partner in time": 4}),
        ("a0 b1 c100 a33 b34 a66", {"incomplete": "pass"}, "a0* b1* a33* b34*", {"incomplete groups": 2}),
        ("a0 b1 c100 a33 b34 a66", {"cameras": 2}, "a0* b1* a33* b34*", {"groups": 2}),
        ("c5 a0 b1 c6 a33", {"cameras": ["a", "b"]}, "c5 c6 a0* b1*", {"groups": 1}),
        ("a0 a. b1 b.", {}, "a0* b1* a. b.", {"groups": 1}),  # the end of a waits with its frame
        ("a0 a5 a. b4 b.", {"incomplete": "pass"}, "a0 a5* b4* a. b.", {"groups": 1, "passed alone": 1}),
        ("a500 a533 a0 b1 a33 b34", {}, "a0* b1* a33* b34*", {"groups": 2, "dropped: the clock went back": 2}),
        ("a9000 b0 +60 b33 +60 b66 b99", {}, "",
         {"dropped: a camera is late": 1, "dropped: no partner in time": 4}),
        ("a0 +90 a33 b34 +10 a66 b67", {"cameras": 3}, "", {}),  # a third camera may still give one
        ("a0 +90 a33 b34 +11 a66 b67", {"cameras": 3}, "", {"dropped: a camera is late": 1}),
    ],
)  # fmt: skip
def test_live_table(script, options, expected, counted):
    sync, out = live(script, **options)
    assert " ".join(map(shown, out)) == expected
    assert sync.counters + Counter(f"dropped: {why}" for _, why in sync.take_dropped()) == counted


def test_streams_of_a_topic_need_not_have_the_name_of_the_source():
    sync = opened(["topic"], live=True, cameras=2)
    out = run_through(sync, [frame("x", 0, 0), frame("y", 0, 1), frame("x", 1, 33), frame("y", 1, 34)])
    assert groups_of(out) == [{"x": 0, "y": 0}, {"x": 1, "y": 1}]


@pytest.mark.parametrize("cameras", [["a"], ["a", "a"]])
def test_too_few_cameras_are_refused(cameras):
    with pytest.raises(OptionError, match="two or more different names"):
        Sync.ports({"cameras": cameras})


REGISTRY = {**toys.REGISTRY, "sync": Sync}


def graph(*, options=None, source="numbers", **before):
    toys.graph()  # empties the lists in which toys collect
    last = [*before] or [source]
    nodes = {
        source: {"op": source},
        **{name: {"after": source, **node} for name, node in before.items()},
        "sync": {"op": "sync", "after": last[-1], **(options or {})},
        "collect": {"op": "collect", "after": "sync"},
    }
    return check_graph({"name": "toy", "graph": nodes}, REGISTRY)


def test_sync_has_one_worker_and_one_process():
    with pytest.raises(ConfigError, match=r"sync\.workers: sync works on all streams together"):
        graph(options={"workers": 2})
    with pytest.raises(ConfigError, match="works on all streams together"):
        make_run(graph(), {"a": "5", "b": "5"}, processes=2)


def test_files_of_different_length_and_speed_are_read_in_parallel():
    most = [0]

    class Watched(Sync):
        def process(self, packets):
            most[0] = max(most[0], *(len(camera.held) for camera in self.cameras.values()))
            return super().process(packets)

    # A frame is 10 ms: the fast stream may be 100 frames ahead, and as many more as the edges hold.
    run = Run(graph(options={"tolerance_ms": 1}), {"fast": "400", "slow": "300@1"})
    run._stages[0].operators[0].__class__ = Watched
    run.start()
    run.finish()
    assert groups_of(toys.Collect.packets) == [{"fast": i, "slow": i} for i in range(300)]
    assert most[0] < 130
    assert sorted(toys.Collect.ended) == ["fast", "slow"]


def test_no_frame_is_lost_at_the_ends_of_streams_with_several_workers():
    work = {"op": "same_by_stream", "jitter_ms": 3, "workers": 3}
    run_graph(graph(work=work), {"a": "60", "b": "60", "c": "60"})
    assert len(groups_of(toys.Collect.packets)) == 60
    assert {len(group) for group in groups_of(toys.Collect.packets)} == {3}


def test_a_live_run_goes_on_without_a_camera_that_has_ended():
    run = Run(
        graph(options={"tolerance_ms": 1000, "cameras": 2}),
        {"a": "50@5", "b": "50@5", "c": "10@5"},
        live=True,
    )
    run.start()
    stats = run.finish()
    sync = next(stage for stage in stats.stages if stage.name == "sync")
    assert sync.packets_out == len(toys.Collect.packets)
    lost = sum(sync.dropped.values())
    assert sync.packets_in == sync.packets_out + lost
    assert len(groups_of(toys.Collect.packets)) > 40
    assert sorted(toys.Collect.ended) == ["a", "b", "c"]
