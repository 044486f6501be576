"""Messages that are damaged, foreign or invalid are refused with one line that says why."""

import contextlib

import msgpack
import numpy as np
import pytest
import sink_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.records.messages import MessageError, decode, encode


def changed(**changes):
    """A message with some values of its map replaced (`a__b` is a key inside a); None removes the key."""
    picture = np.zeros((480, 640, 3), np.uint8)
    message = encode(sink_frames.frame(3, sink_frames.people(2), picture=picture), "run", image="raw")
    data = msgpack.unpackb(message.value)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = data
        for parent in parents:
            inner = inner[parent]
        inner.pop(last) if value is None else inner.update({last: value})
    return message._replace(value=msgpack.packb(data))


def with_headers(**changes):
    message = changed()
    headers = dict(message.headers) | {name.replace("_", "-"): value for name, value in changes.items()}
    return message._replace(headers=[(name, value) for name, value in headers.items() if value is not None])


def json_message(text, kind=b"frame"):
    return with_headers(content_type=b"application/json", type=kind)._replace(value=text)


GOOD = b'{"stream":"a","run":"r","seq":0,"pts_ns":0,"captured_ns":0,"size":[9,9],"instances":[%s]}'


BAD_MESSAGES = [
    (with_headers(schema=None), "header schema 'posestream/1', found none"),
    (with_headers(schema=b"posestream/2"), "header schema 'posestream/1', found 'posestream/2'; read it with its own"),
    (with_headers(content_type=b"text/html"), "expected content-type application/msgpack or .*, found 'text/html'"),
    (with_headers(type=None), "expected a message of type frame, event or end, found None"),
    (with_headers(type=b"event"), "not an event of posestream/1: KeyError 'event'"),
    (with_headers(type=b"end"), "frames must be a whole number"),
    (changed()._replace(value=None), "."),
    (changed()._replace(value=b""), "."),
    (changed()._replace(value=changed().value[:-1]), "incomplete"),
    (changed()._replace(value=changed().value + b"x"), "extra"),
    (changed()._replace(value=b"\x93\x01\x02\x03"), "expected a map, found list"),
    (changed(stream=None), "KeyError 'stream'"),
    (changed(stream=""), "stream must be a name, found ''"),
    (changed(stream=7), "stream must be a name, found 7"),
    (changed(run=7), "run must be a name, found 7"),
    (changed(seq="0"), "seq must be a whole number from 0, found '0'"),
    (changed(seq=-1), "seq must be a whole number from 0, found -1"),
    (changed(pts_ns=2**63), "pts_ns must be a whole number"),
    (changed(captured_ns=1.5), "captured_ns must be a whole number"),
    (changed(epoch=True), "epoch must be a whole number"),
    (changed(size=[1]), "not enough values"),
    (changed(size=3), "not a record"),
    (changed(instances=[]), "instances must be a map of columns, found list"),
    (changed(instances__n=None), "instances.n must be"),
    (changed(instances__n=3), "instances.boxes has 2 rows, expected n = 3"),
    (changed(instances={"n": 2}), "instances without any field, expected n = 0, found 2"),
    (changed(instances__skeleton=["a"]), "instances.skeleton must be a name"),
    (changed(instances__labels=["a"]), "instances.labels has 1 rows, expected n = 2"),
    (changed(instances__labels=["a", 3]), "instances.labels must be a list of strings"),
    (changed(instances__scores="a"), "instances.scores: expected an array of dtype, shape, data"),
    (changed(instances__scores__dtype="O"), "instances.scores: expected an array of numbers, found object"),
    (changed(instances__scores__dtype="no"), "instances.scores: expected an array"),
    (changed(instances__scores__dtype="<f8"), "instances.scores must be float64 .2., found 8 bytes"),
    (changed(instances__scores__dtype=">f4"), "instances.scores must be float32 .N. with .*, found >f4"),
    (changed(instances__scores__shape=[3]), "instances.scores must be float32 .3., found 8 bytes"),
    (changed(instances__scores__shape=[-1, -2]), "instances.scores.shape must be whole numbers from 0"),
    (changed(instances__scores__shape=[]), "expected an array of numbers"),
    (changed(instances__keypoints__shape=[2, 22, 3]), "instances.keypoints must be float32 .N, K, 2."),
    (changed(instances__keypoint_scores__shape=[2, 3, 11]), "instances.keypoint_scores must be"),
    (changed(instances__self={"dtype": "<f4", "shape": [2], "data": bytes(8)}), "self"),
    (changed(image=b"x"), "image must be a map"),
    (changed(image__codec="gif"), "expected an image of codec jpeg, png or raw, found 'gif'"),
    (changed(image__codec="jpeg"), "expected a picture"),
    (changed(image__data=b"x"), "image must be raw .480, 640, 3., as `size` says, found"),
    (changed(size=[480, 640]), "image must be raw .640, 480, 3., as `size` says, found"),
    (json_message(b"{"), "."),
    (json_message(GOOD % b"1"), "not a record"),
    (json_message(GOOD % b'{"track_id":99999999999999999999}'), "not a record"),
    (json_message(GOOD % b'{"label":7}'), "label must be a name"),
    (json_message(GOOD % b'{"skeleton":7}'), "skeleton must be a name"),
    (json_message(GOOD % b'{"box":[1,2]}'), "boxes must be float32"),
    (json_message(GOOD % b'{"skeleton":"a"},{"skeleton":"b"}'), "several skeletons"),
    (json_message(b'{"stream":"a"}', b"end"), "frames must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason"), BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
def test_bad_messages_are_refused_with_the_reason(message, reason):
    with pytest.raises(MessageError, match=reason) as raised:
        decode(message.value, message.headers)
    assert "\n" not in str(raised.value)
    assert str(raised.value)


def test_a_picture_of_another_size_is_refused():
    message = encode(
        sink_frames.frame(0, None, size=(9, 9), picture=np.zeros((48, 64, 3), np.uint8)), "run", image="png"
    )
    with pytest.raises(MessageError, match=r"image must be .9, 9, 3., as `size` says, found .48, 64, 3."):
        decode(message.value, message.headers)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["msgpack", "json"]))
def test_random_damage_raises_no_other_error(data, encoding):
    message = encode(sink_frames.frame(3, sink_frames.people(2)), "run", encoding)
    value = bytearray(message.value)
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        decode(bytes(value), message.headers)


def test_keys_of_a_later_version_are_ignored():
    message = changed(weather="rain")
    assert decode(message.value, message.headers).seq == 3
