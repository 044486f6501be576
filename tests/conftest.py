"""Model weights and sample clips for tests, from the user's own cache; skipped with the reason without."""

import functools

import pytest

from engines.assets.clips import load_clip
from engines.assets.store import fetch
from engines.contracts.contract import load_contract
from engines.device.names import cuda_devices
from engines.errors import AssetError

pytest_plugins = [
    "tests.support.kafka.kafka_fixtures",
    "tests.support.videos.rtsp_fixtures",
]  # a real broker, a real camera


# What makes a test slow wherever it is used.
KAFKA = {"kafka", "own_kafka", "kafka_cluster"}
SLOW = KAFKA | {"rtsp", "guarded_rtsp", "small", "small_home"}


def pytest_collection_modifyitems(config, items):
    """Mark slow tests by their fixtures, and keep files together, so that each worker makes few fixtures."""
    for item in items:
        fixtures = set(item.fixturenames)
        if fixtures & SLOW:
            item.add_marker("slow")
        if config.pluginmanager.hasplugin("xdist"):
            group = "kafka" if fixtures & KAFKA else str(item.path)  # one broker for all
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not cuda_devices():
        pytest.skip("no CUDA device")


@functools.cache  # a source that cannot be reached is asked only once
def path_or_reason(load, name):
    try:
        return fetch(load(name).asset)
    except AssetError as error:
        return str(error)


def fetched(load, name):
    found = path_or_reason(load, name)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def weights():
    """A function from a model's name to the path of its weights."""
    return functools.partial(fetched, load_contract)


@pytest.fixture(scope="session")
def clip():
    """A function from a sample clip's name to its path."""
    return functools.partial(fetched, load_clip)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small real RTMPose: its checkpoint, and the export that took some seconds."""
    for library in ("torch", "onnx", "onnxscript", "onnxslim"):
        pytest.importorskip(library)
    from tests.support.models.small_rtmpose import make

    home = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSESTREAM_HOME", str(home))
        return make(home)


@pytest.fixture
def small_home(small, monkeypatch):
    """The same, with its folder as POSESTREAM_HOME."""
    monkeypatch.setenv("POSESTREAM_HOME", str(small.home))
    load_contract.cache_clear()
    yield small
    load_contract.cache_clear()
