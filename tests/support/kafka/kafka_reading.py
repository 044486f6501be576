"""A `kafka_source` that reads in a thread of the test."""

from __future__ import annotations

import threading
import time

from kafka import KafkaConsumer, TopicPartition

from operators.kafka_source import KafkaSource
from pipeline.operator import RunInfo
from pipeline.packet import Event, Packet

LIMIT_S = 60


class Reading:
    """A source that reads in a thread into `items`; finishes the packets for which `finish` is true."""

    def __init__(self, kafka, topic, *, live=False, finish=lambda packet: True, pause_s=0.0, **options):
        self.source = KafkaSource(**{"session_s": 6.0, **options})
        self.source.open(RunInfo.new("graph")._replace(live=live))
        self.uri = f"kafka://{kafka if isinstance(kafka, str) else kafka.bootstrap}/{topic}"
        self.items, self.error = [], None
        self._finish, self._pause_s = finish, pause_s
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            for item in self.source.read("topic", self.uri):
                with self._changed:
                    self.items.append(item)
                    self._changed.notify_all()
                time.sleep(self._pause_s)
                if isinstance(item, Packet) and self._finish(item):
                    self.source.finished(item)
        except Exception as error:
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def wait(self, met):
        deadline = time.monotonic() + LIMIT_S
        with self._changed:
            while not met(self):
                assert not self.error, self.error
                assert time.monotonic() < deadline, self.seen
                self._changed.wait(0.1)

    def until(self, *last):
        self.wait(lambda reading: set(last) <= set(reading.seen))
        return self.seen

    @property
    def packets(self):
        return [item for item in self.items if isinstance(item, Packet)]

    @property
    def seen(self):
        """Each item in short: `a3` (a frame), `a moved` (an event), `a.` (the end of stream a)."""
        return [
            f"{i.stream}{i.seq}"
            if isinstance(i, Packet)
            else f"{i.stream} {i.kind}"
            if isinstance(i, Event)
            else f"{i.stream}."
            for i in list(self.items)
        ]

    def stop(self):
        start = time.monotonic()
        self.source.stop()
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        self.stop_s = time.monotonic() - start
        return self


def committed(kafka, topic, group="graph", partition=0):
    """The offset that a group has committed in a partition."""
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=group, enable_auto_commit=False)
    try:
        return consumer.committed(TopicPartition(topic, partition), timeout_ms=10000)
    finally:
        consumer.close()
