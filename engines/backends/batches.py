"""The batch sizes that an engine runs, and the smaller ones it uses when the device's memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.backends.base import TensorSpec
from engines.device.devices import thread_stream
from engines.errors import EngineError, one_line

if TYPE_CHECKING:
    from engines.device.streams import Device, Stream

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
OUT_OF_MEMORY = ("out of memory", "outofmemory", "alloc_failed", "failed to allocate memory")

Outputs = dict[str, Any]  # arrays of NumPy or tensors of PyTorch (B, …), by output name

log = logging.getLogger("posestream.engine")


class Batches:
    """Runs any number of items in batches of a few sizes; halves the largest size when memory runs out.

    Args:
        name: of the model, for the log.
        shrink: called with the new largest size, to free the engine's memory for larger batches.
        smallest, largest: batches that the engine can run.
    """

    def __init__(
        self, name: str, shrink: Callable[[int], None], smallest: int = 1, largest: int = BUCKETS[-1]
    ):
        self.name, self.smallest, self.largest = name, smallest, largest
        self.halved = 0
        self._shrink = shrink

    def bucket(self, count: int) -> int:
        """The batch size for `count` items: the smallest that holds them, at most `largest`."""
        sizes = (size for size in BUCKETS if self.smallest <= size < self.largest)
        return next((size for size in (self.smallest, *sizes) if count <= size), self.largest)

    def run(self, count: int, run: Callable[[int, int], Outputs]) -> list[Outputs]:
        """Run `count` items in parts of at most `largest`; returns the outputs of each `run(start, stop)`.

        If memory runs out for a part, it is run again in halves, and so are all later ones.

        Raises:
            EngineError: there is not even memory for the smallest batch; or as `run`.
        """
        parts: list[Outputs] = []
        start = 0
        while start < count:
            stop = min(start + self.largest, count)
            try:
                parts.append(run(start, stop))
                start = stop
                continue
            except (RuntimeError, EngineError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = one_line(error)
            # Not inside the except clause: until it is left, the error keeps the failed run's tensors alive.
            self._halve(self.bucket(stop - start), reason)
        return parts

    def _halve(self, failed: int, reason: str) -> None:
        half = max(failed // 2, self.smallest)
        if half == self.largest:
            raise EngineError(
                f"{self.name}: out of device memory even for a batch of {half} ({reason}); "
                "free the GPU of other work, or take a smaller model"
            )
        log.warning(
            "%s: out of device memory for a batch of %d, runs at most %d at once from now on (%s)",
            self.name, failed, half, reason,
        )  # fmt: skip
        self.largest = half
        self.halved += 1
        self._shrink(half)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch, TensorRT or ONNX Runtime says that the device's memory is too small.

    Judged by the message: PyTorch has an error class only for its own allocator, not for the libraries below
    it, and the others have none.
    """
    message = str(error).lower()
    return any(words in message for words in OUT_OF_MEMORY)


def join(parts: list[Outputs], outputs: dict[str, TensorSpec]) -> Outputs:
    """The outputs of all parts as one batch; outputs whose size depends on content are padded with zeros."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return {name: np.zeros(empty_shape(spec), spec.dtype) for name, spec in outputs.items()}
    joined = {}
    for name in outputs:
        arrays = [part[name] for part in parts]
        sizes = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True)]
        shape = (sum(map(len, arrays)), *sizes)
        first = arrays[0]
        padded = np.zeros(shape, first.dtype) if isinstance(first, np.ndarray) else first.new_zeros(shape)
        start = 0
        for array in arrays:
            within = tuple(slice(n) for n in array.shape[1:])
            padded[(slice(start, start + len(array)), *within)] = array
            start += len(array)
        joined[name] = padded
    return joined


def stream_behind(last: Stream, device: Device) -> Stream:
    """This thread's stream, after it was made to wait for work on `last`, another thread's stream."""
    stream = thread_stream(device)
    if stream is not last:
        stream.wait(last.record())
    return stream


def empty_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of an output for a batch of no items; sizes that depend on content are 0."""
    return (0, *(max(n, 0) for n in spec.shape[1:]))
