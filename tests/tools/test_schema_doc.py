"""`docs/schema.md` is up to date, and describes every key that is written."""

import msgpack
import numpy as np

from operators.records.messages import encode
from operators.records.record import event_record, record
from operators.records.schema import END_KEYS, EVENT_KEYS, FRAME_KEYS, HEADERS, INSTANCE_KEYS, MESSAGE_KEYS
from pipeline.packet import FIELDS, End, Event
from tools.schema_doc import FIELD_MEANINGS, FILE, FRAME, HORSE, document

FULL = FRAME.replace(
    run="r", epoch=1, moment_ns=2, arrived_ns=3, picture=np.zeros((1080, 1920, 3), np.uint8),
    instances=HORSE.replace(detected=np.array([True])),
)  # fmt: skip


def test_the_document_is_up_to_date():
    assert FILE.read_text(encoding="utf-8") == document(), "run: python -m tools.schema_doc"


def test_the_tables_list_exactly_the_keys_that_are_written():
    written = record(FULL)
    assert list(FRAME_KEYS) == list(written)
    assert list(INSTANCE_KEYS) == list(written["instances"][0])
    assert list(EVENT_KEYS) == list(event_record(Event("a", "lost", 0, resets=True, run="r")))
    message = encode(FULL, "r", image="raw")
    packed = msgpack.unpackb(message.value)
    assert set(MESSAGE_KEYS) == set(packed) - set(FRAME_KEYS) | {"instances"}
    assert list(HEADERS) == [name for name, _ in message.headers]
    assert list(END_KEYS) == list(msgpack.unpackb(encode(End("a", 1), "r").value))
    assert list(FIELD_MEANINGS) == list(FIELDS)
    for key in [*packed["image"], *packed["instances"]["boxes"], "n", "skeleton"]:
        assert f"`{key}`" in document()
