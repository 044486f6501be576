"""Which runs are queued directly, recorded and replayed; the graphs are stand-ins on the host."""

import logging

import pytest

from engines.device.cuda_graphs import CudaGraphs
from engines.errors import EngineError


class FakeGraph:
    """Records work without running it; recording and replaying are noted in `log`, as the work itself is."""

    def __init__(self, log):
        self.log = log

    def __call__(self, enqueue, stream):
        before = len(self.log)
        enqueue()
        self.work = self.log[before:]
        del self.log[before:]
        self.log.append("recorded")
        return self

    def launch(self, stream):
        self.log.append(f"replayed {self.work}")


def run(graphs, log, kinds, **options):
    log.clear()
    for kind in kinds:
        graphs.run(kind, lambda kind=kind: log.append(kind), None, **options)
    return log


def test_the_second_run_is_recorded_and_all_later_ones_replayed():
    log = []
    graphs = CudaGraphs("toy", enabled=True, record=lambda *given: FakeGraph(log)(*given))
    assert run(graphs, log, [4, 8, 4, 4, 8]) == [
        4, 8, "recorded", "replayed [4]", "replayed [4]", "recorded", "replayed [8]",
    ]  # fmt: skip
    assert graphs.recorded.keys() == {4, 8}
    graphs.forget({8, 16})
    assert run(graphs, log, [8, 8, 4]) == [8, "recorded", "replayed [8]", "replayed [4]"]


@pytest.mark.parametrize(("enabled", "fixed"), [(False, True), (True, False)])
def test_work_that_must_not_be_recorded_is_queued_directly_each_time(enabled, fixed):
    log = []
    graphs = CudaGraphs("toy", enabled=enabled, record=FakeGraph(log))
    assert run(graphs, log, [1, 1, 1], fixed=fixed) == [1, 1, 1]


def test_a_failed_recording_is_logged_once_and_the_work_still_runs(caplog):
    def record(enqueue, stream):
        raise EngineError("cudaStreamEndCapture: operation failed (CUDA error 901)")

    log = []
    graphs = CudaGraphs("toy", enabled=True, record=record)
    with caplog.at_level(logging.WARNING, "posestream.device"):
        assert run(graphs, log, [1, 1, 1, 2, 2]) == [1, 1, 1, 2, 2]
    (message,) = caplog.messages
    assert message.startswith(
        "toy: CUDA cannot record a graph of it, so every run is queued call by call: cudaStreamEndCapture"
    )
