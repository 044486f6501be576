"""The control API as callers see it: a real server on a free port, real requests."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from live_toys import camera_graph

from pipeline.errors import ConfigError
from pipeline.run import Run
from tools.attached import Attached
from tools.control import ControlServer, listen


@dataclass
class Client:
    url: str
    token: str | None = None

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, method=method)
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except json.JSONDecodeError:
            return status, text

    def stream(self, name: str) -> dict[str, Any]:
        _, said = self("GET", "/streams")
        return next((stream for stream in said["streams"] if stream["name"] == name), {})


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for something to hold, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


@contextmanager
def serving(
    sources: dict[str, str], *, token: str | None = None, start: bool = True, **credentials: dict[str, str]
) -> Iterator[tuple[Client, Attached]]:
    attached = Attached(Run(camera_graph(), sources, live=True, keep_open=True), credentials)
    with ControlServer(attached, listen("127.0.0.1:0", token), token) as server:
        if start:
            attached.start()
        try:
            yield Client(server.url, token), attached
        finally:
            attached.run.stop()
            if start:
                assert attached.run.wait(20)


def test_sources_come_and_go():
    with serving({"yard": "100"}) as (call, attached):
        until(lambda: call.stream("yard").get("state") == "running")
        assert call("POST", "/streams", {"name": "barn", "uri": "100"})[0] == 201
        assert call("POST", "/streams", {"name": "barn", "uri": "100"}) == (
            409, {"detail": "a source named 'barn' is attached already; remove it first"}
        )  # fmt: skip
        until(lambda: call.stream("barn")["finished"] > 5)
        attached.sample()
        barn = until(lambda: (s := call.stream("barn"))["fps"] > 0 and s)
        assert (barn["instances"], barn["uri"], barn["source"]) == (2, "100", "barn")
        assert 0 < barn["age_p50_ms"] <= barn["age_p99_ms"]
        assert call("DELETE", "/streams/barn") == (200, {"name": "barn", "ended": True})
        assert call.stream("barn")["state"] == "ended"
        assert call("DELETE", "/streams/barn") == (
            404, {"detail": "no source named 'barn' is attached; there are: yard"}
        )  # fmt: skip
        read = call.stream("barn")["read"]
        assert call("POST", "/streams", {"name": "barn", "uri": "100"})[0] == 201
        until(lambda: call.stream("barn")["read"] > read)  # its numbers go on
        assert attached.run.sources() == {"yard": "100", "barn": "100"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "JSON"),
        ({"name": "x"}, "uri"),
        ({"name": "", "uri": "rtsp://me:hush@cam/1"}, "name"),
        ({"name": "a/b", "uri": "rtsp://me:hush@cam/1"}, "name"),
        ({"name": "x", "uri": "rtsp://me:hush@cam/1", "speed": "hush"}, "speed"),
        ({"name": "x", "uri": "nosuch://me:hush@cam/1"}, "nosuch"),
        ({"name": "x", "uri": "rtsp://me:${NO_SUCH_VARIABLE}@cam/1"}, "NO_SUCH_VARIABLE"),
    ],
)
def test_what_cannot_be_attached_is_refused_in_one_line(body, says):
    with serving({}) as (call, _):
        status, said = call("POST", "/streams", body)
    assert status == 422
    assert says in said["detail"]
    assert "hush" not in json.dumps(said)
    assert "\n" not in said["detail"]


def test_credentials_are_used_and_never_shown():
    with serving({}, yard={"username": "me", "password": "hush"}) as (call, attached):
        status, added = call("POST", "/streams", {"name": "yard", "uri": "rtsp://cam/1?token=hush"})
        assert status == 201
        assert attached.run.sources()["yard"] == "rtsp://me:hush@cam/1?token=hush"
        paths = ("/streams", "/metrics", "/streams/yard/events", "/graph")
        assert "hush" not in json.dumps([added, *(call("GET", path) for path in paths)])
        assert "cam/1" in added["uri"]


def test_an_outage_is_told(tmp_path):
    unplugged = tmp_path / "unplugged"
    with serving({"yard": f"100:{unplugged}", "barn": "100"}) as (call, _):
        until(lambda: call.stream("yard").get("state") == "running")
        unplugged.touch()
        lost = until(lambda: (s := call.stream("yard"))["state"] == "lost" and s)
        assert lost["reason"] == "unplugged"
        assert abs(lost["lost_since_ns"] - time.time_ns()) < 20e9
        assert call("GET", "/readyz") == (200, {"ready": True, "problems": [], "lost": {"yard": "unplugged"}})
        unplugged.unlink()
        until(lambda: call.stream("yard")["state"] == "running")
        status, said = call("GET", "/streams/yard/events")
        assert status == 200
        assert [event["event"] for event in said["events"]] == ["lost", "back"]
        assert said["events"][1]["away_s"] > 0
        assert call("GET", "/streams/barn/events") == (200, {"events": []})
        assert call("GET", "/streams/nobody/events")[0] == 404


def test_the_graph_is_shown():
    with serving({}) as (call, _):
        status, said = call("GET", "/graph")
        assert status == 200
        assert [(node["name"], node["after"]) for node in said["nodes"]] == [
            ("camera", []), ("two", ["camera"]), ("slow", ["two"])
        ]  # fmt: skip
        assert said["nodes"][2]["options"] == {"ms": 1}
        assert call("GET", "/graph?format=mermaid")[1].startswith("flowchart LR\n    camera")


def test_ready_means_that_the_operators_are_open_and_the_run_goes_on():
    with serving({}, start=False) as (call, attached):
        assert call("GET", "/healthz") == (200, {"alive": True})
        assert call("GET", "/readyz") == (
            503, {"ready": False, "problems": ["the operators are being opened"], "lost": {}}
        )  # fmt: skip
        assert call("POST", "/streams", {"name": "yard", "uri": "100"})[0] == 503
        attached.start()
        assert call("GET", "/readyz")[0] == 200
        attached.run.stop()
        assert call("GET", "/readyz")[1]["problems"] == ["the run is stopping"]


def test_a_token_is_asked_for_where_there_is_one():
    with serving({}, token="open sesame") as (call, _):
        assert call("GET", "/streams")[0] == 200
        for wrong in (None, "sesame", "öpen"):
            call.token = wrong and wrong.encode().decode("latin-1")
            for path in ("/streams", "/graph", "/metrics", "/readyz", "/openapi.json", "/nothing"):
                assert call("GET", path)[0] == 401
            assert call("GET", "/healthz")[0] == 200


def test_a_page_in_a_browser_cannot_call():
    with serving({}) as (call, _):
        assert call("GET", "/streams", Host="evil.example:8787")[0] == 400
        body = json.dumps({"name": "x", "uri": "/etc/passwd"}).encode()
        assert call("POST", "/streams", body, Content_Type="text/plain")[0] == 422


@pytest.mark.parametrize(
    ("address", "token", "says"),
    [
        ("8787", None, "expected HOST:PORT"),
        ("localhost:http", None, "expected HOST:PORT"),
        ("0.0.0.0:0", None, "set POSESTREAM_TOKEN"),
        ("[::]:0", None, "set POSESTREAM_TOKEN"),
        ("192.0.2.1:0", "secret", "cannot listen"),
        ("no.such.invalid:8787", None, "no address"),
    ],
)
def test_an_address_to_listen_at_is_checked(address, token, says):
    with pytest.raises(ConfigError, match=says):
        listen(address, token)


def test_a_taken_port_is_told():
    with listen("localhost:0", None) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"127.0.0.1:{port}: cannot listen: Address already in use; give"
        ):
            listen(f"127.0.0.1:{port}", None)
