"""Real stages on streams of their own crop, run and decode frames without a race, and no stage waits."""

from __future__ import annotations

import contextlib
import queue
import threading

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engines.backends.pytorch import TorchEngine  # noqa: E402
from engines.contracts.contract import load_contract  # noqa: E402
from engines.conversion.export import random_network  # noqa: E402
from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import DeviceImage  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.estimators.topdown import TopDown  # noqa: E402
from engines.images.yuv import YuvImage, rgb_matrix  # noqa: E402
from tests.support.devices.toy_device import Race  # noqa: E402
from tests.support.devices.watched_device import WatchedWorld  # noqa: E402

pytestmark = pytest.mark.slow

FRAMES, BATCH = 6, 2
BOXES = np.array([[10, 5, 60, 90], [30, 20, 120, 100], [-20, -10, 40, 50]], np.float32)


@pytest.fixture
def world(monkeypatch):
    """A world with one device, which the engines use in place of the CPU."""
    world = WatchedWorld()
    device = world.device("cpu")
    for module in ("engines.estimators.crops", "engines.backends.pytorch", "engines.device.arrays"):
        monkeypatch.setattr(f"{module}.open_device", lambda name: device)
    return world


@pytest.fixture(scope="module")
def contract():
    """RTMPose-t with a smaller input."""
    model, size = load_contract("rtmpose-t-body8"), (64, 96)
    outputs = {
        role: output.model_copy(update={"shape": (-1, 17, 2 * bins)})
        for (role, output), bins in zip(model.outputs.items(), size, strict=True)
    }
    return model.model_copy(
        update={"input": model.input.model_copy(update={"size": size}), "outputs": outputs}
    )


def frame(seed: int) -> YuvImage:
    """A frame of 128x96 px as planes of YUV."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    y, u, v = (cv2.resize(noise[i], (128 >> (i > 0), 96 >> (i > 0))) for i in range(3))
    return YuvImage(y, u, v, rgb_matrix("bt709", full_range=False), lambda: pytest.fail("no stage needs RGB"))


def poses(topdown: TopDown, images: list) -> np.ndarray:
    """Keypoints (images, boxes, 17, 2) of the same boxes in all images."""
    index = np.repeat(np.arange(len(images)), len(BOXES))
    found = topdown(images, index, np.tile(BOXES, (len(images), 1)))
    return found.points.reshape(len(images), len(BOXES), -1, 2)


def run_stages(contract, device, count: int) -> list[list[np.ndarray]]:
    """Run a source and `count` stages that read the same frames at once; returns the poses that each stage finds."""
    pool = SurfacePool(device, 5, wait_s=20)
    network = random_network(contract, 0)
    edges = [queue.Queue(maxsize=2) for _ in range(count)]
    results, errors = [[] for _ in range(count)], []

    def source() -> None:
        for seed in range(FRAMES):
            image = pool.from_host(frame(seed), thread_stream(device))
            for edge in edges:
                put(edge, image)
            del image

    def put(edge: queue.Queue, image: DeviceImage) -> None:
        while not errors:  # a stage that has failed takes nothing any more
            with contextlib.suppress(queue.Full):
                edge.put(image, timeout=0.1)
                return

    def stage(edge: queue.Queue, found: list[np.ndarray]) -> None:
        topdown = TopDown(contract, TorchEngine(contract, network=network, device="cpu"))
        for _ in range(FRAMES // BATCH):
            images = [edge.get(timeout=20) for _ in range(BATCH)]
            found.extend(poses(topdown, images))
            del images
        topdown.close()

    def guarded(work, *given) -> None:
        try:
            work(*given)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(source,))]
    threads += [
        threading.Thread(target=guarded, args=given)
        for given in zip([stage] * count, edges, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_two_stages_find_the_same_as_one_alone_without_a_race(contract, world, monkeypatch):
    (device,) = world.devices
    found = run_stages(contract, device, count=2)
    assert world.races == []
    assert world.waits == {}  # the host only waits for the events of downloads
    monkeypatch.undo()
    (alone,) = run_stages(contract, open_device("cpu"), count=1)
    for of_stage in found:
        np.testing.assert_array_equal(of_stage, alone)


def test_a_stage_waits_for_one_event_a_batch(contract, world):
    (device,) = world.devices
    run_stages(contract, device, count=1)
    names = [name.partition("@")[0] for who, name in world.log if who == "host"]
    stage = max(set(names), key=names.count)
    loaded_and_closed = 2
    assert FRAMES // BATCH <= names.count(stage) <= FRAMES // BATCH + loaded_and_closed


def test_a_stage_that_does_not_wait_is_caught(contract, world, monkeypatch):
    (device,) = world.devices
    monkeypatch.setattr(
        DeviceImage,
        "ready",
        property(lambda self: device.new_stream().record(), lambda self, ready: None),
        raising=False,
    )
    with pytest.raises(Race, match="may read memory that is still being written"):
        run_stages(contract, device, count=1)
