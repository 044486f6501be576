"""Pictures, a decoder on a test device, and threads, for tests of surfaces."""

from __future__ import annotations

import queue
import threading

import numpy as np

from engines.device.plane_layout import plane_shapes

SIZE = (6, 4)  # width, height


def picture(value: int, size=SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, np.uint8)


class ToyDecoder:
    """A decoder like NVDEC: it has few surfaces, and overwrites them after their frames are dropped."""

    class Frame:
        def __init__(self, planes, slot, free):
            self.planes, self._slot, self._free = planes, slot, free

        def __del__(self):
            self._free.append(self._slot)

    def __init__(self, device, layout="nv12", count=3):
        self.stream = device._legacy
        self.free = [
            [
                device.empty(int(np.prod(shape)), self.stream).view(shape)
                for shape in plane_shapes(layout, SIZE)
            ]
            for _ in range(count)
        ]

    def decode(self, value: int):
        planes = self.free.pop(0)  # IndexError if no surface is free
        for plane in planes:
            self.stream.launch(lambda to: to.fill_(value), writes=[plane])
        return ToyDecoder.Frame(planes, planes, self.free)


def copy_frame(pool, frame, stream, kept):
    return pool.from_device(frame.planes, None, stream, pool.device.legacy_stream_event(), frame, kept)


def run_threads(works) -> None:
    """Run each in a thread; raise the first error at once, since other threads may wait for that one for ever."""
    done = queue.SimpleQueue()

    def guarded(work) -> None:
        try:
            done.put(work())
        except BaseException as error:
            done.put(error)

    for work in works:
        threading.Thread(target=guarded, args=(work,), daemon=True).start()
    for _ in works:
        if error := done.get(timeout=60):
            raise error
