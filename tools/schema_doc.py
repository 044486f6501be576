"""`docs/schema.md`, made from the code that writes and reads records: `python -m tools.schema_doc`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgpack
import numpy as np

from operators.records.messages import encode
from operators.records.record import event_record, record, to_json
from operators.records.schema import (
    END_KEYS,
    EVENT_KEYS,
    EVENT_KINDS,
    FRAME_KEYS,
    HEADERS,
    INSTANCE_KEYS,
    MESSAGE_KEYS,
    SCHEMA,
    UNITS,
)
from pipeline.packet import FIELDS, End, Event, Instances, Packet

FILE = Path(__file__).resolve().parent.parent / "docs" / "schema.md"

HORSE = Instances(
    skeleton="ap10k",
    boxes=np.array([[10.123, 20, 110.456, 220.789]], np.float32),
    scores=np.array([0.94119], np.float32),
    labels=np.array(["horse"], np.object_),
    track_ids=np.array([3]),
    keypoints=np.array([[[100.126, 1919.999], [np.nan, np.nan], [7, 8]]], np.float32),
    keypoint_scores=np.array([[0.98767, 0.1, 1]], np.float32),
    keypoints_3d=np.array([[[0.12345, -1.5, 2], [np.nan] * 3, [0, 0, 0]]], np.float32),
)
FRAME = Packet("yard", 17, 283_333_333, 1_790_000_000_000_000_000, (1920, 1080), None, HORSE)
LOST = Event("yard", "lost", 1_790_000_000_000_000_000, {"reason": "no frame for 5 s"})

FIELD_MEANINGS = {
    "boxes": "x0, y0, x1, y1 in px of the frame",
    "scores": "of the detection, 0..1",
    "labels": "class names; a list of strings or nil, not an array",
    "track_ids": "unique within the stream and epoch; negative: not tracked",
    "rois": "rotated boxes: centre x and y, width, height in px, angle in rad",
    "keypoints": "px of the frame; NaN where the model gave none",
    "keypoint_scores": "as the model gives them",
    "keypoints_3d": "m",
    "embeddings": "of the appearance",
}


def document() -> str:
    """The whole document."""
    message = encode(FRAME, "0123456789ab")
    assert {"stream", "run", "seq"} <= msgpack.unpackb(message.value).keys()
    return TEXT.format(
        schema=SCHEMA,
        record=to_json(record(FRAME)).decode(),
        event=to_json(event_record(LOST)).decode(),
        end=encode(End("yard", 900), "0123456789ab", "json").value.decode(),
        frame_keys=_table("frame", FRAME_KEYS),
        instance_keys=_table("instance", INSTANCE_KEYS),
        event_keys=_table("event", EVENT_KEYS),
        kinds=_table("`event`", EVENT_KINDS),
        units="\n".join(f"    {name:13} {unit}" for name, unit in UNITS.items()),
        headers=_table("header", HEADERS),
        message_keys=_table("key", MESSAGE_KEYS),
        end_keys=_table("end", END_KEYS),
        fields=_fields(),
        key=message.key.decode(),
        size=len(message.value),
    )


def _table(title: str, meanings: Mapping[str, str]) -> str:
    rows = [f"| `{name}` | {meaning} |" for name, meaning in meanings.items()]
    return "\n".join([f"| {title} | |", "| --- | --- |", *rows])


def _fields() -> str:
    rows = ["| field | dtype | shape | |", "| --- | --- | --- | --- |"]
    for name, (dtype, shape) in FIELDS.items():
        kind = "text" if dtype is np.object_ else f"`{np.dtype(dtype).str}`"
        sizes = ", ".join(["N", *map(str, shape)])
        rows.append(f"| `{name}` | {kind} | ({sizes}) | {FIELD_MEANINGS[name]} |")
    return "\n".join(rows)


TEXT = """\
<!-- Made by `python -m tools.schema_doc`; change the code, not this file. -->
# The record: `{schema}`

One frame of one stream and what was found in it. The JSONL sink writes records as JSON, Parquet holds the
same as columns, Kafka carries them as messages; `posestream.read` reads all of them back as arrays.

## JSONL

The first line of a file is its header, then comes a line a frame, in the order of `seq`, frames without
instances included, and a line an event, in its place between the frames. This is the record of a horse,
with a skeleton cut down to three keypoints:

```json
{record}```

{frame_keys}

{instance_keys}

