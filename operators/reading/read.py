"""Read the results of the JSONL, COCO, Parquet and Kafka sinks back as arrays."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from operators.reading.recording import Recording, gather
from operators.records.parquet import packets_of
from operators.records.parse_record import event_of, packet_of
from operators.records.schema import SCHEMA
from pipeline.errors import SourceError
from pipeline.packet import Event, Packet

log = logging.getLogger("posestream.read")

VIDEOS = {".mp4", ".mkv", ".mov", ".avi", ".webm"}


def read(path: str | Path) -> Recording:
    """Read one stream from a `.jsonl` file, a COCO `.json` file, a `.parquet` folder or one of its parts.

    A topic, `kafka://HOST:PORT/TOPIC`, is read up to its present end. Add `?stream=NAME` if it holds several
    streams, `run=ID` for another run than the newest, `until=TIME` to stop earlier.

    Raises:
        SourceError: there is no such file or topic, it has another schema, or it is damaged before its end.
    """
    if str(path).startswith("kafka://"):
        from operators.reading.kafka_topic import read_stream

        return read_stream(str(path))
    path = Path(path)
    if not path.exists():
        raise SourceError(f"no file {path}")
    if path.suffix == ".jsonl":
        return _read_jsonl(path)
    if path.suffix == ".json":
        return _read_coco(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix in VIDEOS:
        raise SourceError(f"{path} holds a picture, not keypoints; read the .jsonl beside it")
    if path.is_dir():
        raise SourceError(
            f"{path} is a folder; use read_folder for all streams in it, or read one of its files"
        )
    raise SourceError(
        f"{path}: expected .jsonl, .json (COCO) or .parquet, found {path.suffix or 'no suffix'}"
    )


def read_folder(folder: str | Path) -> dict[str, Recording]:
    """Read all `.jsonl` files of a folder, by file name without suffix, which is usually the stream's name.

    Of a topic, `kafka://HOST:PORT/TOPIC`, read all streams by their names.

    Raises:
        SourceError: there are no results, or a file cannot be read.
    """
    if str(folder).startswith("kafka://"):
        from operators.reading.kafka_topic import read_topic

        return read_topic(str(folder))
    paths = sorted(Path(folder).glob("*.jsonl"))
    if not paths:
        raise SourceError(
            f"{folder}: expected .jsonl files, found none; for other formats use read, file by file"
        )
    return {path.stem: read(path) for path in paths}


def _read_jsonl(path: Path) -> Recording:
    with path.open("rb") as lines:
        header = _header(next(lines, b""), path)
        try:
            return gather(header["stream"], header, _items(lines, path))
        except ValueError as error:
            raise SourceError(f"{path}: {error}") from None


def _header(line: bytes, path: Path) -> dict[str, Any]:
    try:
        header = orjson.loads(line)
        schema = header["schema"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        found = f"{line[:60]!r}" if line else "an empty file"
        raise SourceError(f"{path}: expected a header with schema {SCHEMA!r}, found {found}") from None
    if schema != SCHEMA:
        raise SourceError(
            f"{path}: expected schema {SCHEMA!r}, found {schema!r}; read it with its own version"
        )
    return header


def _items(lines: Iterator[bytes], path: Path) -> Iterator[Packet | Event]:
    for number, line in enumerate(lines, start=2):
        try:
            data = orjson.loads(line)
            yield event_of(data) if "event" in data else packet_of(data)
        except (ValueError, TypeError) as error:  # JSONDecodeError is a ValueError
            if not line.endswith(b"\n"):  # the last line, cut off when its writer was killed
                log.warning(
                    "%s: line %d is cut off; the %d lines before it are complete", path, number, number - 1
                )
                return
            raise ValueError(f"line {number}: {error}") from None


def _read_coco(path: Path) -> Recording:
    try:
        entries = orjson.loads(path.read_bytes())
        ids = np.array([entry["image_id"] for entry in entries], np.int64)
        seq, frame = np.unique(ids, return_inverse=True)
        rows = [entries[i] for i in np.argsort(frame, kind="stable")]
        fields = _coco_fields(rows)
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path}: expected a JSON array of COCO results, found {type(error).__name__}: {error}"
        ) from None
    return Recording(
        stream=path.name.removesuffix(".json").removesuffix(".coco"),
        header={},
        seq=seq,
        pts_ns=None,
        captured_ns=None,
        size=None,
        searched=np.ones(len(seq), np.bool_),
        frame=np.sort(frame),
        **fields,
    )


def _coco_fields(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def any_has(key: str) -> bool:
        return any(key in row for row in rows)

    fields: dict[str, Any] = {}
    if any_has("bbox"):
        boxes = np.array([row.get("bbox", [np.nan] * 4) for row in rows], np.float32)
        fields["boxes"] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if any_has("score"):
        fields["scores"] = np.array([row.get("score", np.nan) for row in rows], np.float32)
    if any_has("track_id"):
        fields["track_ids"] = np.array([row.get("track_id", -1) for row in rows], np.int64)
    if any_has("label"):
        fields["labels"] = np.array([row.get("label") for row in rows], np.object_)
    if any_has("keypoints"):
        empty = [0.0] * max(len(row.get("keypoints", ())) for row in rows)
        triples = np.array([row.get("keypoints", empty) for row in rows], np.float32).reshape(
            len(rows), -1, 3
        )
        triples[~triples.any(axis=2)] = np.nan  # COCO writes 0, 0, 0 for a missing point
        fields["keypoints"], fields["keypoint_scores"] = triples[..., :2].copy(), triples[..., 2].copy()
        all_persons = all(row.get("category_id") == 1 for row in rows)
        fields["skeleton"] = "coco17" if all_persons and triples.shape[1] == 17 else None
    return fields


def _read_parquet(path: Path) -> Recording:
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise SourceError(
            f'{path} needs pyarrow, which is not installed; run: pip install "posestream[parquet]"'
        ) from None
    parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not parts:
        raise SourceError(f"{path}: expected part-00000.parquet …, found none")
    try:
        tables = [parquet.ParquetFile(part).read() for part in parts]
        headers = [_header((t.schema.metadata or {}).get(b"posestream", b""), path) for t in tables]
        packets = [packet for table in tables for packet in packets_of(table, headers[0]["stream"])]
        skeletons = {name: known for header in headers for name, known in header["skeletons"].items()}
        return gather(headers[0]["stream"], headers[0] | {"skeletons": skeletons}, packets)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise SourceError(f"{path}: {error}; expected what parquet_sink writes") from None
