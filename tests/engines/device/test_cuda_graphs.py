"""Which runs are queued directly, recorded and replayed; the graphs are stand-ins on the host."""

import logging

import pytest

pytest.importorskip("torch")

from engines.device.cuda_graphs import ATTEMPTS, CudaGraphs
from engines.device.devices import open_device
from engines.errors import EngineError

CPU = open_device("cpu")
STREAM = CPU.new_stream()


class FakeGraph:
    """Records work without running it; recording and replaying are noted in `log`, as the work itself is."""

    def __init__(self, log):
        self.log = log

    def __call__(self, enqueue, stream):
        before = len(self.log)
        enqueue(stream)
        self.work = self.log[before:]
        del self.log[before:]
        self.log.append("recorded")
        return self

    def launch(self, stream):
        self.log.append(f"replayed {self.work}")


def run(graphs, log, kinds, **options):
    log.clear()
    for kind in kinds:
        graphs.run(kind, lambda _, kind=kind: log.append(kind), STREAM, **options)
    return log


def test_the_second_run_is_recorded_and_all_later_ones_replayed():
    log = []
    graphs = CudaGraphs("toy", CPU, enabled=True, record=lambda *given: FakeGraph(log)(*given))
    assert run(graphs, log, [4, 8, 4, 4, 8]) == [
        4, 8, "recorded", "replayed [4]", "replayed [4]", "recorded", "replayed [8]",
    ]  # fmt: skip
    assert graphs.recorded.keys() == {4, 8}
    graphs.forget({8, 16})
    assert run(graphs, log, [8, 8, 4]) == [8, "recorded", "replayed [8]", "replayed [4]"]


@pytest.mark.parametrize(("enabled", "fixed"), [(False, True), (True, False)])
def test_work_that_must_not_be_recorded_is_queued_directly_each_time(enabled, fixed):
    log = []
    graphs = CudaGraphs("toy", CPU, enabled=enabled, record=FakeGraph(log))
    assert run(graphs, log, [1, 1, 1], fixed=fixed) == [1, 1, 1]


def test_graphs_are_recorded_on_one_stream_that_runs_nothing():
    recorded_on, ran_on = [], []

    class Graph:
        def __init__(self, enqueue, stream):
            recorded_on.append(stream)

        def launch(self, stream):
            ran_on.append(stream)

    graphs = CudaGraphs("toy", CPU, enabled=True, record=Graph)
    for kind in (1, 1, 2, 2):
        graphs.run(kind, ran_on.append, STREAM)
    assert ran_on == [STREAM] * 4
    assert len(recorded_on) == 2
    assert recorded_on[0] is recorded_on[1] is not STREAM


def failing(log, failures):
    """Makes graphs of which the first `failures` cannot be recorded."""
    made = []

    def record(enqueue, stream):
        made.append(stream)
        if len(made) <= failures:
            raise EngineError("cudaStreamEndCapture: operation failed (CUDA error 901)")
        return FakeGraph(log)(enqueue, stream)

    return record


def test_after_three_failures_the_log_says_so_and_the_work_still_runs(caplog):
    log = []
    graphs = CudaGraphs("toy", CPU, enabled=True, record=failing(log, ATTEMPTS))
    with caplog.at_level(logging.WARNING, "posestream.device"):
        assert run(graphs, log, [1, 1, 1, 2, 2, 1, 2]) == [1, 1, 1, 2, 2, 1, 2]
    (message,) = caplog.messages
    assert message.startswith(
        "toy: CUDA cannot record a graph of it, so every run is queued call by call: cudaStreamEndCapture"
    )


def test_a_recording_that_failed_by_chance_is_tried_again(caplog):
    log = []
    graphs = CudaGraphs("toy", CPU, enabled=True, record=failing(log, ATTEMPTS - 1))
    assert run(graphs, log, [1, 1, 1, 1]) == [1, 1, 1, "recorded", "replayed [1]"]
    assert not caplog.messages
