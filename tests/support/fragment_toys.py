"""An operator with memory: its results show at which frame the memory of the stream began."""

from __future__ import annotations

import os
import time

import numpy as np

from pipeline.operator import Operator
from pipeline.packet import Instances, Packet


class Remember(Operator):
    """Adds one instance to each frame: its track id is the `seq` at which the memory of the stream began.

    Its label is the id of the process. Its score is the mean of the picture, to check that it arrived unchanged.
    """

    needs = ("image",)
    provides = ("track_ids", "scores", "labels")
    per_stream = True

    def __init__(self, ms: float = 0):
        self.ms = ms
        self.began: dict[str, int] = {}

    def process(self, packets: list[Packet]) -> list[Packet]:
        time.sleep(self.ms * len(packets) / 1e3)
        return [self.remember(packet) for packet in packets]

    def remember(self, packet: Packet) -> Packet:
        began = self.began.setdefault(packet.stream, packet.seq)
        assert packet.image is not None
        found = Instances(
            track_ids=np.array([began], np.int64),
            scores=np.array([packet.image.mean()], np.float32),
            labels=np.array([str(os.getpid())], np.object_),
        )
        return packet.replace(instances=found)

    def reset(self, stream: str) -> None:
        self.began.pop(stream, None)

    def end_stream(self, stream: str) -> list[Packet]:
        self.reset(stream)
        return []
