"""Make a wheel of TensorRT's libraries from the jar in Maven's registry.

The Python registry has NVIDIA's bindings (`tensorrt-cu13-bindings`), but not the libraries. The wheel made
here has the libraries that the bindings are linked with (libnvinfer, the ONNX parser and the plugins), the
builder's resource for one architecture, the module `tensorrt_libs`, which the bindings import first, and the
module `tensorrt`. NVIDIA's licence for TensorRT applies; do not publish the wheel.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

NAME, VERSION = "posestream_tensorrt", "10.15.1.29"  # the bindings' version
BINDINGS = f"tensorrt-cu13-bindings=={VERSION}"
FOLDER = "org/bytedeco/tensorrt/linux-x86_64/"
LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10", "libnvinfer_plugin.so.10")
RESOURCE = "libnvinfer_builder_resource_"
# For GPUs without a resource of their own: the driver compiles it. The jar 10.15-1.5.13 has no other
# resource.
ANY = "ptx"
BLOCK = 2**20

LIBS_MODULE = f'''\
"""TensorRT's libraries, loaded for the bindings; the builder finds its resource beside libnvinfer."""

import ctypes
from pathlib import Path

for name in {LIBRARIES!r}:  # a library comes after those that it needs
    ctypes.CDLL(str(Path(__file__).parent / name), mode=ctypes.RTLD_GLOBAL)
'''
TENSORRT_MODULE = '''\
"""NVIDIA TensorRT: its bindings, under the name that programs import."""

from tensorrt_bindings import *
from tensorrt_bindings import __version__
'''


class TensorrtWheelError(Exception):
    """The jar lacks a file; the message names it in one line."""


class Made(NamedTuple):
    """The wheel, and the libraries in it."""

    path: Path
    libraries: dict[str, int]  # name: bytes


def make(jar: Path, out: Path, arch: str) -> Made:
    """Write the wheel for `arch` (sm_90) to the folder `out`.

    Raises:
        TensorrtWheelError: the jar lacks a library, or the builder's resource for this architecture.
    """
    with zipfile.ZipFile(jar) as source:
        names = _wanted(source.namelist(), arch)
        path = out / f"{NAME}-{VERSION}-py3-none-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            record = [_copy(source, name, wheel) for name in names]
            info = f"{NAME}-{VERSION}.dist-info"
            texts = {
                "tensorrt_libs/__init__.py": LIBS_MODULE,
                "tensorrt/__init__.py": TENSORRT_MODULE,
                f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n"
                "Summary: TensorRT's libraries for its Python bindings; NVIDIA's licence\n"
                f"Requires-Dist: {BINDINGS}\n",
                f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: posestream\nRoot-Is-Purelib: false\n"
                "Tag: py3-none-manylinux_2_28_x86_64\n",
            }
            for name, text in texts.items():
                wheel.writestr(name, text)
                record.append(_line(name, hashlib.sha256(text.encode()), len(text.encode())))
            wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
        sizes = {name.removeprefix(FOLDER): source.getinfo(name).file_size for name in names}
    return Made(path, sizes)


def _wanted(names: list[str], arch: str) -> list[str]:
    """The jar's members that the wheel needs: libraries, and the builder's resource for the architecture."""
    found = [FOLDER + library for library in LIBRARIES if FOLDER + library in names]
    if len(found) < len(LIBRARIES):
        lacking = [library for library in LIBRARIES if FOLDER + library not in names]
        raise TensorrtWheelError(f"the jar has no {', '.join(lacking)} in {FOLDER}; is it of TensorRT 10?")
    resources = [name for name in names if name.startswith(FOLDER + RESOURCE)]
    for kind in (arch.replace("_", ""), ANY):
        if wanted := [name for name in resources if f"{RESOURCE}{kind}.so" in name]:
            return found + wanted
    there = sorted(name.removeprefix(FOLDER + RESOURCE).partition(".")[0] for name in resources)
    raise TensorrtWheelError(
        f"the jar has no builder resource for {arch} or {ANY}; it has {', '.join(there) or 'none'}"
    )


def _copy(source: zipfile.ZipFile, name: str, wheel: zipfile.ZipFile) -> str:
    """Copy a library block by block, since one has 640 MB; returns its line of the wheel's RECORD."""
    target = f"tensorrt_libs/{name.removeprefix(FOLDER)}"
    checksum, size = hashlib.sha256(), 0
    with source.open(name) as reading, wheel.open(target, "w", force_zip64=True) as writing:
        while block := reading.read(BLOCK):
            checksum.update(block)
            size += len(block)
            writing.write(block)
    return _line(target, checksum, size)


def _line(name: str, checksum: hashlib._Hash, size: int) -> str:
    digest = base64.urlsafe_b64encode(checksum.digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{size}"
