"""One run in several processes: the same results and figures as in one, and no process is left over."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import toys

from pipeline.errors import ConfigError, PipelineError, RunError, SinkError, SourceError
from pipeline.graph import check_graph
from pipeline.make_run import make_run, run_graph
from pipeline.measurement.run_stats import RunStats
from pipeline.operator import Operator
from pipeline.processes.split_run import SplitRun, shares
from pipeline.run import Run

ENDLESS = "1000000@1"


def graph_writing_to(folder: Path, **nodes: dict[str, object]) -> object:
    return toys.graph(
        **nodes, write={"op": "write", "dir": str(folder)}, collect={"op": "collect", "after": "write"}
    )


def written(folder: Path, stream: str) -> tuple[list[int], str]:
    """The frames in a stream's file, and its last line; fails unless the stream has ended."""
    *seqs, end = (folder / stream).read_text().splitlines()
    assert end.startswith("end of ")
    return [int(seq) for seq in seqs], end


def countable(stats: RunStats) -> object:
    """The figures that must not depend on the number of processes."""
    return (
        stats.graph,
        [(stage.name, stage.packets_in, stage.packets_out, stage.counters) for stage in stats.stages],
        [dataclasses.astuple(edge) for edge in stats.edges],
        [(s.name, s.read, s.expected, s.finished, s.instances, s.dropped, s.ended) for s in stats.streams],
    )  # fmt: skip


def test_results_and_figures_are_those_of_one_process(tmp_path):
    sources = {f"s{i}": str(n) for i, n in enumerate((40, 0, 7, 300, 25))}
    found = {}
    for processes in (1, 3):
        folder = tmp_path / str(processes)
        folder.mkdir()
        graph = graph_writing_to(
            folder,
            add={"op": "add_field", "workers": 2},
            bad={"op": "fail_at", "seq": 20, "on_error": "skip", "batch": {"max": 1}},
        )
        found[processes] = run_graph(graph, sources, processes=processes)
        ends = set()
        for stream, n in sources.items():
            seqs, end = written(folder, stream)
            assert seqs == [seq for seq in range(int(n)) if seq != 20]
            ends.add(end)
        assert len({end.partition(" in ")[0] for end in ends}) == 1  # one run
        assert len(ends) == processes
    assert countable(found[3]) == countable(found[1])
    assert found[3].dropped == 3
    assert [stage.workers for stage in found[3].stages] == [5, 6, 3, 3, 3]
    assert found[3].stages[1].latency_p95_ms > 0
    assert 0 < found[3].seconds < 5
    assert found[3].cores_busy > 0


def test_waiting_for_the_others_to_start_is_not_part_of_the_run(tmp_path):
    stats = run_graph(graph_writing_to(tmp_path), {"a": "20@5", "b": "20@5"}, processes=2)
    assert 0.1 <= stats.seconds < 0.25


@pytest.mark.parametrize(
    ("do", "error", "message", "cause"),
    [
        ("fail", RunError, "at failed at b frame 300: ValueError: bad frame", ValueError),
        ("refuse", SinkError, "disk full", type(None)),
        ("fail_oddly", RunError, "this and that", type(None)),
        (
            "die",
            RunError,
            "the process of b was killed by SIGKILL; if memory ran out, take fewer",
            type(None),
        ),
        ("leave", RunError, "the process of b ended early with exit code 7", type(None)),
    ],
)
def test_a_failure_in_one_process_ends_the_run_and_the_others_finish(tmp_path, do, error, message, cause):
    graph = graph_writing_to(tmp_path, at={"op": "at", "stream": "b", "seq": 300, "do": do})
    with pytest.raises(error, match=message) as failure:
        run_graph(graph, {"a": ENDLESS, "b": "100000"}, processes=2)
    assert isinstance(failure.value.__cause__, cause)
    seqs, _ = written(tmp_path, "a")
    assert seqs == list(range(len(seqs)))


def test_an_operator_that_cannot_open_ends_the_run_before_the_first_frame(tmp_path):
    graph = graph_writing_to(tmp_path, broken={"op": "fail_open"})
    with pytest.raises(RunError, match="broken failed while it was being opened: OSError: no such device"):
        run_graph(graph, {"a": "50", "b": "50"}, processes=2)
    assert not list(tmp_path.iterdir())


def test_a_source_that_is_not_there_is_refused_before_anything_starts(tmp_path, monkeypatch):
    def refuse(self, uri):
        raise SourceError(f"no {uri}")

    monkeypatch.setattr(toys.Numbers, "check", refuse)
    with pytest.raises(SourceError, match="no 5"):
        make_run(toys.graph(), {"a": "5", "b": "5"}, processes=2)


@pytest.mark.parametrize("processes", [1, 2])
def test_each_source_is_checked_once_where_the_run_is_made(tmp_path, processes):
    sources = {stream: str(tmp_path / stream) for stream in "abc"}
    run_graph(toys.graph("logged"), sources | {"again": sources["a"]}, processes=processes)
    here = os.getpid()
    for stream, streams in (("a", 2), ("b", 1), ("c", 1)):
        calls = [line.split() for line in Path(sources[stream]).read_text().splitlines()]
        assert Counter(call for call, _ in calls) == {"check": 1, "expect": streams, "read": streams}
        assert calls[0] == ["check", str(here)]
        assert all((int(process) == here) == (processes == 1) for _, process in calls[1:])


