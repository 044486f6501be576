"""Messages: every item comes back as it was, and damaged or foreign messages are refused."""

import contextlib
import string
import timeit
from fractions import Fraction

import av
import hypothesis.extra.numpy as hnp
import msgpack
import numpy as np
import orjson
import pytest
import sink_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.images.yuv import YuvImage
from operators.decoding.frame_images import picture_of
from operators.records.messages import Message, MessageError, decode, encode
from operators.records.parse_record import packet_of
from operators.records.record import header, record, to_json
from pipeline.packet import FIELDS, End, Event, Instances, Packet

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
NAME = st.text(min_size=1)
OWN_NAME = st.text(string.ascii_lowercase, min_size=2, max_size=8).filter(
    lambda name: name not in {*FIELDS, "self", "skeleton"}
)


@st.composite
def instances(draw):
    """Any fields, known ones and others, with any values: NaN, infinity, no rows."""
    sizes = {"N": draw(st.integers(0, 4)), "K": draw(st.integers(0, 5)), "D": draw(st.integers(0, 5))}
    fields = {}
    for name in draw(st.permutations(list(FIELDS)))[: draw(st.integers(0, len(FIELDS)))]:
        dtype, shape = FIELDS[name]
        full_shape = (sizes["N"], *(sizes[d] if isinstance(d, str) else d for d in shape))
        values = st.one_of(st.none(), st.text(max_size=5)) if dtype is np.object_ else None
        fields[name] = draw(hnp.arrays(dtype, full_shape, elements=values))
    for name in draw(st.lists(OWN_NAME, max_size=2, unique=True)):
        kinds = st.sampled_from([np.bool_, np.int8, np.uint16, np.int32, np.float16, np.float64])
        fields[name] = draw(
            hnp.arrays(draw(kinds), hnp.array_shapes(max_dims=3).map(lambda s: (sizes["N"], *s)))
        )
    return Instances(skeleton=draw(st.none() | NAME), **fields)


packets = st.builds(
    Packet,
    stream=NAME,
    seq=COUNT,
    pts_ns=INT64,
    captured_ns=INT64,
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    instances=st.none() | instances(),
    arrived_ns=COUNT,
    run=NAME,
    epoch=COUNT,
    moment_ns=st.none() | INT64,
)


def round_trip(item, *args, **options):
    message = encode(item, "run", *args, **options)
    return decode(message.value, message.headers)


def assert_same(found, expected):
    assert found.replace(instances=None, picture=None) == expected.replace(instances=None, picture=None)
    if expected.instances is None:
        assert found.instances is None
        return
    assert found.instances.skeleton == expected.instances.skeleton
    assert len(found.instances) == len(expected.instances)
    assert list(found.instances.fields) == list(expected.instances.fields)
    for name, array in expected.instances.fields.items():
        assert found.instances[name].dtype == array.dtype
        np.testing.assert_array_equal(found.instances[name], array)


@settings(max_examples=100, deadline=None)
@given(packets)
def test_a_packet_comes_back_as_it_was(packet):
    assert_same(round_trip(packet), packet)


@settings(max_examples=50, deadline=None)
@given(packets, st.sampled_from(["png", "raw"]), st.data())
def test_a_picture_comes_back_as_it_was(packet, codec, data):
    picture = data.draw(hnp.arrays(np.uint8, (packet.size[1], packet.size[0], 3)))
    found = round_trip(packet.replace(picture=picture), image=codec)
    np.testing.assert_array_equal(found.image, picture)
    assert_same(found, packet)


def smooth_picture():
    y, x = np.mgrid[:48, :64]
    return np.stack([3 * x, 5 * y, 2 * (x + y)], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("quality", "most"), [(95, 3), (50, 12)])
def test_a_jpeg_comes_back_within_its_error(quality, most):
    picture = smooth_picture()
    packet = sink_frames.frame(0, None, size=(64, 48), picture=picture)
    found = round_trip(packet, image="jpeg", quality=quality).image.astype(int)
    assert np.abs(found - picture).mean() < most
    assert not np.array_equal(found, picture)


