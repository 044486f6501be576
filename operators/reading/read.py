"""Read results back: what the JSONL, COCO, Parquet and Kafka sinks have written, as arrays."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from operators.reading.recording import GAPS, Recording, gather
from operators.records.record import SCHEMA, event_of, packet_of
from pipeline.errors import SourceError
from pipeline.packet import Event, Instances, Packet

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("posestream.read")

VIDEOS = {".mp4", ".mkv", ".mov", ".avi", ".webm"}


def read(path: str | Path) -> Recording:
    """Read one stream: a `.jsonl` file, a COCO `.json` file, a `.parquet` folder or one of its parts.

    Or a topic, up to its present end: `kafka://HOST:PORT/TOPIC`, with `?stream=NAME` where there are several
    streams in it; `run=ID` takes another run than the newest, `until=TIME` ends sooner.

    Raises:
        SourceError: not such a file or topic, of another schema, or damaged before its end.
    """
    if str(path).startswith("kafka://"):
        from operators.reading.kafka_topic import read_kafka

        return read_kafka(str(path))
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
        raise SourceError(f"{path} is a folder; read_folder reads all streams in it, read one of its files")
    raise SourceError(
        f"{path}: expected .jsonl, .json (COCO) or .parquet, found {path.suffix or 'no suffix'}"
    )


def read_folder(folder: str | Path) -> dict[str, Recording]:
    """Read all `.jsonl` files of a folder, by their names without the suffix (the stream's, as a rule).

    Or all streams of a topic, `kafka://HOST:PORT/TOPIC`, by their names.

    Raises:
        SourceError: there is none, or one cannot be read.
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
            found = orjson.loads(line)
            yield event_of(found) if "event" in found else packet_of(found)
        except (ValueError, TypeError) as error:  # JSONDecodeError is one
            if not line.endswith(b"\n"):  # the last, cut off when its writer was killed
                log.warning(
                    "%s: line %d is cut off; the %d lines before it are whole", path, number, number - 1
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
        path.name.removesuffix(".json").removesuffix(".coco"),
        {},
        seq,
        None,
        None,
        None,
        np.ones(len(seq), np.bool_),
        np.sort(frame),
        **fields,
    )


def _coco_fields(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def have(key: str) -> bool:
        return any(key in row for row in rows)

    fields: dict[str, Any] = {}
    if have("bbox"):
        boxes = np.array([row.get("bbox", [np.nan] * 4) for row in rows], np.float32)
        fields["boxes"] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    if have("score"):
        fields["scores"] = np.array([row.get("score", np.nan) for row in rows], np.float32)
    if have("track_id"):
        fields["track_ids"] = np.array([row.get("track_id", -1) for row in rows], np.int64)
    if have("label"):
        fields["labels"] = np.array([row.get("label") for row in rows], np.object_)
    if have("keypoints"):
        empty = [0.0] * max(len(row.get("keypoints", ())) for row in rows)
        triples = np.array([row.get("keypoints", empty) for row in rows], np.float32).reshape(
            len(rows), -1, 3
        )
        triples[~triples.any(axis=2)] = np.nan  # 0, 0, 0 is COCO's word for not found
        fields["keypoints"], fields["keypoint_scores"] = triples[..., :2].copy(), triples[..., 2].copy()
        persons = all(row.get("category_id") == 1 for row in rows)
        fields["skeleton"] = "coco17" if persons and triples.shape[1] == 17 else None
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
        packets = [packet for table in tables for packet in _table_packets(table, headers[0]["stream"])]
        skeletons = {name: known for header in headers for name, known in header["skeletons"].items()}
        return gather(headers[0]["stream"], headers[0] | {"skeletons": skeletons}, packets)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise SourceError(f"{path}: {error}; expected what parquet_sink writes") from None


def _table_packets(table: pa.Table, stream: str) -> Iterator[Packet]:
    """The packets of a part: a row an instance, or one for a frame without."""
    from operators.parquet_sink import COLUMNS

    table = table.combine_chunks()
    columns = {
        field: _values(table[column], field)
        for column, field in COLUMNS.items()
        if column in table.column_names
    }
    skeletons = table["skeleton"].to_pylist() if "skeleton" in table.column_names else [None] * len(table)
    counts = table["instances"].to_pylist()
    frames = [table[name].to_pylist() for name in ("seq", "pts_ns", "captured_ns", "width", "height")]
    later = {name: table[name].to_pylist() for name in ("epoch", "moment_ns") if name in table.column_names}
    row = 0
    while row < len(table):
        count = counts[row]
        rows = slice(row, row + (count or 0))
        fields = {field: values[rows] for field, values in columns.items()}
        instances = Instances(skeleton=skeletons[row], **fields) if count else Instances.empty()
        seq, pts_ns, captured_ns, width, height = (column[row] for column in frames)
        size, known = (width, height), {name: column[row] for name, column in later.items()}
        yield Packet(
            stream, seq, pts_ns, captured_ns, size, None, None if count is None else instances, **known
        )
        row += max(count or 0, 1)


def _values(column: pa.ChunkedArray, field: str) -> np.ndarray:
    """A column as an array (rows, …), with the gap of its field where it is null."""
    array = column.combine_chunks()
    missing = np.asarray(array.is_null())
    if field == "labels":
        return np.array([*array.to_pylist(), None], np.object_)[:-1]
    shape = [len(array)]
    while hasattr(array, "values") and hasattr(array.type, "list_size"):
        shape.append(array.type.list_size)
        array = array.values
    gap = GAPS.get(field, np.nan)
    values = np.array(array.fill_null(gap).to_numpy(zero_copy_only=False)).reshape(shape)
    values[missing] = gap
    return values