What no operator provided is absent, never zero. A keypoint that the model did not give is `null`; an
instance for which it gave none lacks `keypoints`. Readers ignore keys that they do not know; a change that
old readers would misread gets a new number in `schema`.

An event says what happened to the stream; what more there is to say of it stands beside its other keys:

```json
{event}```

{event_keys}

{kinds}

The header: `schema`, `run` (id of the run), `stream`, `units` (as text, below), and `skeletons`, which maps
the name of each skeleton to its `keypoints` (names) and `limbs` (pairs of indices into them).

{units}

## Files

| sink | files | |
| --- | --- | --- |
| `jsonl_sink` | `yard.jsonl` | header and records, each on disk as soon as its frame is done |
| `coco_sink` | `yard.coco.json` | COCO keypoint results, for evaluation tools; `image_id` is `seq` |
| `parquet_sink` | `yard.parquet/part-00000.parquet` … | columns, for analysis; needs `posestream[parquet]` |
| `video_sink` | `yard.mp4` | the picture with everything drawn; begins at 0 s, whatever the stream's clock |

A name that cannot be a file's is changed and gets a hash: `rtsp://cam/live` becomes
`rtsp___cam_live-b71c8f3f`. Files of an earlier run are replaced, but not those of cameras; a stream that
comes again in the same run goes on in `yard.2.jsonl`. `rotate_mb` and `rotate_min` cut long streams into
files by time, `yard.20260714T031500Z.jsonl`. When a disk is full, what was written is a valid file up to the
last whole line, entry, part or fragment.

**COCO** holds persons' keypoints as coco17 where the skeleton has those, and COCO's category ids (1:
person; 0 for a label that is none of COCO's). Points that were not found are 0, 0, 0, as the format wants
it. It has no place for times, 3D or frames without instances.

**Parquet** has a row an instance, and a row for a frame without: `seq`, `pts_ns`, `captured_ns`, `epoch`,
`moment_ns`, `width`, `height`, `instances` (their number in this frame, null if nothing has looked), then
`track_id`, `label`, `detected`, `score`, `box` (4), `skeleton`, `keypoints` (K × 2), `keypoint_scores` (K),
`keypoints_3d` (K × 3), as float32 lists of fixed sizes, not rounded. Gaps are NaN within a row and null where
a row has nothing. The header is the file's metadata `posestream`. A part in which nobody was seen lacks the
columns of instances. Events have no place in it.

## Kafka

A message a frame, and one for each event and for the end of a stream. Its key is the stream (UTF-8), so
that a stream stays in one partition and in order. Its headers:

{headers}

As JSON a frame is the record above, with `run`. As msgpack, the default, it is the same map but for the
following keys; the horse above takes {size} bytes. Nothing is rounded, and all fields of the instances are
there.

{message_keys}

A column is a map of `dtype` (NumPy's, as `<f4`), `shape` and `data` (bytes, row by row), text a list of
strings or nil. These have a fixed meaning; operators may add fields of their own:

{fields}

An event is the same map as in JSONL, with `run`. An end says that no more frames of the stream will come in
this run:

```json
{end}
```

{end_keys}

Delivery is at least once. `(stream, run, seq)` names a frame: a second message with the same three is a
duplicate, whatever else it holds, and can be left out, as `posestream.read` and `kafka_source` do. A
message that `kafka_source` cannot read goes to the topic `TOPIC.dead` as it is, with the headers `reason`
and `from` (topic, partition and offset). A message without these headers that is a JPEG or PNG is a frame,
too: its stream is the key, or the topic if it has none, its run TOPIC-PARTITION, its `seq` the offset.

## Reading

```python
import posestream

yard = posestream.read("out/yard.jsonl")
yard.pts_ns          # (F,) a frame
yard.keypoints       # (R, K, 2) a row: an instance of a frame
yard.frame           # (R,) the frame of each row
yard.events          # what happened to the stream
horse = yard.track(3)
horse.pts_ns[horse.frame], horse.keypoints[:, 0]

yard = posestream.read("kafka://localhost:9092/poses?stream=yard")
both = posestream.read_folder("kafka://localhost:9092/poses")    # {{"barn": …, "yard": …}}
```

A last line that was cut off when its writer was killed costs only itself, with a warning.

A topic is read from its beginning to its present end, each frame once, sorted by `seq`, of the newest run
in it. `?run=ID` takes another run, `?until=TIME` ends before the first message of that time (ISO 8601, or
seconds since 1970). Without `?stream=NAME` it must hold one stream."""


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
