"""Choose between two Kafka libraries: kafka-python, and confluent-kafka if it is installed.

Both publish with `acks=all` and idempotence: when a library repeats a message because an answer was lost, the
broker recognises and drops the repetition.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

from operators.kafka.confluent_producer import ConfluentProducer
from operators.kafka.connection import Connection
from operators.kafka.kafka_python_producer import KafkaPythonProducer
from operators.kafka.producer import Compression, Producer, Publishing
from pipeline.errors import OptionError

Library = Literal["auto", "kafka-python", "confluent"]


def make_producer(library: Library, connection: Connection, publishing: Publishing) -> Producer:
    """A producer that has reached the broker and knows the topic.

    Raises:
        BrokerError: the broker or the topic cannot be used, with the reason in one line.
        OptionError: a password or a file is missing.
    """
    made = ConfluentProducer if _chosen(library) == "confluent" else KafkaPythonProducer
    return made(connection, publishing)


def check_compression(library: Library, compression: Compression) -> None:
    """Check that the library can compress this way.

    Raises:
        OptionError: kafka-python needs another package, which is not installed.
    """
    if compression in ("none", "gzip") or _chosen(library) == "confluent":
        return
    from kafka import codec

    if not getattr(codec, f"has_{compression}")():
        packages = {"snappy": "python-snappy", "lz4": "lz4", "zstd": "zstandard"}
        raise OptionError(
            "compression",
            f"{compression} needs a package with kafka-python; run: pip install {packages[compression]} "
            "(or confluent-kafka, which needs no package), or set gzip",
        )


def _chosen(library: Library) -> Library:
    if library != "auto":
        return library
    return "confluent" if importlib.util.find_spec("confluent_kafka") else "kafka-python"
