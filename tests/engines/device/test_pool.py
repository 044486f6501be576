"""Surfaces are bounded, used again and never overwritten while somebody reads them, whatever the schedule."""

from __future__ import annotations

import functools
import gc
import queue
import random
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from toy_device import Race  # noqa: E402
from toy_world import World  # noqa: E402

from engines.device import transfers  # noqa: E402
from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import PendingReads  # noqa: E402
from engines.device.plane_layout import LayoutError, plane_shapes  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.device.transfers import KeepAlive, StagingBuffers  # noqa: E402
from engines.errors import EngineError  # noqa: E402

SIZE = (6, 4)  # width, height


def picture(value: int, size=SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, np.uint8)


@pytest.fixture
def cpu():
    return open_device("cpu")


def test_a_surface_comes_back_with_its_image(cpu):
    pool = SurfacePool(cpu, 2)
    images = [pool.from_host(picture(i), thread_stream(cpu)) for i in range(2)]
    assert (pool.held, pool.allocated) == (2, 2)
    del images[0]
    assert pool.held == 1


def test_nothing_is_allocated_in_steady_state():
    world = World(eager=0.7)
    device = world.device()
    pool, stream = SurfacePool(device, 3), device.new_stream()
    recent = []
    for seq in range(50):
        recent = [*recent[-1:], pool.from_host(picture(seq % 256), stream)]
        if seq == 10:
            before = (pool.allocated, device.allocated, device.page_locked)
    assert (pool.allocated, device.allocated, device.page_locked) == before
    assert pool.allocated <= 3
    assert device.page_locked <= 4


def test_a_pool_that_is_held_says_so(cpu):
    pool = SurfacePool(cpu, 2, wait_s=0.05)
    images = [pool.from_host(picture(i), thread_stream(cpu)) for i in range(2)]
    with pytest.raises(
        EngineError, match=r"cpu was free for 0.05 s, 2 of 2 are held .* give decode more surfaces"
    ):
        pool.from_host(picture(3), thread_stream(cpu))
    del images


def test_who_waits_gets_what_another_thread_drops(cpu):
    pool = SurfacePool(cpu, 1)
    held = [pool.from_host(picture(1), thread_stream(cpu))]
    timer = threading.Timer(0.05, held.clear)
    timer.start()
    image = pool.from_host(picture(2), thread_stream(cpu))
    timer.join()
    assert image.rgb[0, 0, 0] == 2
    assert pool.allocated == 1


def test_an_image_that_only_the_garbage_collector_finds_comes_back(cpu):
    pool = SurfacePool(cpu, 1)
    ring = [pool.from_host(picture(1), thread_stream(cpu))]
    ring.append(ring)
    del ring
    gc.collect()
    assert pool.held == 0


def test_another_size_takes_the_place_of_a_free_surface(cpu):
    pool = SurfacePool(cpu, 1)
    for size in ((8, 6), (5, 3), (8, 6)):
        assert pool.from_host(picture(9, size), thread_stream(cpu)).shape == (*size[::-1], 3)
    assert (pool.allocated, pool.held) == (3, 0)


def test_a_picture_that_cannot_be_uploaded_costs_no_surface(cpu, monkeypatch):
    pool = SurfacePool(cpu, 1, wait_s=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "copy", lambda *_: (_ for _ in ()).throw(RuntimeError("lost")), raising=False)
        for _ in range(6):  # more than there are page-locked buffers
            with pytest.raises(RuntimeError, match="lost"):
                pool.from_host(picture(1), thread_stream(cpu))
    assert pool.from_host(picture(2), thread_stream(cpu)).rgb[0, 0, 0] == 2


class Decoder:
    """One that has few surfaces of its own, which it overwrites once their frames are gone, as NVDEC does."""

    class Frame:
        def __init__(self, planes, slot, free):
            self.planes, self._slot, self._free = planes, slot, free

        def __del__(self):
            self._free.append(self._slot)

    def __init__(self, device, layout="nv12", count=3):
        self.stream = device._legacy
        self.free = [
            [
                device.empty(int(np.prod(shape)), self.stream).view(shape)
                for shape in plane_shapes(layout, SIZE)
            ]
            for _ in range(count)
        ]

    def decode(self, value: int):
        planes = self.free.pop(0)  # IndexError: no decoder surfaces left
        for plane in planes:
            self.stream.launch(lambda to: to.fill_(value), writes=[plane])
        return Decoder.Frame(planes, planes, self.free)


