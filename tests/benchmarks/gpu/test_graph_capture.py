"""The part of first.py that records CUDA graphs, with graphs that are stand-ins on the host."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from steps import Place, device

from engines.device import cuda_graphs


class Graph:
    """Runs the work when it is launched."""

    def __init__(self, enqueue, stream):
        self.enqueue = enqueue

    def launch(self, stream):
        self.enqueue(stream)


class Idle(Graph):
    """Runs nothing."""

    def launch(self, stream):
        pass


@pytest.fixture
def place(monkeypatch):
    """The CPU, taken for a GPU."""
    monkeypatch.setattr(Place, "dry", False)
    monkeypatch.setattr(device, "CAPTURES", 3)
    return Place("cpu", "", "")


def test_graphs_are_replayed_while_another_thread_works(place, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "CudaGraph", Graph)
    (row,) = device.graph_capture(place)
    assert row["captures"] == 3
    assert row["rounds_of_the_other_thread"] > 0


def test_a_graph_with_a_wrong_result_fails(place, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "CudaGraph", Idle)
    with pytest.raises(RuntimeError, match="3 graphs gave 10, expected 40"):
        list(device.graph_capture(place))
