"""The devices of this machine, and the streams that this thread has on them."""

from __future__ import annotations

import contextlib
import functools
import threading

from engines.device.names import no_such_device, parse_device
from engines.device.streams import Device, Stream
from engines.errors import EngineError


@functools.cache
def open_device(name: str) -> Device:
    """The device that torch calls `name`: cpu, cuda (the first), cuda:1. The same object for the same name.

    Raises:
        EngineError: PyTorch is not installed, or there is no such device.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise EngineError(
            f"device {name} needs PyTorch, which is not installed: pip install 'posestream[torch]'"
        ) from None
    device = parse_device(name)
    if name != str(device):
        return open_device(str(device))
    if device.kind == "cpu":
        from engines.device.cpu import CpuDevice

        return CpuDevice()
    if device.number >= (count := torch.cuda.device_count()):
        raise no_such_device(name, count, "PyTorch")
    from engines.device.cuda import CudaDevice

    return CudaDevice(device.number)


def thread_stream(device: Device) -> Stream:
    """This thread's own stream on a device; made at first use, and then torch's current one of this thread.

    A stage's workers are threads, so each has one. The default stream, for which others wait, is never used.
    A thread's current device stays the first that it has asked for.
    """
    streams = _threads.streams
    if device not in streams:
        stream = device.new_stream()
        with next(iter(streams.values())).use() if streams else contextlib.nullcontext():
            stream.make_current()
        streams[device] = stream
    return streams[device]


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.streams: dict[Device, Stream] = {}


_threads = _OfThread()