def test_stop_finishes_packets_and_abort_drops_them(tmp_path):
    for action in ("stop", "abort"):
        folder = tmp_path / action
        folder.mkdir()
        run = SplitRun(
            graph_writing_to(folder, work={"op": "slow", "ms": 20, "capacity": 30}),
            {"a": ENDLESS, "b": ENDLESS},
            2,
        )
        run.start()
        while not run.wait(0.05) and run.stats().finished < 10:
            pass
        getattr(run, action)()
        stats = run.finish()
        for stream in stats.streams:
            seqs = written(folder, stream.name)[0]
            # Packets that were written, but had not left the last stage, are dropped as well.
            assert seqs == list(range(len(seqs)))
            assert stream.finished <= len(seqs) <= stream.read
            assert action == "abort" or stream.finished == len(seqs)
            assert stream.ended
        assert (stats.dropped > 0) == (action == "abort")
        assert stats.finished + stats.dropped == sum(stream.read for stream in stats.streams)


def test_a_run_stopped_before_it_starts_reads_nothing(tmp_path):
    run = SplitRun(graph_writing_to(tmp_path), {"a": ENDLESS, "b": ENDLESS}, 2)
    run.stop()
    run.start()
    assert run.finish().finished == 0


def test_log_records_of_all_processes_are_handled_here_at_the_levels_set_here(tmp_path, caplog):
    graph = toys.graph(at={"op": "at", "stream": "b", "seq": 3, "do": "warn"})
    with caplog.at_level(logging.INFO, logger="posestream"):
        run_graph(graph, {"a": "5", "b": "5"}, processes=2)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("posestream.at", "b is odd")
    ]


class Local(toys.Same):
    """An operator in a module that other processes cannot import."""


def test_some_graphs_stay_in_one_process(monkeypatch):
    def across() -> object:
        return toys.graph(together={"op": "across"})

    def of(operator: type[Operator]) -> object:
        nodes = {"numbers": {"op": "numbers"}, "own": {"op": "own", "after": "numbers"}}
        return check_graph({"name": "toy", "graph": nodes}, {**toys.REGISTRY, "own": operator}, "toy.yaml")

    class Inner(toys.Same):
        pass

    main = type("InScript", (toys.Same,), {"__module__": "__main__"})
    sources = {"a": "5", "b": "5"}
    for graph, reason in [
        (across(), r"graph: .*together \(across\) works on all streams together; take 1"),
        (of(Inner), r"toy.yaml: cannot run in 2 processes: the graph cannot be sent .*Inner"),
        (of(main), r"own \(own\) is defined in the script itself, not in a module"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            make_run(graph, sources, processes=2)
        monkeypatch.setattr("os.cpu_count", lambda: 4)
        assert isinstance(make_run(graph, sources, processes=None), Run)
    assert isinstance(make_run(toys.graph(), sources, processes=None), SplitRun)
    assert isinstance(make_run(toys.graph(), {"a": "5"}, processes=None), Run)
    assert isinstance(make_run(dataclasses.replace(toys.graph(), processes=1), sources, processes=None), Run)
    assert isinstance(make_run(toys.graph(), {"a": "5"}, processes=3), Run)
    assert isinstance(
        make_run(toys.graph(), sources), Run
    )  # a second for starting it is only worth it if asked for


def test_an_operator_that_other_processes_cannot_import_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "nowhere", sys.modules[__name__])
    monkeypatch.setattr(Local, "__module__", "nowhere")
    nodes = {"numbers": {"op": "numbers"}, "own": {"op": "nowhere:Local", "after": "numbers"}}
    graph = check_graph({"name": "toy", "graph": nodes}, toys.REGISTRY)
    with pytest.raises(
        PipelineError, match="a process cannot begin: ModuleNotFoundError: No module named 'nowhere'"
    ):
        run_graph(graph, {"a": "5", "b": "5"}, processes=2)


@pytest.mark.parametrize(
    ("sources", "processes", "sizes"), [(4, 2, [2, 2]), (5, 2, [2, 3]), (3, 3, [1, 1, 1]), (7, 3, [2, 2, 3])]
)
def test_sources_are_spread_evenly_and_stay_in_order(sources, processes, sizes):
    given = {f"s{i}": str(i) for i in range(sources)}
    parts = shares(given, processes)
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part.items()] == list(given.items())


SCRIPT = """
import sys
import toys
from pipeline.make_run import run_graph
graph = toys.graph(write={"op": "write", "dir": sys.argv[1]}, collect={"op": "collect", "after": "write"})
run_graph(graph, {"a": "1000000@1", "b": "1000000@1"}, processes=2)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 0)])
def test_no_process_outlives_the_one_that_started_it(tmp_path, number, code):
    """As a script without `if __name__ == "__main__"`: processes do not import it."""
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path[:0] = {sys.path!r}\n{SCRIPT}")
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)  # the output ends once all child processes have ended
    assert process.returncode == code
    assert output == b""
