"""A graph that fails while it is measured is reported with its own error."""

from types import SimpleNamespace

import pytest
import toys
from measuring import streams

from pipeline.errors import RunError
from tests.support.devices.stand_in_driver import Driver, process_with_driver
from tests.support.videos.small_videos import small_video


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


def decoded_on_nvdec(clip: str) -> tuple[list[dict], int, list[str]]:
    """The rows of decoding alone, the decoders that were opened, and the driver's complaints."""
    rows = list(streams.decoded(clip, "cuda:0", [1, 2], seconds=0.2))
    driver = Driver()
    return rows, driver.calls("cuvidCreateDecoder"), driver.faults


@pytest.mark.slow
def test_decoding_alone_is_measured_on_nvdec(tmp_path):
    clip = small_video(tmp_path / "clip.mp4", frames=30)
    with process_with_driver() as run:
        rows, decoders, faults = run(decoded_on_nvdec, str(clip))
    assert [row["streams"] for row in rows] == [1, 2]
    assert all(row["fps"] > 0 for row in rows)
    assert decoders >= 3
    assert faults == []