def copied(pool, frame, stream, kept):
    return pool.from_device(frame.planes, None, stream, pool.device.legacy_stream_event(), frame, kept)


@pytest.mark.parametrize("seed", range(10))
def test_a_decoders_frames_are_copied_before_it_has_them_back(seed):
    world = World(seed)
    device = world.device()
    pool, decoder, kept, stream = SurfacePool(device, 2), Decoder(device), KeepAlive(2), device.new_stream()
    for value in range(20):
        image = copied(pool, decoder.decode(value), stream, kept)
        with image.reading(stream) as planes:
            found = device.download({"y": planes[0], "uv": planes[1]}, stream)
        assert (found["y"] == value).all()
        assert (found["uv"] == value).all()
        assert found["uv"].shape == (2, 3, 2)
        del image
    kept.close()
    assert len(decoder.free) == 3
    assert world.races == []


def test_the_host_waits_rather_than_that_a_decoder_runs_dry():
    world = World(eager=0)
    device = world.device()
    pool, decoder, kept, stream = SurfacePool(device, 8), Decoder(device), KeepAlive(2), device.new_stream()
    images = [copied(pool, decoder.decode(value), stream, kept) for value in range(8)]
    assert len(kept) == 2
    assert len([who for who, _ in world.log if who == "host"]) == 6
    assert len(images) == 8


def test_a_decoder_that_gets_its_frame_back_too_early_is_caught():
    world = World(eager=0)
    device = world.device()
    pool, decoder, stream = SurfacePool(device, 2), Decoder(device, count=1), device.new_stream()

    class Careless(KeepAlive):
        def keep(self, owner, until):
            pass

    copied(pool, decoder.decode(1), stream, Careless())
    with pytest.raises(Race, match="may write what is still being read"):
        decoder.decode(2)


def test_a_copy_that_does_not_wait_for_the_decoder_is_caught():
    world = World(eager=0)
    device = world.device()
    pool, decoder, stream = SurfacePool(device, 2), Decoder(device), device.new_stream()
    too_early = device.legacy_stream_event()
    frame = decoder.decode(1)
    with pytest.raises(Race, match="may read what is still being written"):
        pool.from_device(frame.planes, None, stream, too_early, frame, KeepAlive())
    assert pool.held == 0


def test_ten_bits_are_refused_before_a_surface_is_taken(cpu):
    pool = SurfacePool(cpu, 1)
    planes = [torch.zeros(shape, dtype=torch.uint16) for shape in plane_shapes("nv12", SIZE)]
    with pytest.raises(LayoutError, match=r"uint16 .*device: cpu"):
        pool.from_device(planes, None, thread_stream(cpu), cpu.legacy_stream_event(), None, KeepAlive())
    assert pool.allocated == 0


def test_a_pool_that_forgets_the_readers_is_caught(monkeypatch):
    monkeypatch.setattr(PendingReads, "wait_before_write", lambda self, stream: None)
    device = World(eager=0).device()
    pool, writer, reader = SurfacePool(device, 1), device.new_stream(), device.new_stream()
    image = pool.from_host(picture(1), writer)
    with image.reading(reader) as (plane,):
        reader.launch(lambda source: None, reads=[plane])
    del image, plane
    with pytest.raises(Race, match="may write what is still being read"):
        pool.from_host(picture(2), writer)


def test_staging_that_is_refilled_too_early_is_caught(monkeypatch):
    monkeypatch.setattr(transfers.StagingBuffers, "upload", careless_upload)
    world = World(eager=0)
    device = world.device()
    pool, stream = SurfacePool(device, 8), device.new_stream()
    images = [pool.from_host(picture(value), stream) for value in range(8)]
    world.finish()
    assert "page-locked memory was refilled" in world.races[0]
    assert len(images) == 8


def careless_upload(self, fill, to, stream):
    buffer, _ = self._buffers.get()
    buffer = self._device.pinned(len(to)) if buffer is None else buffer
    fill(buffer)
    self._device.copy(to, buffer, stream)
    self._buffers.put((buffer, None))
    return stream.record()


