"""Kafka messages of packets, events and ends of streams, as `docs/schema.md` describes them.

There are two encodings of one schema. JSON is the record as the JSONL sink writes it: rounded, without the
picture. msgpack is the same map, but with all fields of the instances bit for bit, and with the picture if
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, NamedTuple

import cv2
import msgpack
import numpy as np
import orjson

from operators.records.parse_record import (
    event_of,
    frame_of,
    int64_value,
    packet_of,
    text_value,
)
from operators.records.record import event_record, frame_record, record, to_json
from operators.records.schema import SCHEMA
from pipeline.packet import End, Event, Instances, Packet

Encoding = Literal["msgpack", "json"]
ImageCodec = Literal["none", "jpeg", "png", "raw"]
CONTENT_TYPES: dict[str, Encoding] = {"application/msgpack": "msgpack", "application/json": "json"}
PNG_COMPRESSION = 1  # of 9: twice as fast as OpenCV's default, and only a few percent larger


class MessageError(ValueError):
    """A message cannot be read."""


class Message(NamedTuple):
    """A message of a topic."""

    key: bytes  # the stream, so that it stays in one partition and in order
    value: bytes
    headers: list[tuple[str, bytes]]


def encode(
    item: Packet | Event | End,
    run_id: str,
    encoding: Encoding = "msgpack",
    image: ImageCodec = "none",
    quality: int = 90,
) -> Message:
    """The message of an item; `run_id` is the run of items whose own `run` is empty.

    A packet without a picture makes a message without one, whatever `image` says.

    Raises:
        ValueError: JSON with a picture is asked for, or a field of the instances cannot be sent.
    """
    if isinstance(item, Packet):
        if encoding == "json" and not item.run:  # so that `run` has its usual place
            item = item.replace(run=run_id)
        kind, data = "frame", _frame_map(item, encoding, image, quality)
    elif isinstance(item, Event):
        kind, data = "event", event_record(item)
    else:
        kind, data = "end", {"stream": item.stream, "end": True, "frames": item.frames}
    data["run"] = item.run or run_id
    value = msgpack.packb(data) if encoding == "msgpack" else to_json(data)[:-1]
    return Message(item.stream.encode(), value, _headers(encoding, kind))


@cache  # one list for all messages: it is never changed
def _headers(encoding: Encoding, kind: str) -> list[tuple[str, bytes]]:
    return [
        ("schema", SCHEMA.encode()),
        ("content-type", f"application/{encoding}".encode()),
        ("type", kind.encode()),
    ]


def decode(
    value: bytes | None, headers: Iterable[tuple[str, bytes]], *, pictures: bool = True
) -> Packet | Event | End:
    """The item of a message. Its arrays are read-only; `pictures=False` leaves the picture out.

    Raises:
        MessageError: the message has another schema, is damaged, or holds invalid values.
    """
    texts = {name: text.decode(errors="replace") for name, text in headers if text is not None}
    schema = texts.get("schema")
    if schema != SCHEMA:
        found = "found none" if schema is None else f"found {schema!r:.60}; read it with its own version"
        raise MessageError(f"expected a message with the header schema {SCHEMA!r}, {found}")
    encoding = CONTENT_TYPES.get(texts.get("content-type", ""))
    if encoding is None:
        known = " or ".join(CONTENT_TYPES)
        raise MessageError(f"expected content-type {known}, found {texts.get('content-type')!r:.60}")
    try:
        data = (orjson.loads if encoding == "json" else msgpack.unpackb)(value or b"")
        if not isinstance(data, dict):
            raise MessageError(f"expected a map, found {type(data).__name__}")
        return _item(texts.get("type"), data, encoding, pictures)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        if isinstance(error, MessageError):
            raise
        raise MessageError(str(error) or type(error).__name__) from None


def decode_picture(data: bytes) -> np.ndarray:
    """The image of a JPEG or PNG, (H, W, 3) uint8 RGB.

    Raises:
        MessageError: the data is neither.
    """
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # no data, or a size that OpenCV refuses
        bgr = None
    if bgr is None:
        raise MessageError(f"expected a picture (JPEG or PNG), found {data[:8]!r} … ({len(data)} bytes)")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def _item(kind: str | None, data: dict[str, Any], encoding: Encoding, pictures: bool) -> Packet | Event | End:
    if kind == "event":
        return event_of(data)
    if kind == "end":
        return End(
            text_value(data, "stream"),
            int64_value(data.get("frames"), "frames", 0),
            text_value(data, "run", ""),
        )
    if kind != "frame":
        raise MessageError(f"expected a message of type frame, event or end, found {kind!r:.60}")
    if encoding == "json":
        return packet_of(data)
    columns, image = data.get("instances"), data.get("image") if pictures else None
    packet = frame_of(
        data,
        arrived_ns=int64_value(data.get("arrived_ns", 0), "arrived_ns", 0),
        instances=None if columns is None else _instances_of(columns),
    )
    return packet if image is None else packet.replace(picture=_picture_of(image, packet.size))


def _frame_map(packet: Packet, encoding: Encoding, image: ImageCodec, quality: int) -> dict[str, Any]:
    if encoding == "json":
        if image != "none":
            raise ValueError(f"JSON messages carry no picture, asked for {image}; use msgpack")
        return record(packet)
    data = frame_record(packet)
    if packet.arrived_ns:
        data["arrived_ns"] = packet.arrived_ns
    if packet.instances is not None:
        data["instances"] = _columns(packet.instances)
    if image != "none" and packet.picture is not None:
        data["image"] = _image_map(packet, image, quality)
    return data


def _columns(instances: Instances) -> dict[str, Any]:
    columns: dict[str, Any] = {"n": len(instances)}
    if instances.skeleton is not None:
        columns["skeleton"] = instances.skeleton
    for name, array in instances.fields.items():
        kind = array.dtype.kind
        if kind in "biuf" and name != "n":
            columns[name] = {"dtype": array.dtype.str, "shape": array.shape, "data": array.tobytes()}
        elif kind in "OU" and name != "n" and array.ndim == 1 and _all_text(texts := array.tolist()):
            columns[name] = texts
        else:
            raise ValueError(
                f"instances.{name} ({array.dtype}) cannot be sent; expected numbers, or strings (N,), "
                "under another name than n"
            )
    return columns


def _instances_of(columns: Any) -> Instances:
    if not isinstance(columns, dict):
        raise MessageError(f"instances must be a map of columns, found {type(columns).__name__}")
    n = int64_value(columns.get("n"), "instances.n", 0)
    fields = {
        name: _column(name, column) for name, column in columns.items() if name not in ("n", "skeleton")
    }
    for name, array in fields.items():
        if len(array) != n:
            raise MessageError(f"instances.{name} has {len(array)} rows, expected n = {n}")
    if n and not fields:
        raise MessageError(f"instances without any field, expected n = 0, found {n}")
    skeleton = columns.get("skeleton")
    if not isinstance(skeleton, str | None):
        raise MessageError(f"instances.skeleton must be a name, found {skeleton!r:.60}")
    return Instances(skeleton=skeleton, **fields).validate()


def _column(name: Any, column: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise MessageError(f"the name of a field must be text, found {name!r:.60}")
    if isinstance(column, list):
        if not _all_text(column):
            raise MessageError(f"instances.{name} must be a list of strings, or an array")
        return np.array(column, np.object_)
    try:
        dtype, shape, data = np.dtype(str(column["dtype"])), column["shape"], column["data"]
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise MessageError(
            f"instances.{name}: expected an array of dtype, shape, data; {type(error).__name__} {error}"
        ) from None
    if dtype.kind not in "biuf" or not isinstance(data, bytes) or not isinstance(shape, list) or not shape:
        raise MessageError(f"instances.{name}: expected an array of numbers, found {dtype} {shape!r:.60}")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise MessageError(f"instances.{name}.shape must be whole numbers from 0, found {shape!r:.60}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(f"instances.{name} must be {dtype} {shape}, found {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _all_text(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


def _image_map(packet: Packet, codec: ImageCodec, quality: int) -> dict[str, Any]:
    rgb = packet.image
    assert rgb is not None  # the caller has checked it
    if codec == "raw":
        return {"codec": codec, "data": rgb.tobytes(), "shape": rgb.shape}
    options = (
        [cv2.IMWRITE_JPEG_QUALITY, quality]
        if codec == "jpeg"
        else [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]
    )
    done, data = cv2.imencode(f".{codec}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"{packet.stream} frame {packet.seq} cannot be written as {codec}: {rgb.shape}")
    return {"codec": codec, "data": data.tobytes()}


def _picture_of(image: Any, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(image, dict) or not isinstance(data := image.get("data"), bytes):
        raise MessageError("image must be a map of codec and data")
    codec, shape = image.get("codec"), (size[1], size[0], 3)
    if codec == "raw":
        found = image.get("shape")
        if found != list(shape) or len(data) != math.prod(shape):
            raise MessageError(
                f"image must be raw {shape}, as `size` says, found {found!r:.60}, {len(data)} bytes"
            )
        return np.frombuffer(data, np.uint8).reshape(shape)
    if codec not in ("jpeg", "png"):
        raise MessageError(f"expected an image of codec jpeg, png or raw, found {codec!r:.60}")
    picture = decode_picture(data)
    if picture.shape != shape:
        raise MessageError(f"image must be {shape}, as `size` says, found {picture.shape}")
    return picture
