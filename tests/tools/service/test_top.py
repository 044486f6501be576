"""`posestream top` on real runs, through their real control API; full screen on a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from live_toys import camera_graph
from rich.console import Console
from typer.testing import CliRunner

from pipeline.run import Run
from tools.cli import app, exit_code
from tools.service.attached import Attached
from tools.service.control import ControlServer, listen
from tools.service.top_client import Client
from tools.service.top_view import Picture, pace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def serving(
    sources: dict[str, str], *, slow_ms: float = 1, token: str | None = None, at: str = "127.0.0.1:0"
) -> Iterator[tuple[str, Attached]]:
    """A live run, and the address of its API."""
    attached = Attached(Run(camera_graph(slow_ms), sources, live=True, keep_open=True))
    with ControlServer(attached, listen(at, token), token) as server:
        attached.start()
        try:
            yield server.url, attached
        finally:
            attached.run.stop()
            assert attached.run.wait(20)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.05)


def once(*args: str, width: int = 80, **env: str | None) -> str:
    """Return what `top --once` prints."""
    found = CliRunner().invoke(
        app, ["top", "--once", *args], env={"COLUMNS": str(width), "POSESTREAM_TOKEN": None, **env}
    )
    if found.exception:
        raise found.exception
    return found.stdout


def refusal(*args: str, **env: str | None) -> str:
    """Return the error line of a `top --once` that ends with exit code 2."""
    with pytest.raises(Exception) as error:  # noqa: PT011 - the callers check the message
        once(*args, **env)
    assert exit_code(error.value) == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("width", [80, 120])
def test_once_shows_the_run_its_stages_and_its_streams(width):
    with serving({"yard": "100", "barn": "5"}, slow_ms=30) as (url, attached):
        until(lambda: (now := attached.stages()).window_s > 2 and now.stages[2].busy > 0.95)
        shown = once(url, width=width)
    lines = shown.splitlines()
    assert lines[0] == f"toy · run {attached.run.info.id} · up {lines[0].split(' up ')[1]}"
    assert lines[0].endswith(url)
    assert re.match(r"[\d.]+ fps · 2 of 2 streams · age \d+, p99 \d+ ms · [\d.]+ of \d+ cores", lines[1])
    assert re.search(r"^   camera ×2 .*\n   two .*\n▶  slow .* (9\d|100) % ", shown, re.MULTILINE)
    assert re.search(r"^slow sets the pace: it is at work (9\d|100) % of the time", shown, re.MULTILINE)
    assert re.search(r"^   two +.* \d/4 +\d+\.\d", shown, re.MULTILINE)  # its queue, and its drops
    assert re.search(r"^yard +running +\d", shown, re.MULTILINE)
    assert re.search(r"^barn +running", shown, re.MULTILINE)
    assert "…" not in shown
    assert max(map(len, lines)) <= width
    assert ("computes  blocked" in shown) == (width == 120)


def test_a_stage_that_never_returns_is_named(monkeypatch):
    monkeypatch.setattr("tools.service.top_view.STILL_S", 0.3)
    monkeypatch.setattr("tools.service.attached.WINDOW_S", 0)
    with serving({"yard": "100"}, slow_ms=2000) as (url, attached):

        def named() -> bool:
            attached.sample()
            time.sleep(0.5)
            shown = once(url)
            return (
                "slow has taken nothing for " in shown
                and "and 1 packet waits for it" in shown
                and "▶  slow" in shown
            )

        until(named)
        attached.run.abort()


def test_scarce_cores_are_mentioned():
    with serving({"yard": "20"}) as (url, attached):
        until(lambda: attached.stages().fps > 0)
        run = Client(url).ask().run
    assert pace(replace(run, cores=1.95, processors=2, load=9.0))[1].endswith(
        " % of the time, and 1.9 of 2 cores are busy with this run"
    )
    assert pace(replace(run, cores=0.4, processors=2, load=9.0))[1].endswith(
        " % of the time; but other programs want the 2 cores, too (load 9.0)"
    )
    assert pace(replace(run, cores=0.4, processors=8, load=9.0))[1].endswith(" % of the time")


def test_a_run_without_frames_is_shown():
    with serving({}) as (url, attached):
        until(lambda: attached.stages().window_s > 0.1)
        shown = once(url)
    assert "0.0 fps · 0 of 0 streams" in shown
    assert "no frames come in" in shown
    assert "no stream is attached; POST /streams attaches one" in shown


def test_no_stage_is_marked_in_a_run_that_keeps_up():
    with serving({"yard": "20"}) as (url, attached):
        until(lambda: attached.stages().window_s > 0.5)
        shown = once(url)
    assert re.search(r"no stage sets the pace; \w+ is busiest, \d+ % of the time", " ".join(shown.split()))
    assert "▶" not in shown


def test_the_worst_streams_are_shown_where_there_is_no_room_for_all(tmp_path):
    unplugged = tmp_path / "unplugged"
    sources = {f"camera {n:02}": "20" for n in range(20)} | {"gate": f"100:{unplugged}", "[red]yard": "300"}
    with serving(sources, slow_ms=5) as (url, attached):
        until(lambda: all(stream.state == "running" for stream in attached.streams()))
        unplugged.touch()
        until(lambda: any(stream.state == "lost" for stream in attached.streams()))
        answer = Client(url).ask()
        everything = once(url)
        unplugged.unlink()
    console = Console(width=80, color_system=None)
    for height in (8, 14, 24):
        with console.capture() as capture:
            console.print(Picture(answer, url, height=height))
        lines = capture.get().splitlines()
        named = [line for line in lines if re.match(r"camera \d\d|gate|\[red\]yard", line)]
        assert len(lines) <= max(height, 13)
        assert lines[-1] == f"… and {22 - len(named)} more"
        if height == 24:
            assert re.match(r"gate +lost +.*for \d+ s: unplugged", named[0])
            # It drops most, and markup in its name is not interpreted.
            assert named[1].startswith("[red]yard  running")
            assert len(named) > 5
    assert sum(f"\ncamera {n:02} " in everything for n in range(20)) == 20


def test_names_cannot_steer_the_terminal(tmp_path):
    with serving({"\x1b[2J\x9bH": "20"}) as (url, _):
        assert "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}H" in once(url)


def test_the_token_is_sent_and_never_shown():
    with serving({"yard": "20"}, token="hush hush") as (url, _):
        assert "yard" in once(url, POSESTREAM_TOKEN="hush hush")
        assert "yard" in once(url, "--token", "hush hush")
        assert "a token is required; set POSESTREAM_TOKEN" in refusal(url)
        for wrong in ("silence", "silence\n", "sílence"):
            error = refusal(url, POSESTREAM_TOKEN=wrong)
            assert "token" in error
            assert "lence" not in error


def test_the_token_is_sent_to_no_other_server(monkeypatch):
    requests: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://me:hush@127.0.0.1:{self.server.server_port}/there/stages")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    other = HTTPServer(("127.0.0.1", 0), Other)
    threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{other.server_port}"
        assert refusal(url, POSESTREAM_TOKEN="secret") == (
            f"{url}: it redirects to http://***@127.0.0.1:{other.server_port}/there; give that address"
        )
        monkeypatch.setenv("http_proxy", url)
        with serving({"yard": "20"}, token="secret") as (there, _):
            assert "yard" in once(there, POSESTREAM_TOKEN="secret")
    finally:
        other.shutdown()
        other.server_close()
    assert requests == ["/stages"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "127.0.0.1:1",
            "http://127.0.0.1:1: nothing listens there; is it running? `posestream attach` prints",
        ),
        ("http://no.such.invalid:8787", "cannot be reached"),
        ("ftp://127.0.0.1:8787", "is not the address of a control API; expected http://HOST:PORT"),
        ("127.0.0.1:none", "is not the address of a control API"),
        ("127.0.0.1:87\n87", "is not the address of a control API"),
        ("http://me:hush@127.0.0.1:1", "http://***@127.0.0.1:1: expected http://HOST:PORT"),
        ("me:hu?sh@127.0.0.1:1", "http://***@127.0.0.1:1: expected"),
        ("127.0.0.1:1/?hush", "http://127.0.0.1:1/: expected"),
    ],
)
def test_an_address_that_cannot_be_reached_is_explained_in_one_line(url, message):
    error = refusal(url)
    assert message in error
    assert not re.search("hush|hu|sh@", error.replace("posestream", ""))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "not posestream, or not this version of it"),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "not posestream, or not this version of it"),
        (b'HTTP/1.0 200 OK\r\n\r\n{"stages": []}', "not posestream, or not this version of it"),
        (b"HTTP/1.0 500 \x1b[2Jbroken\r\n\r\n", "it answers 500 \N{REPLACEMENT CHARACTER}[2Jbroken"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"", "it closed the connection"),
    ],
)
def test_a_server_that_is_not_posestream_is_explained_in_one_line(answer, message):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        error = refusal(f"127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
    assert message in error


def test_a_live_view_needs_a_terminal():
    with serving({"yard": "20"}) as (url, _):
        found = CliRunner().invoke(app, ["top", url])
    assert "--once" in str(found.exception)
    assert exit_code(found.exception) == 2


class Terminal:
    """`top` on a pseudo-terminal: reads what it writes, and presses keys."""

    def __init__(self, *args: str, columns: int = 80, lines: int = 24):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self._ours)
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.cli", "top", *args],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env={**known, "TERM": "xterm-256color"},
        )  # fmt: skip
        self._theirs = theirs
        self.written = ""

    def until(self, pattern: str) -> None:
        """Wait for a text after the last one that was found; escape sequences are ignored."""
        deadline = time.monotonic() + 40
        while not (
            found := re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written), re.DOTALL)
        ):
            assert time.monotonic() < deadline, self.written[-3000:]
            if select.select([self._ours], [], [], 0.1)[0]:
                self.written += os.read(self._ours, 65536).decode(errors="replace")
        assert found
        self.written = ""

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def end(self) -> tuple[int, bool]:
        """Wait for its end; the exit code, and whether the terminal was restored."""
        deadline = time.monotonic() + 20
        last = ""
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self._ours], [], [], 0.05)[0]:
                last += os.read(self._ours, 65536).decode(errors="replace")
        while select.select([self._ours], [], [], 0)[0]:
            last += os.read(self._ours, 65536).decode(errors="replace")
        settings = termios.tcgetattr(self._ours)
        return self.process.returncode, settings == self.before and "\x1b[?1049l" in last

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@contextmanager
def terminal(*args: str, **size: int) -> Iterator[Terminal]:
    opened = Terminal(*args, **size)
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("how", ["q", signal.SIGINT, signal.SIGTERM])
def test_the_full_screen_ends_by_key_or_signal(how):
    with serving({"yard": "20"}) as (url, _), terminal(url, "--interval", "0.2") as screen:
        screen.until(r"up \d+ s .*yard +running")
        screen.until(r"up [1-9]\d* s .*yard +running")  # drawn again
        if how == "q":
            screen.press("xq")
        else:
            screen.process.send_signal(how)
        assert screen.end() == (0, True)


def test_top_waits_for_a_run_that_is_gone():
    with serving({"yard": "20"}) as (url, first):
        opened = Terminal(url, "--interval", "0.2")
        opened.until(rf"run {first.run.info.id}.*yard +running")
    try:
        opened.until(r"as of \d+ s ago, trying again; nothing listens there")
        with serving({"barn": "20"}, at=url.removeprefix("http://")) as (_, second):
            opened.until(rf"run {second.run.info.id}.*barn +running")
            opened.press("q")
            assert opened.end() == (0, True)
    finally:
        opened.close()