def test_staging_is_shared_by_threads():
    world = World(seed=1)
    device = world.device()
    staging, failures = StagingBuffers(device, limit=2), []

    def upload(value: int) -> None:
        stream = thread_stream(device)
        memory = device.empty(64, stream)
        for number in range(value, value + 20):
            staging.upload(functools.partial(torch.Tensor.fill_, value=number), memory, stream)
            if not (device.download({"all": memory}, stream)["all"] == number).all():
                failures.append(number)

    run_threads([lambda value=value: upload(value) for value in range(0, 200, 50)])
    assert (failures, world.races) == ([], [])


def run_threads(works) -> None:
    """Run each in a thread; raise the first error of one at once, though others may wait for it for ever."""
    done = queue.SimpleQueue()

    def guarded(work) -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    for work in works:
        threading.Thread(target=guarded, args=(work,), daemon=True).start()
    for _ in works:
        if error := done.get(timeout=60):
            raise error


def run_graph(seed: int, *, frames: int = 12, limit: int = 5) -> World:
    """Two decoders, two stages that read the same images at once, one on another device, and a sink."""
    world = World(seed)
    near, far = world.device("toy:0"), world.device("toy:1")
    pool = SurfacePool(near, limit)
    edges = [queue.SimpleQueue() for _ in range(4)]
    wrong = queue.SimpleQueue()
    dice = [random.Random(seed * 10 + i) for i in range(6)]

    def decode_on_host() -> None:
        stream = thread_stream(near)
        for value in range(frames):
            hand_on(pool.from_host(picture(value), stream), value)

    def decode_on_device() -> None:
        decoder, kept, stream = Decoder(near, "rgb"), KeepAlive(2), thread_stream(near)
        for value in range(100, 100 + frames):
            hand_on(copied(pool, decoder.decode(value), stream, kept), value)
        kept.close()

    def hand_on(image, value) -> None:
        for edge in edges:
            edge.put((image, value))

    def stage(edge, device, dice) -> None:
        """Kernels read images, one at a time or several; what they find comes back."""
        left = 2 * frames
        while left:
            batch = [edge.get() for _ in range(min(left, dice.choice((1, 1, 2))))]
            left -= len(batch)
            stream = thread_stream(device)
            for image, value in batch:
                look(image.on(device, stream), value, stream, dice)
            del batch, image

    def look(image, value, stream, dice) -> None:
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
def test_a_graph_of_threads_is_free_of_races(seed):
    world = run_graph(seed)
    assert world.races == []
    assert "host" in {who for who, _ in world.log}


def test_a_pool_that_is_dropped_while_the_device_reads():
    world = World(eager=0)
    device = world.device()
    stream, reader = device.new_stream(), device.new_stream()
    image = SurfacePool(device, 1).from_host(picture(7), stream)
    found = []
    with image.reading(reader) as (plane,):
        reader.launch(lambda source: found.append(int(source.max())), reads=[plane])
    del image, plane
    gc.collect()
    other = SurfacePool(device, 1).from_host(picture(8), stream)
    world.finish()
    assert found == [7]
    assert world.races == []
    assert other.shape == (4, 6, 3)


def test_a_pool_that_is_dropped_while_another_stream_writes():
    world = World(eager=0)
    device = world.device()
    first, second = device.new_stream(), device.new_stream()
    pool = SurfacePool(device, 1)
    pool.from_host(picture(1), first)  # which allocates the surface
    pool.from_host(picture(2), second)
    del pool
    gc.collect()
    SurfacePool(device, 1).from_host(picture(3), first)
    assert device.allocated == 2
    assert world.races == []


def test_a_surface_is_used_again_once_what_was_given_to_it_before_an_error_has_run(monkeypatch):
    world = World(eager=0)
    device = world.device()
    pool, decoder, first, second = (
        SurfacePool(device, 1),
        Decoder(device),
        device.new_stream(),
        device.new_stream(),
    )
    copy = device.copy

    def copy_once(to, source, stream) -> None:
        copy(to, source, stream)
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(device, "copy", copy_once)
        with pytest.raises(RuntimeError, match="middle"):
            copied(pool, decoder.decode(1), first, KeepAlive())
    image = copied(pool, decoder.decode(2), second, KeepAlive())  # raises where it would not wait
    with image.reading(second) as planes:
        found = device.download(dict(zip("ab", planes, strict=True)), second)
    assert all((array == 2).all() for array in found.values())
    assert (pool.allocated, world.races) == (1, [])


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
