"""The devices of this machine, and the streams that this thread has on them."""

from __future__ import annotations

import contextlib
import functools
import threading

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
    kind, _, index = name.partition(":")
    if name == "cpu":
        from engines.device.cpu import CpuDevice

        return CpuDevice()
    if kind != "cuda" or (name != "cuda" and not index.isdecimal()):
        raise EngineError(f"device {name} is unknown, expected cpu, cuda, or cuda:1 for the second GPU")
    if name != f"cuda:{int(index or 0)}":
        return open_device(f"cuda:{int(index or 0)}")
    count = torch.cuda.device_count()
    if int(index) >= count:
        there = f"there are {count} GPUs, from cuda:0 on" if count else "PyTorch finds no GPU"
        raise EngineError(
            f"there is no device {name}, {there}; see that nvidia-smi lists it, that CUDA_VISIBLE_DEVICES "
            "does not hide it and that this PyTorch was built for CUDA, or take device: cpu"
        )
    from engines.device.cuda import CudaDevice

    return CudaDevice(int(index))


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
