"""`posestream attach` as users call it: a real process, real signals, cameras that need no hardware."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.cli import app, exit_code

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "tools.cli", "attach"]
GRAPH = """name: toy
graph:
  camera: {op: "live_toys:ToyCamera"}
  slow: {op: "toys:Slow", ms: 1, after: camera}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(GRAPH)
    return path


def environment(**more: str) -> dict[str, str]:
    known = {name: value for name, value in os.environ.items() if name != "POSESTREAM_TOKEN"}
    return {**known, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS / 'support'}", **more}


def attach(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, args)], capture_output=True, text=True, env=environment(**env), timeout=60
    )


class Attached:
    """A running process: its log, and calls to its API."""

    def __init__(self, *args: str | Path):
        self.process = subprocess.Popen(
            [*COMMAND, "--control", "127.0.0.1:0", *map(str, args)],
            stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self.log = ""
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        for line in self.process.stderr:  # type: ignore[union-attr]
            self.log += line

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 40
        while not (found := condition()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return found

    def call(self, path: str, body: Any = None) -> Any:
        url = self.until(lambda: re.search(r"control API at (http://\S+)", self.log))[1]
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def running(self, *names: str) -> bool:
        states = {stream["name"]: stream["state"] for stream in self.call("/streams")["streams"]}
        return all(states.get(name) == "running" for name in names)

    def end(self, *signals: int) -> int:
        for number in signals:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._reading.join()
        return code


@contextmanager
def attached(*args: str | Path) -> Iterator[Attached]:
    process = Attached(*args)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
        process.end()


def seqs(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()[1:]]


def test_with_until_end_it_ends_when_all_sources_have_ended(tmp_path, graph):
    done = attach("yard=50@10", "barn=50@20", "-g", graph, "-o", tmp_path, "--until-end", "--no-control")
    assert done.returncode == 0, done.stderr
    assert "30 frames of 2 sources" in done.stderr
    assert (seqs(tmp_path / "yard.jsonl"), seqs(tmp_path / "barn.jsonl")) == ([*range(10)], [*range(20)])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_drains(tmp_path, graph, number, code):
    with attached("yard=100", "--graph", graph, "--out", tmp_path) as service:
        service.until(lambda: service.running("yard"))
        assert service.end(number) == code, service.log
    frames = seqs(tmp_path / "yard.jsonl")
    assert frames == sorted(set(frames))
    assert f"toy: {len(frames)} frames of 1 source" in service.log
    assert ("interrupted" in service.log) == (code == 130)
    assert "Traceback" not in service.log


def test_a_second_ctrl_c_stops_at_once(graph):
    with attached("yard=100", "--graph", graph, "--set", "slow.ms=1500") as service:
        service.until(lambda: service.call("/streams")["streams"][0]["finished"])
        service.process.send_signal(signal.SIGINT)
        service.until(lambda: not service.call("/streams")["streams"][0]["uri"])  # it has stopped reading
        assert service.end(signal.SIGINT) == 130
    assert re.search(r"dropped: aborted: \d", service.log), service.log


def test_cameras_are_added_to_a_service_that_began_without_any(graph):
    with attached("--graph", graph) as service:
        service.until(lambda: service.call("/readyz")["ready"])
        assert service.call("/streams") == {"streams": []}
        service.call("/streams", {"name": "gate", "uri": "100"})
        service.until(lambda: service.running("gate"))
        assert service.end(signal.SIGTERM) == 0


def test_nobody_sees_a_password(tmp_path, graph):
    logins = tmp_path / "logins.yaml"
    logins.write_text("barn: {username: me, password: hush}\n")
    with attached(
        "yard=rtsp://me:hush@127.0.0.1/1", "barn=rtsp://127.0.0.1/2", "rtsp://me:hush@127.0.0.1?pwd=hush",
        "--graph", graph, "--credentials", logins,
    ) as service:  # fmt: skip
        streams = service.until(lambda: service.call("/streams")["streams"])
        assert [stream["name"] for stream in streams] == ["yard", "barn", "127.0.0.1"]
        assert "hush" not in json.dumps(streams)
        service.end(signal.SIGTERM)
    assert "others on this machine can see the password on the command line" in service.log
    assert "hush" not in service.log


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--no-control"], "no source is given"),
        (["--until-end"], "no source is given"),
        (["1", "--video"], "--video writes to the folder of --out"),
        (["1", "--kafka", "poses/"], "expected BROKERS/TOPIC"),
        (["a=1", "a=2"], "given twice"),
        (["nosuch://me:hush@cam/1"], "unknown scheme nosuch"),
        (["rtsp://me:${NO_SUCH_VARIABLE}@cam/1"], "NO_SUCH_VARIABLE is not set"),
        (["1", "--credentials", "missing.yaml"], "missing.yaml: No such file"),
        (["1", "--control", "0.0.0.0:0"], "set POSESTREAM_TOKEN"),
        (["1", "--graph", "no-such"], "no graph 'no-such'"),
        (["1", "--set", "slow.op=toys:FailOpen", "--set", "slow.ms="], "unknown option 'ms'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(graph, monkeypatch, args, message):
    monkeypatch.setattr("tools.attach._log_lines_with_time", lambda: None)  # logging stays pytest's
    found = CliRunner().invoke(
        app, ["attach", *([] if "--graph" in args else ["--graph", str(graph)]), *args]
    )
    assert found.exception
    assert exit_code(found.exception) == 2
    assert message in str(found.exception)
    assert "hush" not in f"{found.output}{found.exception}"


def test_a_source_that_cannot_be_read_is_one_clear_line(graph):
    done = attach("broken", "--graph", graph, "--until-end", "--no-control")
    assert done.returncode == 2
    *_, why, last = done.stderr.splitlines()
    assert why.endswith("cannot read broken")
    assert last == "posestream: all sources have ended and none gave a frame; the messages above say why"


def test_a_graph_that_only_decodes_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "only.yaml"
    path.write_text("".join(GRAPH.splitlines(keepends=True)[:3]))
    monkeypatch.setattr("tools.attach._log_lines_with_time", lambda: None)
    found = CliRunner().invoke(app, ["attach", "1", "--graph", str(path)])
    assert "it only decodes" in str(found.exception)


def test_a_taken_port_is_one_clear_line(graph):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = attach("1", "--graph", graph, "--control", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "cannot listen: Address already in use; give another HOST:PORT, or --no-control" in done.stderr


def test_operators_that_cannot_be_opened_fail_the_run(tmp_path):
    path = tmp_path / "fails.yaml"
    path.write_text(GRAPH.replace('"toys:Slow", ms: 1', '"toys:FailOpen"'))
    done = attach("1", "--graph", path, "--control", "127.0.0.1:0")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "slow failed while it was being opened: OSError: no such device"
    )
