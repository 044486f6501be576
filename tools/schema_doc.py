"""Write `docs/schema.md` from the code that writes and reads records: `python -m tools.schema_doc`."""

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
    "scores": "score of the detection, 0..1",
    "labels": "class names; a list of strings or nil, not an array",
    "track_ids": "unique within the stream and epoch; negative: not tracked",
    "rois": "rotated boxes: centre x and y, width, height in px, angle in rad",
    "keypoints": "px of the frame; NaN where the model gave none",
    "keypoint_scores": "as the model gives them",
    "keypoints_3d": "m",
    "embeddings": "vectors that describe the appearance",
}


def document() -> str:
    """The text of the document."""
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

A record is one frame of one stream and the instances (animals or persons) found in it. The JSONL sink
writes records as JSON, the Parquet sink as columns, the Kafka sink as messages; `posestream.read` reads all
of them back as arrays.

## JSONL

The first line of a file is its header. Then comes a line for each frame, in the order of `seq`, including
frames without instances, and a line for each event, between the frames where it happened. This is the
record of a horse, with a skeleton cut down to three keypoints:

```json
{record}```

{frame_keys}

{instance_keys}

A value that no operator provided is absent, never zero. A keypoint that the model did not give is `null`;
an instance without any keypoint lacks `keypoints`. Readers ignore unknown keys. A change that old readers
would misread gets a new number in `schema`.

An event says what happened to the stream. Some kinds of event have details, as further keys:

```json
{event}```

{event_keys}

{kinds}

The header holds `schema`, `run` (id of the run), `stream`, `units` (the texts below), and `skeletons`: by
the name of each skeleton, its `keypoints` (names) and `limbs` (pairs of indices into the keypoints).

{units}

## Files

| sink | files | |
| --- | --- | --- |
| `jsonl_sink` | `yard.jsonl` | header and records; each record is written as soon as its frame arrives |
| `coco_sink` | `yard.coco.json` | COCO keypoint results, for evaluation tools; `image_id` is `seq` |
| `parquet_sink` | `yard.parquet/part-00000.parquet` … | columns, for analysis; needs `posestream[parquet]` |
| `video_sink` | `yard.mp4` | the pictures with the instances drawn; begins at 0 s |

A stream whose name is not a safe file name gets a changed one with a hash: `rtsp://cam/live` becomes
`rtsp___cam_live-b71c8f3f`. Files of an earlier run are replaced, except in live runs (cameras). A stream
that begins again in the same run continues in `yard.2.jsonl`. With `rotate_mb` or `rotate_min` a long
stream becomes several files, named by time: `yard.20260714T031500Z.jsonl`. On a full disk a file stays
valid: it ends with its last complete line, entry, part or fragment.

**COCO** holds keypoints as coco17 if the skeleton has these points, and COCO's category ids (1: person; 0
for a label that COCO does not have). A missing keypoint is 0, 0, 0, as the format demands. COCO has no
place for times, 3D or frames without instances.

**Parquet** has a row for each instance, and one row for a frame without instances: `seq`, `pts_ns`,
`captured_ns`, `epoch`, `moment_ns`, `width`, `height`, `instances` (their number in this frame, null if no
detector ran), then `track_id`, `label`, `detected`, `score`, `box` (4), `skeleton`, `keypoints` (K × 2),
`keypoint_scores` (K), `keypoints_3d` (K × 3), as float32 lists of fixed sizes, not rounded. A missing
keypoint is NaN; a field that a whole row lacks is null. The header is in the file's metadata, under
`posestream`. A part without any instance lacks the columns of instances. Events are not stored.

## Kafka

There is a message for each frame, for each event and for the end of a stream. Its key is the stream
(UTF-8), so that a stream stays in one partition and in order. Its headers:

{headers}

In JSON, a frame is the record above, with `run`. In msgpack, the default, it is the same map except for the
following keys; the horse above takes {size} bytes. Nothing is rounded, and all fields of the instances are
included.

{message_keys}

A column of numbers is a map of `dtype` (as NumPy writes it, `<f4` for example), `shape` and `data` (bytes,
row by row); a column of text is a list of strings or nil. The following fields have a fixed meaning;
operators may add others:

{fields}

An event is the same map as in JSONL, with `run`. An end says that no more frames of the stream follow in
this run:

```json
{end}
```

{end_keys}

Delivery is at least once. `(stream, run, seq)` identifies a frame: a second message with the same three is
a duplicate, whatever else it holds. `posestream.read` and `kafka_source` leave duplicates out.
`kafka_source` copies a message that it cannot read to the topic `TOPIC.dead`, with the headers `reason` and
`from` (topic, partition and offset). A JPEG or PNG without the headers above is a frame, too: its stream is
the key, or the topic if there is no key; its run is TOPIC-PARTITION; its `seq` is the offset.

## Reading

```python
import posestream

yard = posestream.read("out/yard.jsonl")
yard.pts_ns          # (F,) for each frame
yard.keypoints       # (R, K, 2) for each row; a row is one instance in one frame
yard.frame           # (R,) index of each row's frame
yard.events          # the events of the stream
horse = yard.track(3)
horse.pts_ns[horse.frame], horse.keypoints[:, 0]

yard = posestream.read("kafka://localhost:9092/poses?stream=yard")
both = posestream.read_folder("kafka://localhost:9092/poses")    # {{"barn": …, "yard": …}}
```

If the last line was cut off because its writer was killed, only this line is lost, with a warning.

A topic is read from its beginning to its present end. Frames are sorted by `seq`, each is read once, and
only those of the newest run are read. `?run=ID` reads another run; `?until=TIME` stops before the first
message of that time (ISO 8601, or seconds since 1970). Without `?stream=NAME` the topic must hold only one
stream.
"""


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
