"""NVTX ranges: NVIDIA's Nsight shows them above the work of the GPU. Needs the package `nvtx`."""

from __future__ import annotations

from typing import Any

DOMAIN = "posestream"


class Ranges:
    """Nested ranges of each thread; this class shows them nowhere."""

    def begin(self, name: str) -> None:
        """Begin a range of the calling thread."""

    def end(self) -> None:
        """End the innermost range of the calling thread."""


class NvtxRanges(Ranges):
    """Ranges for the profiler that this process was started under; almost free without one."""

    def __init__(self, nvtx: Any):
        self._domain = nvtx.get_domain(DOMAIN)
        self._attributes: dict[str, Any] = {}

    def begin(self, name: str) -> None:
        """Begin a range of the calling thread."""
        attributes = self._attributes.get(name)
        if attributes is None:
            attributes = self._attributes[name] = self._domain.get_event_attributes(message=name)
        self._domain.push_range(attributes)

    def end(self) -> None:
        """End the innermost range of the calling thread."""
        self._domain.pop_range()


def make_ranges(*, wanted: bool) -> Ranges:
    """NVTX ranges if they are wanted and the package `nvtx` is installed."""
    if wanted:
        try:
            import nvtx
        except ImportError:
            return Ranges()
        return NvtxRanges(nvtx)
    return Ranges()
