"""An operator with memory, whose results tell where that memory began."""

from __future__ import annotations

import os
import time

import numpy as np

from pipeline.operator import Operator
from pipeline.packet import Instances, Packet


class Remember(Operator):
    """One instance a frame: its track id is the seq with which this memory of the stream began.

    Its label is the process, its score the mean of the picture, which shows what has become of that.
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
