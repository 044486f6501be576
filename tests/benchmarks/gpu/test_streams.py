"""A graph that fails while it is measured is reported with its own error."""

from types import SimpleNamespace

import pytest
import toys
from measuring import streams

from pipeline.errors import RunError


def test_the_error_of_a_failed_graph_is_raised_not_that_of_the_source_that_came_too_late():
    load = SimpleNamespace(
        graph=lambda: toys.graph(broken={"op": "fail_open"}),
        clip="10",
        persons=1,
        device="cpu",
        torch_ways={},
    )
    with pytest.raises(RunError, match="broken failed while it was being opened: OSError: no such device"):
        streams.measure(load, streams=2, seconds=1, live=False)
