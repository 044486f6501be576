"""NVIDIA's library of NVDEC, loaded even where the system's loader does not look for it."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path

from engines.errors import EngineError

NAME = "libnvcuvid.so.1"


@functools.cache
def load_nvcuvid() -> None:
    """Load libnvcuvid, from the loader's path or from the folder of the driver that is loaded, libcuda.

    FFmpeg asks the loader for it by its name, and the loader finds what is loaded already. A driver that is
    mounted into a container often lies in a folder that the loader does not know.

    Raises:
        EngineError: it is in neither place.
    """
    if sys.platform != "linux" or _loads(NAME):
        return
    folder = _driver_folder()
    # Without the links that ldconfig makes, there is only libnvcuvid.so.580.65.06.
    if folder is None or not any(_loads(str(path)) for path in sorted(folder.glob("libnvcuvid.so.*"))):
        places = "on the loader's path" + (f" and in {folder}" if folder else "")
        raise EngineError(
            f"{NAME}, the driver's video decoder, was not found {places}; install it with the driver, or let "
            "the container have it: NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)  # it is never unloaded
    except OSError:
        return False
    return True


def _driver_folder() -> Path | None:
    """The folder of the libcuda that this process has loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        _, _, place = line.partition("/")  # the file's path ends the line
        if Path(place).name.startswith("libcuda.so"):
            return Path("/" + place).parent
    return None
