"""The command as users call it: a real process, a real clip, a real signal."""

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

from tools.profiling.document import Profile, read_profile

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "tools.cli", "profile"]
GRAPH = (
    "name: writes\ngraph:\n  decode: {{op: decode}}\n  write: {{op: jsonl_sink, dir: {out}, after: decode}}\n"
)
ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


def profile(*args: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, env=ENVIRONMENT, timeout=100
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(20):
            grey = np.full((48, 64, 3), 10 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "writes.yaml"
    path.write_text(GRAPH.format(out=tmp_path / "out"))
    return path


QUICK = ["--seconds", "1", "--warmup", "0.2", "--processes", "1"]


def test_all_files_that_it_writes(tmp_path, clip, graph):
    files = {name: tmp_path / name for name in ("p.json", "p.html", "p.trace.json", "p.flame")}
    done = profile(
        graph, f"yard={clip}", "--streams", "2", *QUICK, "--json", files["p.json"], "--html", files["p.html"],
        "--trace", files["p.trace.json"], "--flame", files["p.flame"],
    )  # fmt: skip
    found = read_profile(files["p.json"])
    assert [stream.name for stream in found.streams] == ["yard", "yard-2"]
    assert found.frames > 40  # the clip was played over and over
    assert found.flow.closed
    assert found.command.startswith(f"posestream profile {graph}")
    assert found.bound.parts[0].name == "decode"
    assert found.verdict.said.split()[0] in done.stdout
    assert "writes" in done.stdout
    assert files["p.html"].read_text().startswith("<!doctype html>")
    assert json.loads(files["p.trace.json"].read_text())
    stack, _, microseconds = files["p.flame"].read_text().splitlines()[0].rpartition(" ")
    assert ";" in stack
    assert int(microseconds) >= 0
    records = (tmp_path / "out" / "yard-2.jsonl").read_text().splitlines()
    streams = {stream.name: stream for stream in found.streams}
    assert len(records) - 1 >= streams["yard-2"].finished  # the graph's own sink has written as always


def test_a_sweep_is_a_table_and_a_list(tmp_path, clip, graph):
    out = tmp_path / "sweep.json"
    done = profile(
        graph, clip, *QUICK, "--sweep", "streams=1,2 write.batch.max=1,many", "--out", out, "--no-bound"
    )
    listed = json.loads(out.read_text())
    assert [entry["settings"]["streams"] for entry in listed] == ["1", "1", "2", "2"]
    assert [Profile.model_validate(entry).streams_wanted for entry in listed[::2]] == [1, 2]
    assert all("write.batch.max" in entry["error"] for entry in listed[1::2])
    assert done.stdout.count("best") == 1
    assert "streams=2 write.batch.max=many failed" in done.stdout


def test_a_comparison_decides_the_exit_code(tmp_path, clip, graph):
    before = tmp_path / "before.json"
    profile(graph, clip, *QUICK, "--json", before, "--no-bound", "--quiet")
    same = profile(graph, clip, *QUICK, "--compare", before, "--no-bound", "--tolerance", "100000")
    assert "Nothing" in same.stdout
    worse = profile(
        graph, clip, *QUICK, "--compare", before, "--no-bound", "--set", "decode.fps=0.05", "--tolerance", "50", code=1
    )  # fmt: skip
    assert "Worse" in worse.stdout


def test_quiet_is_quiet(clip, graph):
    done = profile(graph, clip, *QUICK, "--no-bound", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_ctrl_c_shows_what_was_measured_until_then(tmp_path, clip, graph):
    out = tmp_path / "p.json"
    process = subprocess.Popen(
        [*COMMAND, str(graph), str(clip), "--seconds", "500", "--warmup", "0.1", "--processes", "1", "--json", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    written, deadline = tmp_path / "out" / "clip.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (written.exists() and written.stat().st_size > 100_000):
        time.sleep(0.05)
    time.sleep(1.5)  # by now it measures
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    found = read_profile(out)
    assert 0 < found.seconds < 60
    assert found.flow.closed
    assert found.bound is None  # Ctrl-C skips it
    assert "frames/s" in output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["human-light", "{clip}"], "did you mean 'human-lite'?"),
        (["{graph}", "none.mp4"], "none.mp4"),
        (["{graph}", "{clip}", "--set", "decode.speed=3"], "unknown option 'speed'"),
        (["{graph}", "{clip}", "--sweep", "steams=1"], "did you mean 'streams'?"),
        (["{graph}", "{clip}", "--sweep", "streams=1,2", "--trace", "t.json"], "--trace and --sweep"),
        (["{graph}", "{clip}", "--json", "/none/p.json"], "there is no folder /none"),
        (["{graph}", "{clip}", "--compare", "{clip}"], "is not a profile"),
        (["{graph}", "{clip}", "--compare", "none.json"], "cannot read none.json"),
        (["{graph}", "{clip}", "--live", "--processes", "2"], "one process"),
        (["{graph}", "{clip}", "--set", "decode.max_frames=3"], "ended after 3 frames, in the warm-up"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(clip, graph, args, message):
    done = profile(*(arg.format(clip=clip, graph=graph) for arg in args), code=2)
    last = done.stderr.strip().splitlines()
    assert len(last) == 1
    assert last[0].startswith("posestream: ")
    assert message in last[0]
    assert done.stdout == ""


def test_the_help_shows_options_and_examples():
    text = profile("--help").stdout
    for word in ("--sweep", "streams=1,2,4,8", "--compare", "--no-bound", "its own sinks write"):
        assert word in text
