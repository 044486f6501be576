"""Sources that come and go for years: a run keeps figures of the last ones, and sums of all others."""

import gc
import time
import weakref

import numpy as np
import pytest
import toys

from pipeline.graph import check_graph
from pipeline.operator import Source
from pipeline.run import Run


@pytest.fixture
def run(monkeypatch):
    """A live run that drops some packets, and keeps the figures of two ended sources."""
    monkeypatch.setattr("pipeline.sources.ENDED_KEPT", 2)
    run = Run(toys.graph(slow={"op": "slow", "ms": 3}), live=True, keep_open=True)
    run.start()
    yield run
    run.stop()
    assert run.wait(20)


def visit(run: Run, name: str, uri: str) -> None:
    """Attach a source and wait until it has ended."""
    ended = toys.Collect.ended.count(name)
    run.add_source(name, uri)
    deadline = time.monotonic() + 20
    while run.sources() or toys.Collect.ended.count(name) == ended or not has_ended(run, name):
        assert time.monotonic() < deadline, name
        time.sleep(0.005)


def has_ended(run: Run, name: str) -> bool:
    return next(stream.ended for stream in run.stats().streams if stream.name == name)


def seqs(name: str) -> list[int]:
    return [packet.seq for packet in toys.Collect.packets if packet.stream == name]


def test_sources_that_ended_long_ago_are_only_in_the_sums(run):
    for number in range(6):
        visit(run, f"visitor{number}", f"{20 + number}@1")
        stats = run.stats()
        read = sum(20 + n for n in range(number + 1))
        assert stats.past.streams + len(stats.streams) == number + 1
        assert stats.past.read + sum(stream.read for stream in stats.streams) == read
        assert stats.stages[0].packets_out == read
        assert stats.finished == len(toys.Collect.packets) == read - stats.dropped
        assert all(e.received == e.delivered + sum(e.dropped.values()) + e.in_flight for e in stats.edges)
        assert all(stream.read == stream.finished + stream.dropped for stream in stats.streams)
        assert not stats.faults
    assert [stream.name for stream in stats.streams] == ["visitor3", "visitor4", "visitor5"]
    assert stats.dropped > 0


def test_a_window_includes_streams_that_were_forgotten_in_it(run):
    for number in range(3):
        visit(run, f"visitor{number}", "20@1")
    before, finished = run.stats(), len(toys.Collect.packets)
    for number in range(3, 6):
        visit(run, f"visitor{number}", "20@1")
    window = run.stats().since(before)
    assert window.finished == len(toys.Collect.packets) - finished
    assert window.dropped == run.stats().dropped - before.dropped
    assert window.past.read + sum(stream.read for stream in window.streams) == 60


def test_frames_of_a_forgotten_name_go_on_where_they_were(run):
    visit(run, "yard", "10@6")
    for number in range(4):
        visit(run, f"visitor{number}", "1")
    assert "yard" not in [stream.name for stream in run.stats().streams]
    visit(run, "yard", "5@6")
    assert seqs("yard") == [*range(15)]  # so that (stream, seq) names one frame
    assert {packet.epoch for packet in toys.Collect.packets if packet.seq >= 10} == {1}
    yard = next(stream for stream in run.stats().streams if stream.name == "yard")
    assert (yard.read, yard.finished, yard.dropped) == (5, 5, 0)  # its figures begin anew
    assert run.stats().finished == 19


@pytest.mark.parametrize("sinks", [1, 2])
def test_no_picture_outlives_its_stream(sinks):
    pictures: list[weakref.ref[np.ndarray]] = []

    class Pictures(Source):
        def read(self, stream, uri):
            for seq in range(5):
                picture = np.zeros((4, 4, 3), np.uint8)
                pictures.append(weakref.ref(picture))
                yield toys.packet(stream, seq, picture=picture)

    nodes = {f"sink{number}": {"op": "same", "after": "pictures"} for number in range(sinks)}
    graph = check_graph(
        {"name": "toy", "graph": {"pictures": {"op": "pictures"}, **nodes}},
        {"pictures": Pictures, "same": toys.Same},
    )
    run = Run(graph, live=True, keep_open=True)
    run.start()
    run.add_source("yard", "")
    deadline = time.monotonic() + 20
    while len(pictures) < 5 or any(picture() is not None for picture in pictures):
        assert time.monotonic() < deadline, "a picture is still held"
        gc.collect()
        time.sleep(0.01)
    run.stop()
    assert run.wait(20)
