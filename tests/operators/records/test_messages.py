"""Messages: packets, events and ends come back as they were."""

import string
import timeit
from fractions import Fraction

import av
import hypothesis.extra.numpy as hnp
import numpy as np
import orjson
import pytest
import sink_frames
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.images.yuv import YuvImage
from operators.decoding.frame_images import picture_of
from operators.records.messages import Message, decode, encode
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


def test_a_message_takes_microseconds():
    packet = sink_frames.frame(3, sink_frames.people(20))
    best_us = min(timeit.repeat(lambda: encode(packet, "run"), number=50, repeat=20)) / 50 * 1e6
    assert best_us < 150  # about 15 on an idle machine


def test_a_message_is_small():
    assert len(encode(sink_frames.frame(3, sink_frames.people(1)), "run").value) < 1300
    assert isinstance(encode(End("a", 1), "run"), Message)
