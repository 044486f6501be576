"""What operators that find instances in whole frames share; frames of all cameras go in one engine run."""

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

# Options that they share.
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float | None, Field(gt=0, le=1, description="that of the model's family unless told")]
Every = Annotated[int, Field(ge=1, description="detect on frames 0, n, 2n … of a stream; live, on one of n")]
MaxDetections = Annotated[Count, Field(description="a frame; the best ones stay")]


class WorksOnWholeFrames(Operator):
    """Runs `detector`, which `open` makes, on every n-th frame of each stream."""

    needs = ("image",)
    batch_max = 4
    detector: Detector

    def __init__(self, min_score: float | None, nms_iou: float | None, every: int):
        self.min_score, self.nms_iou, self.every = min_score, nms_iou, every
        self._live = False
        self._turns: dict[str, int] = {}  # stream: which n frames the last one seen was of

    def open(self, run: RunInfo) -> None:
        """Live, frames may be missing, and with them those whose number divides by n."""
        self._live = run.live

    def _is_due(self, packet: Packet) -> bool:
        if not self._live:
            return packet.seq % self.every == 0
        turn, before = packet.seq // self.every, self._turns.get(packet.stream)
        self._turns[packet.stream] = turn
        return turn != before

    def reset(self, stream: str) -> None:
        """The next frame is looked at."""
        self._turns.pop(stream, None)

    def end_stream(self, stream: str) -> Iterable[Packet]:
        """Forget it."""
        self.reset(stream)
        return ()

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Work on all packets of the batch whose turn it is, in one engine run."""
        due = [packet for packet in packets if self._is_due(packet)]
        found = self.detector([as_image(packet) for packet in due], self.min_score, self.nms_iou)
        count_halved(self, self.detector.engine.halved)
        results = {id(packet): self._instances(one) for packet, one in zip(due, found, strict=True)}
        return [packet.replace(instances=results.get(id(packet))) for packet in packets]

    @abstractmethod
    def _instances(self, found: Detections) -> Instances:
        """What was found in a frame, as the packet carries it."""

    def close(self) -> None:
        """Free the model's memory."""
        if detector := self.__dict__.pop("detector", None):
            detector.close()
