"""Cameras that cannot be reached, refuse, or send no video: when they are tried again, and with which reason."""

import logging
import socket
import time

import av
import pytest

from operators.cameras.camera import pause_s
from operators.decoding.addresses import resolve_uri
from pipeline.errors import SourceError
from tests.support.videos.camera_senders import http_server
from tests.support.videos.live_reader import LiveReader, live_decode, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("how", ["file", "environment", "none", "wrong"])
def test_user_and_password(guarded_rtsp, monkeypatch, caplog, how):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CAM_PASSWORD", guarded_rtsp.password)
    address = guarded_rtsp.url.removeprefix("rtsp://")
    credentials = {"username": guarded_rtsp.user, "password": guarded_rtsp.password}
    uri = {
        "file": resolve_uri(guarded_rtsp.url, credentials),
        "environment": f"rtsp://{guarded_rtsp.user}:${{CAM_PASSWORD}}@{address}",
        "none": guarded_rtsp.url,
        "wrong": f"rtsp://{guarded_rtsp.user}:s3cret@{address}",
    }[how]
    with LiveReader(uri) as reader:
        if how in ("file", "environment"):
            reader.wait_for_packets(3)
        else:
            lost = reader.wait_for_events("lost")
            assert lost.details == {"reason": "wrong or missing user name or password (401)"}
    for secret in ("s3cret", guarded_rtsp.password, "p%40ss"):
        assert secret not in caplog.text


def serve_html(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    handler.wfile.write(b"<!doctype html><html><body>Welcome to your camera</body></html>" * 50)


def refuse(handler):
    handler.send_response(404)
    handler.end_headers()


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("rtsp://127.0.0.1:1/live", "nothing listens at 127.0.0.1:1"),
        ("rtsp://camera.invalid/live", "unknown host camera.invalid"),
        ("http://camera.invalid/live", "unknown host camera.invalid"),
        ("/dev/video99", "there is no such device"),
    ],
)
def test_an_unreachable_camera_is_tried_again(uri, reason):
    with LiveReader(uri) as reader:
        assert reader.wait_for_events("lost").details == {"reason": reason}
    assert reader.error is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (serve_html, "it serves text/html, which is not a video"),
        (refuse, "there is no such stream (404)"),
    ],
)
def test_an_address_that_serves_no_video_is_tried_again(answer, reason):
    with http_server(answer) as address, LiveReader(address + "index.html") as reader:
        assert reader.wait_for_events("lost").details == {"reason": reason}
    assert reader.error is None


def test_a_camera_is_given_up_after_the_allowed_attempts():
    with LiveReader("rtsp://user:s3cret@127.0.0.1:1/live", attempts=3) as reader:
        until(lambda: reader.error, "end", reader)
    assert isinstance(reader.error, SourceError)
    assert str(reader.error) == "yard: given up after 3 attempts: nothing listens at 127.0.0.1:1"
    assert reader.event_kinds() == ["lost"]


@pytest.mark.parametrize("uri", ["foo://cam/x", "rtsp://", "srt://127.0.0.1:9"])
def test_an_address_that_can_never_work_is_an_error_at_once(uri):
    if uri.startswith("srt"):
        try:
            av.open(uri, timeout=1)
        except av.error.ProtocolNotFoundError:
            pass
        except av.error.FFmpegError:
            pytest.skip("this FFmpeg reads SRT")
    with pytest.raises(SourceError, match="cannot read"):
        list(live_decode().read("yard", uri))


def test_pauses_between_attempts_grow_and_are_random():
    for refused, longest_s in ((False, 1), (True, 60)):
        pauses = [pause_s(tries, refused) for tries in range(40)]
        assert pauses[0] < longest_s / 5
        assert max(pauses) <= longest_s
        assert len(set(pauses[10:])) > 20
    assert pause_s(0, refused=True) > pause_s(0, refused=False)


def test_a_server_that_accepts_a_connection_and_stays_silent(monkeypatch):
    monkeypatch.setattr("operators.cameras.camera_source.OPEN_S", 1)
    server = socket.create_server(("127.0.0.1", 0))
    with server, LiveReader(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live") as reader:
        assert reader.wait_for_events("lost").details == {"reason": "no answer for 1 s"}
        start_s = time.monotonic()
        reader.decode.stop()
        reader.thread.join(5)
        assert time.monotonic() - start_s < 1


def test_a_camera_has_no_beginning():
    with pytest.raises(SourceError, match="remove start_s"):
        list(live_decode(start_s=3).read("yard", "rtsp://127.0.0.1:1/x"))
