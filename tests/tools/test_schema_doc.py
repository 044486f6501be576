import msgpack
import numpy as np

from operators.records.messages import END_KEYS, HEADERS, MESSAGE_KEYS, encode
from operators.records.record import EVENT_KEYS, FRAME_KEYS, INSTANCE_KEYS, event_record, record
from pipeline.packet import FIELDS, End, Event
from tools.schema_doc import FIELD_MEANINGS, FILE, FRAME, HORSE, document

FULL = FRAME.replace(
    run="r", epoch=1, moment_ns=2, arrived_ns=3, picture=np.zeros((1080, 1920, 3), np.uint8),
    instances=HORSE.replace(detected=np.array([True])),
)  # fmt: skip


def test_the_document_is_what_the_code_says():
    assert FILE.read_text(encoding="utf-8") == document(), "run: python -m tools.schema_doc"


def test_every_key_is_described_and_no_other():
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
