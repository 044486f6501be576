"""An empty cache folder for each test, and a server that can fail."""

from pathlib import Path

import pytest
from faulty_server import FaultyServer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POSESTREAM_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "home"


@pytest.fixture
def server():
    with FaultyServer() as running:
        yield running
