"""Videos for tests of several operators."""

import pytest

from tests.support.videos.grey_videos import FRAMES, KINDS, grey, make_video
from tests.support.videos.small_videos import small_video


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """40 frames of H.264."""
    return small_video(tmp_path_factory.mktemp("video") / "plain.mp4")


@pytest.fixture(scope="session")
def grey_videos(tmp_path_factory):
    """Videos of 50 frames that show their numbers, by (codec, container)."""
    folder = tmp_path_factory.mktemp("grey")
    images = [grey(i) for i in range(FRAMES)]
    return {(codec, kind): make_video(folder / f"{codec}.{kind}", images, codec) for codec, kind in KINDS}
