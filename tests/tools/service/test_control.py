"""The control API over HTTP: a real server on a free port, real requests."""

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
from tools.service.attached import Attached
from tools.service.control import ControlServer, listen


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
        _, listed = self("GET", "/streams")
        return next((stream for stream in listed["streams"] if stream["name"] == name), {})


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait until the condition returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)
    return found


@contextmanager
def serving(
    sources: dict[str, str],
    *,
    token: str | None = None,
    start: bool = True,
    slow_ms: float = 1,
    **credentials: dict[str, str],
) -> Iterator[tuple[Client, Attached]]:
    attached = Attached(Run(camera_graph(slow_ms), sources, live=True, keep_open=True), credentials)
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
        until(lambda: call.stream("barn")["read"] > read)  # its counts go on
        assert attached.run.sources() == {"yard": "100", "barn": "100"}


@pytest.mark.parametrize(
    ("body", "message"),
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
def test_a_source_that_cannot_be_attached_is_refused_in_one_line(body, message):
    with serving({}) as (call, _):
        status, answer = call("POST", "/streams", body)
    assert status == 422
    assert message in answer["detail"]
    assert "hush" not in json.dumps(answer)
    assert "\n" not in answer["detail"]


def test_credentials_are_used_and_never_shown():
    with serving({}, yard={"username": "me", "password": "hush"}) as (call, attached):
        status, added = call("POST", "/streams", {"name": "yard", "uri": "rtsp://cam/1?token=hush"})
        assert status == 201
        assert attached.run.sources()["yard"] == "rtsp://me:hush@cam/1?token=hush"
        paths = ("/streams", "/stages", "/metrics", "/streams/yard/events", "/graph")
        assert "hush" not in json.dumps([added, *(call("GET", path) for path in paths)])
        assert "cam/1" in added["uri"]


def test_an_outage_is_reported(tmp_path):
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
        status, answer = call("GET", "/streams/yard/events")
        assert status == 200
        assert [event["event"] for event in answer["events"]] == ["lost", "back"]
        assert answer["events"][1]["away_s"] > 0
        assert call("GET", "/streams/barn/events") == (200, {"events": []})
        assert call("GET", "/streams/nobody/events")[0] == 404


def drained(call: Client, packets: int) -> list[dict[str, Any]]:
    """Wait until `packets` have left the graph or were dropped, and return the streams."""

    def done() -> Any:
        streams = call("GET", "/streams")[1]["streams"]
        return sum(s["finished"] + s["dropped"] for s in streams) == packets and streams

    return until(done)


def test_a_stage_that_cannot_keep_up_shows():
    with serving({"yard": "100", "barn": "100"}, slow_ms=20) as (call, _):
        answer = until(
            lambda: (s := call("GET", "/stages")[1])["stages"][2]["busy"] > 0.9 and s["window_s"] > 1 and s
        )
    camera, two, slow = answer["stages"]
    assert [(stage["name"], stage["op"]) for stage in answer["stages"]] == [
        ("camera", "camera"), ("two", "two"), ("slow", "slow")
    ]  # fmt: skip
    assert [stage["workers"] for stage in answer["stages"]] == [2, 1, 1]
    assert [stage["capacity"] for stage in answer["stages"]] == [None, 4, 1]  # live: 2 per camera, 1 per call
    assert two["blocked"] > 0.5 > two["busy"]
    assert slow["computing"] < 0.5  # it sleeps
    assert 0 < two["waiting"] <= 4
    assert 0 < two["dropped_now"]["full"] <= two["dropped"]["full"]
    assert (camera["dropped"], slow["dropped"]) == ({}, {})
    assert slow["packets_in_per_s"] < camera["packets_out_per_s"] / 2


def test_the_counts_of_stages_add_up():
    with serving({}, slow_ms=20) as (call, attached):
        for name in ("yard", "barn"):  # after the first sample, which may be late on a busy machine
            attached.add(name, "200@60")
        streams = drained(call, 120)
        answer = call("GET", "/stages")[1]
    assert (answer["graph"], answer["problems"]) == ("toy", [])
    camera, two, slow = answer["stages"]
    finished, dropped = (sum(stream[what] for stream in streams) for what in ("finished", "dropped"))
    assert two["dropped"] == two["dropped_now"] == {"full": dropped}
    for edge in answer["edges"]:
        assert edge["received"] == edge["delivered"] + sum(edge["dropped"].values())
    assert [(edge["producer"], edge["consumer"], edge["received"]) for edge in answer["edges"]] == [
        ("camera", "two", 120), ("two", "slow", finished)
    ]  # fmt: skip
    # The whole run lies within the last seconds, so the rates are the counts over its time.
    seconds = answer["window_s"]
    assert answer["uptime_s"] == pytest.approx(seconds, abs=0.1)
    rates = {
        (camera["packets_out_per_s"], 120),
        (two["packets_in_per_s"], finished),
        (answer["fps"], finished),
    }
    for rate, packets in rates:
        assert rate * seconds == pytest.approx(packets, rel=0.02)
    assert slow["busy"] * seconds >= finished * 0.02 * 0.95
    for stage in answer["stages"]:
        assert stage["busy"] + stage["blocked"] + stage["idle"] == pytest.approx(1, abs=0.002)
        assert 0 <= stage["computing"] <= stage["busy"]
    assert slow["wait_p50_ms"] <= slow["latency_p50_ms"] <= slow["latency_p99_ms"]
    assert slow["latency_p50_ms"] > 18
    assert 18 < answer["age_p50_ms"] <= answer["age_p99_ms"]
    assert 0 < answer["cores"] <= answer["processors"]


def test_the_last_seconds_do_not_include_the_time_before(monkeypatch):
    with serving({"yard": "200@20"}, slow_ms=20) as (call, attached):
        drained(call, 20)
        monkeypatch.setattr("tools.service.attached.WINDOW_S", 0)
        attached.sample()
        answer = call("GET", "/stages")[1]
    assert (answer["fps"], answer["age_p99_ms"], answer["stages"][2]["busy"]) == (0, 0, 0)
    assert answer["stages"][1]["dropped"]
    assert not answer["stages"][1]["dropped_now"]


def test_the_graph_is_shown():
    with serving({}) as (call, _):
        status, answer = call("GET", "/graph")
        assert status == 200
        assert [(node["name"], node["after"]) for node in answer["nodes"]] == [
            ("camera", []), ("two", ["camera"]), ("slow", ["two"])
        ]  # fmt: skip
        assert answer["nodes"][2]["options"] == {"ms": 1}
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


def test_a_token_is_required_if_there_is_one():
    with serving({}, token="open sesame") as (call, _):
        assert call("GET", "/streams")[0] == 200
        for wrong in (None, "sesame", "öpen"):
            call.token = wrong and wrong.encode().decode("latin-1")
            for path in ("/streams", "/stages", "/graph", "/metrics", "/readyz", "/openapi.json", "/nothing"):
                assert call("GET", path)[0] == 401
            assert call("GET", "/healthz")[0] == 200


def test_a_page_in_a_browser_cannot_call():
    with serving({}) as (call, _):
        assert call("GET", "/streams", Host="evil.example:8787")[0] == 400
        body = json.dumps({"name": "x", "uri": "/etc/passwd"}).encode()
        assert call("POST", "/streams", body, Content_Type="text/plain")[0] == 422


@pytest.mark.parametrize(
    ("address", "token", "message"),
    [
        ("8787", None, "expected HOST:PORT"),
        ("localhost:http", None, "expected HOST:PORT"),
        ("0.0.0.0:0", None, "set POSESTREAM_TOKEN"),
        ("[::]:0", None, "set POSESTREAM_TOKEN"),
        ("192.0.2.1:0", "secret", "cannot listen"),
        ("no.such.invalid:8787", None, "no address"),
    ],
)
def test_an_address_to_listen_at_is_checked(address, token, message):
    with pytest.raises(ConfigError, match=message):
        listen(address, token)


def test_a_taken_port_is_refused():
    with listen("localhost:0", None) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"127.0.0.1:{port}: cannot listen: Address already in use; give"
        ):
            listen(f"127.0.0.1:{port}", None)
