"""Copies from a decoder's memory and through page-locked memory: nothing is overwritten or released before its copy."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from engines.device import transfers  # noqa: E402
from engines.device.devices import thread_stream  # noqa: E402
from engines.device.pool import SurfacePool  # noqa: E402
from engines.device.transfers import KeepAlive, StagingBuffers  # noqa: E402
from tests.support.devices.toy_decoder import ToyDecoder, copy_frame, picture, run_threads  # noqa: E402
from tests.support.devices.toy_device import Race  # noqa: E402
from tests.support.devices.toy_world import World  # noqa: E402


@pytest.mark.parametrize("seed", range(10))
def test_frames_are_copied_before_the_decoder_reuses_them(seed):
    world = World(seed)
    device = world.device()
    pool, decoder, kept, stream = (
        SurfacePool(device, 2),
        ToyDecoder(device),
        KeepAlive(2),
        device.new_stream(),
    )
    for value in range(20):
        image = copy_frame(pool, decoder.decode(value), stream, kept)
        with image.reading(stream) as planes:
            found = device.download({"y": planes[0], "uv": planes[1]}, stream)
        assert (found["y"] == value).all()
        assert (found["uv"] == value).all()
        assert found["uv"].shape == (2, 3, 2)
        del image
    kept.close()
    assert len(decoder.free) == 3
    assert world.races == []


def test_the_host_waits_before_the_decoder_runs_out_of_surfaces():
    world = World(eager=0)
    device = world.device()
    pool, decoder, kept, stream = (
        SurfacePool(device, 8),
        ToyDecoder(device),
        KeepAlive(2),
        device.new_stream(),
    )
    images = [copy_frame(pool, decoder.decode(value), stream, kept) for value in range(8)]
    assert len(kept) == 2
    assert len([who for who, _ in world.log if who == "host"]) == 6
    assert len(images) == 8


def test_a_frame_that_is_released_too_early_is_caught():
    world = World(eager=0)
    device = world.device()
    pool, decoder, stream = SurfacePool(device, 2), ToyDecoder(device, count=1), device.new_stream()

    class Careless(KeepAlive):
        def keep(self, owner, until):
            pass

    copy_frame(pool, decoder.decode(1), stream, Careless())
    with pytest.raises(Race, match="may write memory that is still being read"):
        decoder.decode(2)


def test_a_copy_that_does_not_wait_for_the_decoder_is_caught():
    world = World(eager=0)
    device = world.device()
    pool, decoder, stream = SurfacePool(device, 2), ToyDecoder(device), device.new_stream()
    too_early = device.legacy_stream_event()
    frame = decoder.decode(1)
    with pytest.raises(Race, match="may read memory that is still being written"):
        pool.from_device(frame.planes, None, stream, too_early, frame, KeepAlive())
    assert pool.held == 0


def test_a_staging_buffer_that_is_refilled_too_early_is_caught(monkeypatch):
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


def test_threads_share_staging_buffers():
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
