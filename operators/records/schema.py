"""The keys of records and messages and what they mean; `docs/schema.md` is made from them."""

from __future__ import annotations

from typing import Any

SCHEMA = "posestream/1"
# Written into the header of every file: a changed word changes the files.
UNITS = {
    "pts_ns": "ns on the stream's own clock",
    "captured_ns": "ns since 1970-01-01 UTC",
    "size": "px: width, height",
    "box": "px of the frame: x0, y0, x1, y1; to 0.01",
    "score": "0..1; to 0.0001",
    "keypoints": "x, y in px of the frame, to 0.01; score as the model gives it, to 0.0001",
    "keypoints_3d": "m: x, y, z; to 0.0001",
}

# Records

FRAME_KEYS = {
    "stream": "name of the camera or file in the run",
    "run": "id of the run that captured the frame; absent in the files of that run, whose header has it",
    "seq": "number of the frame in its stream, from 0; a gap is a dropped frame",
    "pts_ns": "time of the frame in ns, on the stream's own clock",
    "captured_ns": "ns since 1970-01-01 UTC at which the frame was captured, or entered the graph",
    "size": "width and height in px",
    "epoch": "grows when the stream is interrupted or moves to another worker; the same track id in two "
    "epochs means nothing; absent: 0",
    "moment_ns": "ns since 1970-01-01 UTC, from `sync`: the same for the frames of all cameras that belong "
    "together",
    "instances": "the animals and persons found: `[]` if there were none, absent if no detector ran on this "
    "frame",
}
INSTANCE_KEYS = {
    "track_id": "whole number, unique within the stream and epoch",
    "label": "class name",
    "detected": "false if the box is the tracker's prediction and not a detection",
    "score": "of the detection, 0..1, to 0.0001",
    "box": "x0, y0, x1, y1 in px of the frame, to 0.01; may reach beyond the frame",
    "skeleton": "name of the skeleton of the keypoints, in the header and in `configs/skeletons`",
    "keypoints": "in the skeleton's order, a list of x, y (px, to 0.01) and the model's score (to 0.0001)",
    "keypoints_3d": "in the same order, a list of x, y, z in m, to 0.0001",
}
EVENT_KEYS = {
    "stream": "name of the camera or file in the run",
    "run": "as in a frame",
    "event": "what happened, see below",
    "at_ns": "when it happened, ns since 1970-01-01 UTC",
    "resets": "true if tracks must not continue across the event; absent: false",
}
EVENT_KINDS = {
    "lost": "the source gives no more frames: `reason`",
    "back": "the source gives frames again: `away_s`",
    "changed": "frames have another size or codec from here on: `before`, `after`",
    "jumped": "the stream's own clock jumped: `by_s`",
    "moved": "another worker has taken over the stream before its end",
}

# Messages

HEADERS = {
    "schema": f"`{SCHEMA}`; readers refuse any other",
    "content-type": "`application/msgpack` or `application/json`",
    "type": "`frame`, `event` or `end`",
}
MESSAGE_KEYS = {
    "arrived_ns": "ns since 1970-01-01 UTC at which the frame entered the graph that published it; may be "
    "absent",
    "instances": "a map: `n` (number of rows), `skeleton` (name, may be absent), a column for each field; "
    "absent if no detector ran on this frame",
    "image": "a map: `codec` (`jpeg`, `png`, `raw`), `data` (bytes), `shape` (with raw: height, width, 3); "
    "absent unless the sink sends pictures",
}
END_KEYS = {
    "stream": "name of the stream that has ended",
    "end": "true",
    "frames": "number of packets that its source gave",
    "run": "as in a frame",
}

# What a row holds in a field that other rows have and it lacks; in all other fields that is NaN.
GAPS: dict[str, Any] = {"labels": None, "track_ids": -1, "detected": True}