def test_a_better_jpeg_is_larger():
    packet = sink_frames.frame(0, None, size=(64, 48), picture=smooth_picture())
    small, large = (len(encode(packet, "run", image="jpeg", quality=q).value) for q in (30, 95))
    assert small < large


def test_a_yuv_picture_is_sent_as_rgb():
    frame = av.VideoFrame.from_ndarray(smooth_picture(), format="rgb24").reformat(format="yuv420p")
    frame.colorspace, frame.time_base = 5, Fraction(1, 30)
    picture = picture_of(frame)
    assert isinstance(picture, YuvImage)
    packet = sink_frames.frame(0, None, size=(64, 48), picture=picture)
    np.testing.assert_array_equal(round_trip(packet, image="png").image, picture.rgb)


def test_a_message_has_a_picture_only_if_both_packet_and_option_say_so():
    assert round_trip(sink_frames.frame(0, None), image="jpeg").picture is None
    assert round_trip(sink_frames.frame(0, None, picture=smooth_picture(), size=(64, 48))).picture is None


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Event,
        stream=NAME,
        kind=NAME,
        at_ns=INT64,
        details=st.dictionaries(
            st.sampled_from(["reason", "away_s", "before"]), st.floats(-9, 9) | st.text()
        ),
        resets=st.booleans(),
        run=NAME,
    ),
    st.sampled_from(["msgpack", "json"]),
)
def test_an_event_comes_back_as_it_was(event, encoding):
    found = round_trip(event, encoding)
    for name in ("stream", "kind", "at_ns", "details", "resets", "run"):
        assert getattr(found, name) == getattr(event, name)


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_an_item_without_a_run_gets_the_senders_run(encoding):
    assert round_trip(End("yard", 3), encoding) == End("yard", 3, "run")
    assert round_trip(sink_frames.frame(1, None), encoding).run == "run"
    assert round_trip(sink_frames.frame(1, None, run="other"), encoding).run == "other"


@pytest.mark.parametrize("packet", sink_frames.varied())
def test_json_is_the_record(packet):
    message = encode(packet, "run", "json")
    assert message.value + b"\n" == to_json(record(packet.replace(run="run")))
    found = decode(message.value, message.headers)
    assert_same(found, packet_of(orjson.loads(message.value)))
    assert (found.instances is None) == (packet.instances is None)


def test_key_and_headers():
    message = encode(sink_frames.frame(0, None, "höf"), "run")
    assert message.key == "höf".encode()
    assert message.headers == [
        ("schema", b"posestream/1"), ("content-type", b"application/msgpack"), ("type", b"frame")
    ]  # fmt: skip
    assert header("run", "höf")["schema"] == "posestream/1"


@pytest.mark.parametrize(
    ("packet", "options", "message"),
    [
        (
            sink_frames.frame(0, None, picture=smooth_picture()),
            {"encoding": "json", "image": "png"},
            "no picture",
        ),
        (
            sink_frames.frame(0, Instances(odd=np.array([{}, 1], np.object_))),
            {},
            r"instances.odd .object. cannot",
        ),
        (sink_frames.frame(0, Instances(n=np.zeros(2))), {}, "under another name than n"),
        (Event("yard", "lost", 0, {"stream": 1}), {}, "details of an event must not be named stream"),
    ],
)
def test_items_that_cannot_be_encoded_are_refused(packet, options, message):
    with pytest.raises(ValueError, match=message):
        encode(packet, "run", **options)


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
    message = encode(sink_frames.frame(0, None, size=(9, 9), picture=smooth_picture()), "run", image="png")
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


def test_a_message_takes_microseconds():
    packet = sink_frames.frame(3, sink_frames.people(20))
    best_us = min(timeit.repeat(lambda: encode(packet, "run"), number=50, repeat=20)) / 50 * 1e6
    assert best_us < 150  # about 15 on an idle machine


def test_a_message_is_small():
    assert len(encode(sink_frames.frame(3, sink_frames.people(1)), "run").value) < 1300
    assert isinstance(encode(End("a", 1), "run"), Message)
