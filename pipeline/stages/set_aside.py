"""The log of packets that a stage sets aside: one line for a series of them, one when it is over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from pipeline.errors import PosestreamError
from pipeline.packet import Packet


class SetAsideLog:
    """Logs the errors of one stage, whose workers share it."""

    def __init__(self, stage: str):
        self.logger = logging.getLogger(f"posestream.{stage}")
        self._lock = threading.Lock()
        self.failing: dict[str, tuple[str, int]] = {}  # stream: kind of error, packets set aside in a row

    def note_error(self, packet: Packet, error: Exception) -> None:
        """A packet is set aside: log it, unless the packet of its stream before failed in the same way."""
        kind = type(error).__name__
        with self._lock:
            before, count = self.failing.get(packet.stream, ("", 0))
            self.failing[packet.stream] = kind, count + 1
        if before != kind:
            where = f"{packet.stream} frame {packet.seq}"
            self.logger.error(
                "set aside %s: %s", where, message_of(error), exc_info=not explains_itself(error)
            )

    def note_success(self, packets: Sequence[Packet]) -> None:
        """These packets were processed: log for how many frames their streams had failed before."""
        for stream in {packet.stream for packet in packets}:
            with self._lock:
                _, count = self.failing.pop(stream, ("", 0))
            if count > 1:
                self.logger.warning("%s goes on; %d frames were set aside", stream, count)


def explains_itself(error: Exception) -> bool:
    """Whether the message says everything, so that a traceback would only hide it."""
    return isinstance(error, PosestreamError)


def message_of(error: Exception) -> str:
    """The error in one line, with its class where the message alone may not explain it."""
    return str(error) if explains_itself(error) else f"{type(error).__name__}: {error}"
