"""What all sinks that write files share: names of files, reading back, rotation, full disks, kills."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import sink_frames

from operators.coco_sink import CocoSink
from operators.files.sink_files import safe_name
from operators.jsonl_sink import JsonlSink
from operators.parquet_sink import ParquetSink
from operators.reading.read import read
from operators.video_sink import VideoSink
from pipeline.errors import SinkError

TESTS = Path(__file__).resolve().parents[2]
SINKS = [(JsonlSink, "jsonl"), (CocoSink, "coco.json"), (ParquetSink, "parquet"), (VideoSink, "mp4")]
PICTURE = np.zeros((48, 64, 3), np.uint8)


def write(sink, packets):
    """Open the sink, process the packets, end their streams, and close it."""
    sink.open(sink_frames.RUN)
    assert list(sink.process(packets)) == packets
    for stream in dict.fromkeys(packet.stream for packet in packets):
        assert list(sink.end_stream(stream)) == []
    sink.close()


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("yard", "yard"),
        ("cam-2", "cam-2"),
        ("Küche 1", "Küche_1-"),
        ("rtsp://a:b@10.0.0.1/live", "rtsp___a_b@10.0.0.1_live-"),
        ("../../etc/passwd", "_.._etc_passwd-"),
        ("..", "stream-"),
        ("", "stream-"),
        ("-rf", "rf-"),
        ("cam.2", "cam.2-"),
        ("a\nb\0c", "a_b_c-"),
        ("x" * 300, "x" * 160 + "-"),
        ("é" * 300, "é" * 80 + "-"),
    ],
)
def test_file_names_are_safe(stream, name):
    safe = safe_name(stream)
    assert safe == name if not name.endswith("-") else safe.startswith(name) and len(safe) == len(name) + 8
    assert Path(safe).name == safe


def test_similar_stream_names_get_different_files(tmp_path):
    streams = ["a/b", "a:b", "a_b", "a b"]
    write(JsonlSink(str(tmp_path)), [sink_frames.frame(0, None, stream) for stream in streams])
    assert sorted(read(path).stream for path in tmp_path.iterdir()) == sorted(streams)


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
def test_a_stream_that_begins_again_gets_another_file(sink, suffix, tmp_path):
    sink = sink(str(tmp_path / "new" / "folder"))
    sink.open(sink_frames.RUN)
    for seq in range(2):
        sink.process([sink_frames.frame(seq, None, picture=PICTURE)])
        sink.end_stream("yard")
    sink.close()
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {
        f"yard.{suffix}",
        f"yard.2.{suffix}",
    }


@pytest.mark.parametrize(("sink", "suffix"), [case for case in SINKS if case[1] != "mp4"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "only closed"])
def test_results_are_read_back(sink, suffix, ended, tmp_path):
    packets = sink_frames.varied()
    sink = sink(str(tmp_path))
    sink.open(sink_frames.RUN)
    for packet in packets:
        assert list(sink.process([packet])) == [packet]
    if ended:
        sink.end_stream("yard")
    sink.close()
    recording = read(tmp_path / f"yard.{suffix}")
    assert recording.stream == "yard"
    if suffix == "coco.json":
        expected = [packet for packet in packets if packet.instances]
        index = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
        assert recording.skeleton == "coco17"
    else:
        expected, index = packets, slice(None)
        assert recording.skeleton == "blazepose33"
        assert recording.header["run"] == sink_frames.RUN.id
        assert list(recording.header["skeletons"]) == ["blazepose33"]
    found = list(recording.packets())
    assert [packet.seq for packet in found] == [packet.seq for packet in expected]
    for before, after in zip(expected, found, strict=True):
        if suffix != "coco.json":
            assert after.replace(instances=None) == before.replace(instances=None)
        assert (after.instances is None) == (before.instances is None)
        if not before.instances:
            assert not after.instances
            continue
        wanted = before.instances
        assert after.instances.labels.tolist() == wanted.labels.tolist()
        assert after.instances.track_ids.tolist() == wanted.track_ids.tolist()
        np.testing.assert_allclose(after.instances.scores, wanted.scores, atol=6e-5)
        np.testing.assert_allclose(after.instances.boxes, wanted.boxes, atol=0.0151)
        np.testing.assert_allclose(after.instances.keypoints, wanted.keypoints[:, index], atol=0.0051)
        if suffix != "coco.json":
            np.testing.assert_allclose(after.instances.keypoints_3d, wanted.keypoints_3d, atol=6e-5)


@pytest.mark.parametrize(("sink", "suffix"), [case for case in SINKS if case[1] != "mp4"])
def test_a_stream_without_frames_has_a_valid_file(sink, suffix, tmp_path):
    sink = sink(str(tmp_path))
    sink.open(sink_frames.RUN)
    sink.end_stream("yard")
    sink.close()
    assert len(read(tmp_path / f"yard.{suffix}")) == 0


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "file",
            r"cannot write .*/file: file exists; expected a folder; remove the file or choose another `dir`",
        ),
        ("file/below", r"cannot write .*/below: not a directory; expected a folder"),
        ("/proc/nowhere", r"cannot write /proc/nowhere: no such file"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_frame(
    sink, suffix, where, message, tmp_path
):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=message):
        sink(str(tmp_path / where)).open(sink_frames.RUN)


# Writes frames until a limit on file sizes stops it twice, then ends the stream; prints the errors.
FILL = """
import json, resource, signal, sys
import numpy as np
import sink_frames
from operators import REGISTRY
from pipeline.errors import SinkError
from pipeline.graph import resolve

