"""What tests of several operators look at."""

import pytest

from tests.support.small_videos import small_video


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """40 frames of H.264."""
    return small_video(tmp_path_factory.mktemp("video") / "plain.mp4")
