"""Parquet folders: columns, parts, and an error without pyarrow."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sink_frames

from operators.parquet_sink import ParquetSink
from operators.reading.read import read
from pipeline.errors import SinkError


def write(folder, packets, **options):
    sink = ParquetSink(str(folder), **options)
    sink.open(sink_frames.RUN)
    sink.process(packets)
    sink.end_stream("yard")
    sink.close()


def test_columns_have_fixed_shapes(tmp_path):
    write(tmp_path, sink_frames.varied())
    table = pq.read_table(tmp_path / "yard.parquet")
    assert table.schema.field("keypoints").type == pa.list_(pa.list_(pa.float32(), 2), 33)
    assert table.schema.field("keypoints_3d").type == pa.list_(pa.list_(pa.float32(), 3), 33)
    assert table["instances"].to_pylist() == [None, 0, 1, 3, 3, 3, 2, 2, 0, 1]
    assert table["track_id"].to_pylist() == [None, None, 1, 1, 2, 3, 4, None, None, 1]
    assert table["seq"].to_pylist() == [0, 1, 2, 3, 3, 3, 4, 4, 5, 6]
    assert np.isnan(table["keypoints"].to_pylist()[7]).all()


def test_parts_hold_complete_frames_and_replace_those_of_an_earlier_run(tmp_path):
    packets = [sink_frames.frame(seq, sink_frames.people(2, seq)) for seq in range(25)]
    write(tmp_path, packets, rows_per_file=2)
    assert len(list((tmp_path / "yard.parquet").iterdir())) == 25
    write(tmp_path, packets, rows_per_file=20)
    parts = sorted((tmp_path / "yard.parquet").iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [len(read(part)) for part in parts] == [10, 10, 5]
    assert read(parts[1]).seq.tolist() == list(range(10, 20))
    assert len(read(tmp_path / "yard.parquet")) == 25


def test_another_skeleton_begins_another_part(tmp_path):
    found = [sink_frames.people(1), None, sink_frames.people(1, skeleton="coco17")]
    write(tmp_path, [sink_frames.frame(seq, instances) for seq, instances in enumerate(found)])
    parts = sorted((tmp_path / "yard.parquet").iterdir())
    assert [read(part).skeleton for part in parts] == ["blazepose33", "coco17"]


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SinkError, match=r'run: pip install "posestream\[parquet\]"'):
        ParquetSink(str(tmp_path)).open(sink_frames.RUN)
