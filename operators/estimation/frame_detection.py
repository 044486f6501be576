"""The base class of `detect` and `pose_onestage`, which find instances in whole frames."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from engines.codecs.detections import Detections
from engines.estimators.detector import Detector
from operators.estimation.model_options import as_image, count_halved
from pipeline.operator import Operator, RunInfo
from pipeline.packet import Instances, Packet

# Options that both share.
Count = Annotated[int, Field(ge=1)]
Threshold = Annotated[float | None, Field(gt=0, le=1, description="default: that of the model's family")]
Every = Annotated[int, Field(ge=1, description="detect on frames 0, n, 2n … of a stream; live: on one of n")]
MaxDetections = Annotated[Count, Field(description="per frame; the best ones stay")]


class FrameDetection(Operator):
    """Run a detector on every n-th frame of each stream; the frames of all cameras share one engine run.

    A subclass sets `detector` in `open`.
    """

    needs = ("image",)
    batch_max = 4
    detector: Detector

    def __init__(self, min_score: float | None, nms_iou: float | None, every: int):
        self.min_score, self.nms_iou, self.every = min_score, nms_iou, every
        self._live = False
        self._last_group: dict[str, int] = {}  # by stream: the last frame's number // every

    def open(self, run: RunInfo) -> None:
        """Note whether the run is live: then any frame may be missing, also one whose turn it is."""
        self._live = run.live

    def _is_due(self, packet: Packet) -> bool:
        if not self._live:
            return packet.seq % self.every == 0
        group, before = packet.seq // self.every, self._last_group.get(packet.stream)
        self._last_group[packet.stream] = group
        return group != before

    def reset(self, stream: str) -> None:
        """Detect on the stream's next frame."""
        self._last_group.pop(stream, None)

    def end_stream(self, stream: str) -> Iterable[Packet]:
        """Forget the stream; no packet is held back."""
        self.reset(stream)
        return ()

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Detect on the packets that are due, in one engine run; the others get `instances` None."""
        due = [packet for packet in packets if self._is_due(packet)]
        found = self.detector([as_image(packet) for packet in due], self.min_score, self.nms_iou)
        count_halved(self, self.detector.engine.halved)
        results = {id(packet): self._instances(one) for packet, one in zip(due, found, strict=True)}
        return [packet.replace(instances=results.get(id(packet))) for packet in packets]

    @abstractmethod
    def _instances(self, found: Detections) -> Instances:
        """The detections of one frame as fields of a packet."""

    def close(self) -> None:
        """Free the model's memory."""
        if detector := self.__dict__.pop("detector", None):
            detector.close()
