"""The command as users call it: a real process, real files, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from engines.errors import AssetError
from operators.graphs.graph_run import name_sources
from pipeline.errors import ConfigError
from tools.cli import exit_code

COMMAND = [sys.executable, "-m", "tools.cli"]
DECODE_ONLY = "name: only\ngraph:\n  decode: {op: decode, loop: 2000}\n"


def posestream(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", **env},
        timeout=60,
    )


def make_clip(path: Path, frames: int = 20) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(frames):
            grey = np.full((48, 64, 3), 10 * n % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "only.yaml"
    path.write_text(DECODE_ONLY)
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_frames_of_all_sources_are_in_the_files(tmp_path, clip, graph):
    done = posestream(
        "run",
        clip,
        f"second={clip}",
        clip,
        "--graph",
        graph,
        "--out",
        tmp_path / "out",
        "--set",
        "decode.loop=2",
    )
    assert done.returncode == 0, done.stderr
    assert "120 frames of 3 sources" in done.stderr
    for name in ("clip", "second", "clip-2"):
        records = lines(tmp_path / "out" / f"{name}.jsonl")[1:]
        assert [record["seq"] for record in records] == list(range(40))


def wait_for(path: Path, size: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > size):
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [["clip"], ["clip", "second"]])
def test_interrupt_drains_and_leaves_whole_files(tmp_path, clip, graph, streams):
    out = tmp_path / "out"
    sources = [f"{stream}={clip}" for stream in streams]
    process = subprocess.Popen(
        [*COMMAND, "run", *sources, "--graph", graph, "--out", out, "--processes", str(len(sources))],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for stream in streams:
        wait_for(out / f"{stream}.jsonl", 2000)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    total = 0
    for stream in streams:
        seqs = [record["seq"] for record in lines(out / f"{stream}.jsonl")[1:]]
        assert seqs == list(range(len(seqs)))
        assert 0 < len(seqs) < 40_000
        total += len(seqs)
    assert f"{total} frames of {len(streams)} source" in errors  # every frame that was read is written


OWN_OPERATOR = """
import logging
from posestream import Operator

class FailLate(Operator):
    def __init__(self, stream: str, seq: int):
        self.stream, self.seq = stream, seq

    def process(self, packets):
        for packet in packets:
            if packet.seq == self.seq:
                logging.getLogger("posestream.own").warning("here comes %s", packet.stream)
                if packet.stream == self.stream:
                    raise ValueError("enough")
        return packets
"""


@pytest.mark.slow
def test_own_operators_work_and_fail_in_several_processes(tmp_path, clip):
    (tmp_path / "own.py").write_text(OWN_OPERATOR)
    (tmp_path / "own.yaml").write_text(
        "name: own\ngraph:\n  decode: {op: decode, loop: 2000}\n"
        "  late: {op: 'own:FailLate', stream: b, seq: 300, after: decode}\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [*COMMAND, "run", f"a={clip}", f"b={clip}", "--graph", "own.yaml", "--processes", "2"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "here comes b" in done.stderr
    assert done.stderr.endswith("posestream: late failed at b frame 300: ValueError: enough\n")
    assert "Traceback" not in done.stderr
    for stream, most in (("a", 40_000), ("b", 300)):
        seqs = [record["seq"] for record in lines(tmp_path / "out" / f"{stream}.jsonl")[1:]]
        assert seqs == list(range(len(seqs)))
        assert 0 < len(seqs) <= most


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4"),
        (["empty.mp4"], "empty"),
        (["text.mp4"], "text.mp4"),
        (["empty_folder"], "empty_folder"),
        (["clip.mp4", "nowhere.mp4"], "nowhere.mp4"),
        (["clip.mp4", "--graph", "humanlite"], "no graph 'humanlite'; did you mean 'human-lite'?"),
        (["clip.mp4", "--graph", "bad.yaml"], "bad.yaml:3 decode.op: unknown operator 'decoed'; did you mean 'decode'?"),
        (["clip.mp4", "--set", "decode.lop=3"], "unknown option 'lop'; did you mean 'loop'?"),
        (["clip.mp4", "--set", "decode"], "expected NODE.OPTION=VALUE"),
        (["a=clip.mp4", "a=clip.mp4"], "given twice"),
        (["clip.mp4", "--graph", "human-lite"], "posestream models pull blazepose-detector blazepose-full"),
        (["clip.mp4", "--no-such-flag"], "No such option"),
        ([], "SOURCE"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, clip, graph, args, message):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100)
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "bad.yaml").write_text("name: bad\ngraph:\n  decode: {op: decoed}\n")
    full = [str(tmp_path / arg) if (tmp_path / arg).exists() else arg for arg in args]
    if "--graph" not in args:
        full += ["--graph", str(graph)]
    home = str(tmp_path / "cold-cache")
    done = posestream("run", *full, "--out", tmp_path / "out", POSESTREAM_HOME=home)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_1(tmp_path, clip, graph):
    (tmp_path / "file").touch()
    done = posestream("run", clip, "--graph", graph, "--out", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("posestream: ")
    assert "Traceback" not in done.stderr


def test_help_and_version():
    assert "posestream run walk.mp4 --video" in posestream("run", "--help").stdout
    assert posestream("version").stdout.startswith("posestream ")
    assert posestream().returncode == 2


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        (["a/walk.mp4"], {"walk": "a/walk.mp4"}),
        (["a/walk.mp4", "b/walk.mp4"], {"walk": "a/walk.mp4", "walk-2": "b/walk.mp4"}),
        (["yard=rtsp://host/x?a=b"], {"yard": "rtsp://host/x?a=b"}),
        (["rtsp://host/x?a=b"], {"x?a=b": "rtsp://host/x?a=b"}),
        (["frames/"], {"frames": "frames/"}),
    ],
)
def test_streams_are_named_by_their_files(sources, named):
    assert name_sources(sources) == named


def test_exit_codes():
    assert exit_code(ConfigError("")) == exit_code(AssetError("")) == 2
