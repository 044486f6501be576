"""The surfaces of a pool are bounded, used again, and returned after errors."""

from __future__ import annotations

import gc
import threading

import pytest

torch = pytest.importorskip("torch")

from engines.device.devices import open_device, thread_stream  # noqa: E402
from engines.device.image import PendingReads  # noqa: E402
from engines.device.plane_layout import LayoutError, plane_shapes  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.device.transfers import KeepAlive  # noqa: E402
from engines.errors import EngineError  # noqa: E402
from tests.support.devices.toy_decoder import SIZE, ToyDecoder, copy_frame, picture  # noqa: E402
from tests.support.devices.toy_device import Race  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402


@pytest.fixture
def cpu():
    return open_device("cpu")


def test_a_surface_returns_when_its_image_is_dropped(cpu):
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


def test_a_pool_whose_surfaces_are_all_held_is_an_error(cpu):
    pool = SurfacePool(cpu, 2, wait_s=0.05)
    images = [pool.from_host(picture(i), thread_stream(cpu)) for i in range(2)]
    with pytest.raises(
        EngineError, match=r"cpu was free for 0.05 s, 2 of 2 are held .* give decode more surfaces"
    ):
        pool.from_host(picture(3), thread_stream(cpu))
    del images


def test_a_waiting_thread_gets_the_surface_that_another_drops(cpu):
    pool = SurfacePool(cpu, 1)
    held = [pool.from_host(picture(1), thread_stream(cpu))]
    timer = threading.Timer(0.05, held.clear)
    timer.start()
    image = pool.from_host(picture(2), thread_stream(cpu))
    timer.join()
    assert image.rgb[0, 0, 0] == 2
    assert pool.allocated == 1


def test_a_surface_returns_when_the_garbage_collector_drops_its_image(cpu):
    pool = SurfacePool(cpu, 1)
    ring = [pool.from_host(picture(1), thread_stream(cpu))]
    ring.append(ring)
    del ring
    gc.collect()
    assert pool.held == 0


def test_another_size_replaces_a_free_surface(cpu):
    pool = SurfacePool(cpu, 1)
    for size in ((8, 6), (5, 3), (8, 6)):
        assert pool.from_host(picture(9, size), thread_stream(cpu)).shape == (*size[::-1], 3)
    assert (pool.allocated, pool.held) == (3, 0)


def test_a_failed_upload_returns_its_surface(cpu, monkeypatch):
    pool = SurfacePool(cpu, 1, wait_s=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "copy", lambda *_: (_ for _ in ()).throw(RuntimeError("lost")), raising=False)
        for _ in range(6):  # more often than there are staging buffers
            with pytest.raises(RuntimeError, match="lost"):
                pool.from_host(picture(1), thread_stream(cpu))
    assert pool.from_host(picture(2), thread_stream(cpu)).rgb[0, 0, 0] == 2


def test_ten_bits_are_refused_before_a_surface_is_taken(cpu):
    pool = SurfacePool(cpu, 1)
    planes = [torch.zeros(shape, dtype=torch.uint16) for shape in plane_shapes("nv12", SIZE)]
    with pytest.raises(LayoutError, match=r"uint16 .*device: cpu"):
        pool.from_device(planes, None, thread_stream(cpu), cpu.legacy_stream_event(), None, KeepAlive())
    assert pool.allocated == 0


def test_a_pool_that_does_not_wait_for_readers_is_caught(monkeypatch):
    monkeypatch.setattr(PendingReads, "wait_before_write", lambda self, stream: None)
    device = World(eager=0).device()
    pool, writer, reader = SurfacePool(device, 1), device.new_stream(), device.new_stream()
    image = pool.from_host(picture(1), writer)
    with image.reading(reader) as (plane,):
        reader.launch(lambda source: None, reads=[plane])
    del image, plane
    with pytest.raises(Race, match="may write memory that is still being read"):
        pool.from_host(picture(2), writer)


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
    pool.from_host(picture(1), first)  # this allocates the surface
    pool.from_host(picture(2), second)
    del pool
    gc.collect()
    SurfacePool(device, 1).from_host(picture(3), first)
    assert device.allocated == 2
    assert world.races == []


def test_after_an_error_a_surface_is_reused_only_after_its_queued_work(monkeypatch):
    world = World(eager=0)
    device = world.device()
    pool, decoder, first, second = (
        SurfacePool(device, 1),
        ToyDecoder(device),
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
            copy_frame(pool, decoder.decode(1), first, KeepAlive())
    image = copy_frame(pool, decoder.decode(2), second, KeepAlive())  # a Race if it did not wait
    with image.reading(second) as planes:
        found = device.download(dict(zip("ab", planes, strict=True)), second)
    assert all((array == 2).all() for array in found.values())
    assert (pool.allocated, world.races) == (1, [])
