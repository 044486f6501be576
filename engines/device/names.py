"""Names of devices as PyTorch writes them: cpu, cuda (the first GPU), cuda:1. Parsed in this file only."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from engines.errors import EngineError

DEVICE_PATTERN = r"^(cpu|cuda(:\d+)?)$"


class DeviceName(NamedTuple):
    """A device's name in its parts; as a string always the full name, `cuda:0` for `cuda`."""

    kind: Literal["cpu", "cuda"]
    number: int  # CUDA's number of the GPU; 0 for the CPU

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"


def parse_device(name: str) -> DeviceName:
    """The parts of a device's name; says nothing about whether the machine has it.

    Raises:
        EngineError: it is no name of a device.
    """
    if not re.fullmatch(DEVICE_PATTERN, name):
        raise EngineError(f"device {name!r} is unknown, expected cpu, cuda, or cuda:1 for the second GPU")
    kind, _, index = name.partition(":")
    return DeviceName("cuda" if kind == "cuda" else "cpu", int(index or 0))


def _option(name: str) -> str:
    try:
        parse_device(name)
    except EngineError as error:
        # As an error of pydantic, so that it is reported with the option's name and line.
        raise PydanticCustomError("device_name", "{reason}", {"reason": str(error)}) from None
    return name


# The type of an operator's option.
DeviceOption = Annotated[
    str, AfterValidator(_option), WithJsonSchema({"type": "string", "pattern": DEVICE_PATTERN})
]


def same_kind(one: str, other: str) -> bool:
    """Whether two names given by PyTorch are of the same kind of device, whatever their numbers."""
    return one.partition(":")[0] == other.partition(":")[0]


def existing_device(name: str) -> str:
    """The full name of a device that this machine has, by its driver: cpu, cuda:0.

    Raises:
        EngineError: it is no name of a device, or there are fewer GPUs.
    """
    device = parse_device(name)
    if device.kind == "cuda" and device.number >= cuda_devices():
        raise no_such_device(name, cuda_devices(), "the driver")
    return str(device)


def no_such_device(name: str, gpus: int, counted_by: str) -> EngineError:
    """The error for a GPU beyond the `gpus` that the driver or PyTorch finds."""
    found = f"{gpus} GPU{'s' * (gpus > 1)}, from cuda:0 on" if gpus else "no GPU"
    return EngineError(
        f"there is no device {name}, {counted_by} finds {found}; check that nvidia-smi lists it, that "
        "CUDA_VISIBLE_DEVICES does not hide it and that PyTorch was built for CUDA, or set device: cpu"
    )


@functools.cache
def cuda_devices() -> int:
    """How many GPUs the driver of this machine offers, by the driver itself; 0 without one."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
