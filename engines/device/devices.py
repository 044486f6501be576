"""Devices by their names, and the stream that each thread has on each device."""

from __future__ import annotations

import contextlib
import functools
import threading

from engines.device.names import no_such_device, parse_device
from engines.device.streams import Device, Stream
from engines.errors import EngineError


@functools.cache
def open_device(name: str) -> Device:
    """The device with PyTorch's name: cpu, cuda (the first GPU), cuda:1. One object for each device.

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
    """This thread's stream on a device, made at the first call; PyTorch's operations of this thread go there.

    Each worker of a stage is a thread, so each has its own stream. Nothing uses the default stream, because
    other streams wait for it. If a thread asks for streams on several devices, the first stays its current
    device.
    """
    streams = _threads.streams
    if device not in streams:
        stream = device.new_stream()
        with next(iter(streams.values())).use() if streams else contextlib.nullcontext():
            stream.make_current()
        streams[device] = stream
    return streams[device]


class _ThreadStreams(threading.local):
    def __init__(self) -> None:
        self.streams: dict[Device, Stream] = {}


_threads = _ThreadStreams()
