"""Many threads share the surfaces of a pool, in random schedules: no surface is overwritten while it is read."""

from __future__ import annotations

import queue
import random

import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.device.transfers import KeepAlive  # noqa: E402
from tests.support.devices.toy_decoder import SIZE, ToyDecoder, copy_frame, picture, run_threads  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402


def run_graph(seed: int, *, frames: int = 12, limit: int = 5) -> World:
    """Run two decoders, three stages that read the same images at once, one of them on another device, and a sink."""
    world = World(seed)
    near, far = world.device("toy:0"), world.device("toy:1")
    pool = SurfacePool(near, limit)
    edges = [queue.SimpleQueue() for _ in range(4)]
    wrong = queue.SimpleQueue()
    dice = [random.Random(seed * 10 + i) for i in range(6)]

    def decode_on_host() -> None:
        stream = thread_stream(near)
        for value in range(frames):
            put_on_edges(pool.from_host(picture(value), stream), value)

    def decode_on_device() -> None:
        decoder, kept, stream = ToyDecoder(near, "rgb"), KeepAlive(2), thread_stream(near)
        for value in range(100, 100 + frames):
            put_on_edges(copy_frame(pool, decoder.decode(value), stream, kept), value)
        kept.close()

    def put_on_edges(image, value) -> None:
        for edge in edges:
            edge.put((image, value))

    def stage(edge, device, dice) -> None:
        """Read images with kernels, one or two at a time, and check what they have read."""
        left = 2 * frames
        while left:
            batch = [edge.get() for _ in range(min(left, dice.choice((1, 1, 2))))]
            left -= len(batch)
            stream = thread_stream(device)
            for image, value in batch:
                check(image.on(device, stream), value, stream, dice)
            del batch, image

    def check(image, value, stream, dice) -> None:
        result = stream.device.empty(SIZE[0] * SIZE[1] * 3, stream)
        try:
            with image.reading(stream) as (plane,):
                stream.launch(lambda source, to: to.copy_(source.reshape(-1)), reads=[plane], writes=[result])
                if dice.random() < 0.2:
                    raise RuntimeError("a stage that fails")
        except RuntimeError:
            return
        found = stream.device.download({"sum": result}, stream)["sum"]
        if not (found == value).all():
            wrong.put((value, found))

    def sink(edge) -> None:
        for _ in range(2 * frames):
            image, value = edge.get()
            if not (image.rgb == value).all():
                wrong.put((value, image.rgb))
            del image

    run_threads(
        [
            decode_on_host,
            decode_on_device,
            lambda: stage(edges[0], near, dice[0]),
            lambda: stage(edges[1], near, dice[1]),
            lambda: stage(edges[2], far, dice[2]),
            lambda: sink(edges[3]),
        ]
    )
    world.finish()
    assert wrong.empty(), wrong.get()
    assert pool.allocated <= limit
    return world


@pytest.mark.parametrize("seed", range(20))
def test_a_graph_of_threads_has_no_races(seed):
    world = run_graph(seed)
    assert world.races == []
    assert "host" in {who for who, _ in world.log}


@pytest.mark.gpu
def test_surfaces_of_a_gpu_under_load():
    device = open_device("cuda")
    pool, edge = SurfacePool(device, 3), queue.SimpleQueue()
    wrong = []

    def decode() -> None:
        for value in range(200):
            edge.put((pool.from_host(picture(value, (640, 480)), thread_stream(device)), value))

    def stage() -> None:
        stream = thread_stream(device)
        for _ in range(200):
            image, value = edge.get()
            with image.reading(stream) as (plane,), stream.use():
                torch.cuda._sleep(100_000)
                found = device.download({"all": plane.amin().view(1), "most": plane.amax().view(1)}, stream)
            if [int(array[0]) for array in found.values()] != [value, value]:
                wrong.append(value)
            del image, plane

    run_threads([decode, stage])
    assert wrong == []
    assert pool.allocated == 3
