"""Fixtures for tests that connect to cameras."""

import pytest

from tests.support.videos.live_reader import camera_threads, until


@pytest.fixture(autouse=True)
def all_connections_end():
    yield
    until(lambda: not camera_threads(), "end of the connections' threads", within_s=40)
