"""Fixtures for tests of frames on a device."""

import pytest


@pytest.fixture
def pools(monkeypatch):
    """The pools that were made; they wait for a surface for 0.1 s only."""
    pytest.importorskip("torch")
    from engines.device.pool import SurfacePool
    from operators.decoding import device_frames

    made = []

    def make(*arguments):
        made.append(SurfacePool(*arguments, wait_s=0.1))
        return made[-1]

    monkeypatch.setattr(device_frames, "SurfacePool", make)
    return made