op, folder, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"rows_per_file": 20} if op == "parquet_sink" else {}
sink = resolve(REGISTRY[op])(folder, **options)
sink.open(sink_frames.RUN)
random = np.random.default_rng(0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
errors = []
for seq in range(300):
    image = random.integers(0, 255, (120, 160, 3), np.uint8)
    # More people later: then only a later part of the Parquet folder exceeds the limit.
    instances = sink_frames.people(1 if seq < 45 else 60, seq)
    try:
        sink.process([sink_frames.frame(seq, instances, picture=image)])
    except SinkError as error:
        errors.append([seq, str(error)])
        if len(errors) == 2:
            break
try:
    sink.end_stream("yard")
    sink.close()
except SinkError as error:
    errors.append([-1, str(error)])
print(json.dumps(errors))
"""


@pytest.mark.parametrize(
    ("op", "file", "limit"),
    [
        ("jsonl_sink", "yard.jsonl", 100_001),
        ("coco_sink", "yard.coco.json", 100_001),
        ("parquet_sink", "yard.parquet/part-00002.parquet", 50_000),
        ("video_sink", "yard.mp4", 300_000),
    ],
)
def test_a_full_disk_leaves_a_valid_file(op, file, limit, tmp_path):
    done = run_script(FILL, op, tmp_path, limit)
    assert done.returncode == 0, done.stderr
    (seq, message), *_ = json.loads(done.stdout)
    assert message.startswith(f"cannot write {tmp_path / file}: file too large after ")
    assert message.endswith(
        "which are kept; raise the limit on file sizes (ulimit -f) or choose a file system without it"
    )
    kept = int(message.partition(" after ")[2].split()[0])
    assert 0 < kept <= seq
    if op == "video_sink":
        assert decoded(tmp_path / file) == kept
        return
    recording = read(tmp_path / file.partition("/")[0])
    assert recording.seq.tolist() == list(range(kept))
    assert recording.seq.tolist()[-1] == kept - 1
    if op == "coco_sink":
        assert len(json.loads((tmp_path / file).read_text())) == len(recording.frame)
    assert not list(tmp_path.rglob(".*"))  # no temporary files are left


@pytest.mark.parametrize(("sink", "suffix"), SINKS)
def test_files_of_an_earlier_run_are_replaced_except_in_live_runs(sink, suffix, tmp_path):
    for live in (True, False, True):
        opened = sink(str(tmp_path))
        opened.open(sink_frames.RUN._replace(live=live))
        opened.process([sink_frames.frame(0, None, picture=PICTURE)])
        opened.end_stream("yard")
        opened.close()
    assert {path.name for path in tmp_path.iterdir()} == {f"yard.{suffix}", f"yard.2.{suffix}"}


@pytest.mark.parametrize("options", [{"rotate_min": 1}, {"rotate_mb": 0.004}])
@pytest.mark.parametrize(("sink", "suffix"), [(JsonlSink, "jsonl"), (VideoSink, "mp4")])
def test_rotated_files_are_named_by_time(sink, suffix, options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
    start = 1_784_000_000 * 10**9
    for _ in range(2):  # the second run has the same times, and must overwrite nothing
        opened = sink(str(tmp_path), **options)
        opened.open(sink_frames.RUN)
        for seq in range(60):  # every 5 s
            found = sink_frames.people(1, seq)
            times = {"captured_ns": start + seq * 5 * 10**9, "pts_ns": seq * 5 * 10**9}
            opened.process([sink_frames.frame(seq, found, picture=noise[seq], **times)])
        opened.end_stream("yard")
        opened.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 10 if "rotate_min" in options else len(names) >= 6
    assert {f"yard.20260714T033320Z.{suffix}", f"yard.20260714T033320Z.2.{suffix}"} <= set(names)
    if suffix == "jsonl":
        parts = [read(tmp_path / name) for name in names]
        assert sorted(seq for part in parts for seq in part.seq) == sorted([*range(60), *range(60)])
        assert {part.skeleton for part in parts} == {"blazepose33"}
        assert {part.header["stream"] for part in parts} == {"yard"}
    else:
        assert sum(decoded(tmp_path / name) for name in names) == 120


def decoded(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def run_script(script, *arguments):
    path = ":".join([str(TESTS / "support"), str(TESTS.parent)])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False)


# Writes 150 frames at 30 frames/s, then kills its own process.
KILLED = """
import os, signal, sys
import numpy as np
import sink_frames
from operators import REGISTRY
from pipeline.graph import resolve

op, folder = sys.argv[1:]
options = {"rows_per_file": 20} if op == "parquet_sink" else {}
sink = resolve(REGISTRY[op])(folder, **options)
sink.open(sink_frames.RUN)
random = np.random.default_rng(0)
for seq in range(150):
    image = random.integers(0, 255, (120, 160, 3), np.uint8)
    sink.process([sink_frames.frame(seq, sink_frames.people(1, seq), picture=image)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("op", "file", "kept"),
    [
        ("jsonl_sink", "yard.jsonl", 150),
        ("coco_sink", "yard.coco.json", 150),
        ("parquet_sink", "yard.parquet", 140),
        ("video_sink", "yard.mp4", 60),
    ],
)
def test_written_frames_survive_kill_9(op, file, kept, tmp_path):
    assert run_script(KILLED, op, tmp_path).returncode == -signal.SIGKILL
    if op == "video_sink":
        assert decoded(tmp_path / file) >= kept
        return
    assert read(tmp_path / file).seq.tolist() == list(range(kept))


# A live run in which files cannot grow between frames 100 and 200.
FULL_FOR_A_WHILE = """
import json, logging, os, resource, signal, sys, time
import numpy as np
import sink_frames
from operators import REGISTRY
from pipeline.graph import check_graph
from pipeline.operator import Operator, Source
from pipeline.run import Run

op, folder = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")

class Frames(Source):
    def read(self, stream, uri):
        random = np.random.default_rng(0)
        for seq in range(300):
            image = random.integers(0, 255, (120, 160, 3), np.uint8)
            found = sink_frames.people(10, seq)
            yield sink_frames.frame(seq, found, captured_ns=seq * 200_000_000, arrived_ns=time.time_ns(), picture=image)

class Limit(Operator):
    per_stream = True
    def process(self, packets):
        if packets[0].seq in (100, 200):
            time.sleep(0.2)  # let the sink finish the frame before
            # As on a full disk, existing bytes can still be overwritten.
            full = 0 if op != "coco_sink" else os.path.getsize(f"{folder}/yard.coco.json")
            resource.setrlimit(resource.RLIMIT_FSIZE, (full if packets[0].seq == 100 else -1, -1))
        return packets

options = {"rows_per_file": 20} if op == "parquet_sink" else {}
nodes = {
    "frames": {"op": "frames"},
    "limit": {"op": "limit", "after": "frames", "on_full": "block"},
    "sink": {"op": op, "dir": folder, "after": "limit", "capacity": 1, **options},
}
registry = {**REGISTRY, "frames": Frames, "limit": Limit}
run = Run(check_graph({"name": "g", "graph": nodes}, registry), {"yard": ""}, live=True)
run.start()
stats = run.finish()
sink = next(stage for stage in stats.stages if stage.name == "sink")
print(json.dumps([sink.packets_in, sink.packets_out, sink.dropped, sink.counters]))
"""


@pytest.mark.parametrize("op", ["jsonl_sink", "coco_sink", "parquet_sink", "video_sink"])
def test_a_disk_that_is_full_for_a_while_loses_only_the_frames_of_that_time(op, tmp_path):
    done = run_script(FULL_FOR_A_WHILE, op, tmp_path)
    assert done.returncode == 0, done.stderr
    packets_in, packets_out, dropped, counters = json.loads(done.stdout)
    lost = dropped["error"]
    assert (packets_in, packets_out + lost) == (300, 300)
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["ERROR", "WARNING"], done.stderr
    assert lines[0].startswith("ERROR set aside yard frame 1")
    assert "file too large" in lines[0]
    assert lines[1] == f"WARNING yard goes on; {lost} frames were set aside"
    if op == "video_sink":
        files = sorted(tmp_path.glob("yard*.mp4"))
        assert len(files) == 2
        assert sum(map(decoded, files)) == packets_out - counters["frames cut off"]
        return
    assert 75 <= lost <= 105
    (file,) = tmp_path.iterdir()
    seqs = read(file).seq.tolist()
    assert len(seqs) == packets_out
    assert (seqs[0], seqs[-1]) == (0, 299)
