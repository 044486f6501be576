"""NVTX ranges: what NVIDIA's Nsight shows above the work of the GPU. Needs the package `nvtx`."""

from __future__ import annotations

from typing import Any

DOMAIN = "posestream"


class Ranges:
    """Nested ranges of each thread, shown nowhere."""

    def begin(self, name: str) -> None:
        """A range of the calling thread begins."""

    def end(self) -> None:
        """Its last range that has begun ends."""


class NvtxRanges(Ranges):
    """The same, told to whatever tool this process was started with; almost free without one."""

    def __init__(self, nvtx: Any):
        self._domain = nvtx.get_domain(DOMAIN)
        self._attributes: dict[str, Any] = {}

    def begin(self, name: str) -> None:
        """A range of the calling thread begins."""
        attributes = self._attributes.get(name)
        if attributes is None:
            attributes = self._attributes[name] = self._domain.get_event_attributes(message=name)
        self._domain.push_range(attributes)

    def end(self) -> None:
        """Its last range that has begun ends."""
        self._domain.pop_range()


def ranges(*, shown: bool) -> Ranges:
    """Ranges that are shown, if they are wanted and can be."""
    if shown:
        try:
            import nvtx
        except ImportError:
            return Ranges()
        return NvtxRanges(nvtx)
    return Ranges()
