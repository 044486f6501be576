"""Files of sinks stay valid when the disk is full or the process is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sink_frames import count_frames

from operators.reading.read import read

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[2]


def run_script(script, *arguments):
    path = ":".join([str(TESTS / "support"), str(TESTS.parent)])
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False)


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
        assert count_frames(tmp_path / file) == kept
        return
    recording = read(tmp_path / file.partition("/")[0])
    assert recording.seq.tolist() == list(range(kept))
    assert recording.seq.tolist()[-1] == kept - 1
    if op == "coco_sink":
        assert len(json.loads((tmp_path / file).read_text())) == len(recording.frame)
    assert not list(tmp_path.rglob(".*"))  # no temporary files are left


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
        assert count_frames(tmp_path / file) >= kept
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
        assert sum(map(count_frames, files)) == packets_out - counters["frames cut off"]
        return
    assert 75 <= lost <= 105
    (file,) = tmp_path.iterdir()
    seqs = read(file).seq.tolist()
    assert len(seqs) == packets_out
    assert (seqs[0], seqs[-1]) == (0, 299)
