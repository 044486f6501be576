"""When work is recorded and when it is replayed, with a recorder of the host's."""

import logging

import pytest

from engines.device.cuda_graphs import Graphs
from engines.errors import EngineError


class Record:
    """Notes what is recorded and launched; the work that is recorded does not run."""

    def __init__(self, told):
        self.told = told

    def __call__(self, enqueue, stream):
        before = len(self.told)
        enqueue()
        self.work = self.told[before:]
        del self.told[before:]
        self.told.append("recorded")
        return self

    def launch(self, stream):
        self.told.append(f"replayed {self.work}")


def run(graphs, told, kinds, **how):
    told.clear()
    for kind in kinds:
        graphs.run(kind, lambda kind=kind: told.append(kind), None, **how)
    return told


def test_the_second_use_is_recorded_and_all_later_ones_replayed():
    told = []
    graphs = Graphs("toy", wanted=True, record=lambda *given: Record(told)(*given))
    assert run(graphs, told, [4, 8, 4, 4, 8]) == [
        4, 8, "recorded", "replayed [4]", "replayed [4]", "recorded", "replayed [8]",
    ]  # fmt: skip
    assert graphs.recorded.keys() == {4, 8}
    graphs.forget({8, 16})
    assert run(graphs, told, [8, 8, 4]) == [8, "recorded", "replayed [8]", "replayed [4]"]


@pytest.mark.parametrize(("wanted", "fixed"), [(False, True), (True, False)])
def test_what_is_not_to_be_recorded_is_handed_in_each_time(wanted, fixed):
    told = []
    graphs = Graphs("toy", wanted=wanted, record=Record(told))
    assert run(graphs, told, [1, 1, 1], fixed=fixed) == [1, 1, 1]


def test_what_cannot_be_recorded_is_said_once_and_still_runs(caplog):
    def record(enqueue, stream):
        raise EngineError("cudaStreamEndCapture: operation failed (CUDA error 901)")

    told = []
    graphs = Graphs("toy", wanted=True, record=record)
    with caplog.at_level(logging.WARNING, "posestream.device"):
        assert run(graphs, told, [1, 1, 1, 2, 2]) == [1, 1, 1, 2, 2]
    (said,) = caplog.messages
    assert said.startswith("toy: no CUDA graph of it, each run is handed in as it is: cudaStreamEndCapture")
