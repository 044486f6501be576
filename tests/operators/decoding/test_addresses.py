import pytest

from operators.decoding.addresses import ffmpeg_address, is_camera, redact, resolve_uri
from pipeline.errors import SourceError


@pytest.mark.parametrize(
    ("shown", "secret", "want"),
    [
        ("rtsp://cam/live", None, "rtsp://cam/live"),
        ("rtsp://user:pw@cam:554/live?channel=1", "pw", "rtsp://***@cam:554/live?channel=1"),
        ("rtsp://user@cam/live", "user", "rtsp://***@cam/live"),
        # Not percent-encoded, as people write them.
        ("rtsp://user:p@ss/w@cam/live", "p@ss/w", "rtsp://***@cam/live"),
        ("rtsp://user:pass word@cam/live", "pass word", "rtsp://***@cam/live"),
        ("https://cam/live.m3u8?id=3&access_token=s3cr3t&x=1", "s3cr3t", "https://cam/live.m3u8?id=3&access_token=***&x=1"),
        ("https://cam/v?X-Amz-Signature=abc", "abc", "https://cam/v?X-Amz-Signature=***"),
        ("rtsp://cam/user=admin&password=hunter2&channel=1", "hunter2", "rtsp://cam/user=***&password=***&channel=1"),
        ("srt://cam:9000?passphrase=abcdefghij&mode=caller", "abcdefghij", "srt://cam:9000?passphrase=***&mode=caller"),
        ("[Errno 5] Input/output error: 'rtsp://u:pw@cam/x'", "pw", "[Errno 5] Input/output error: 'rtsp://***@cam/x'"),
        ("/data/session=3/horse.mp4", None, "/data/session=3/horse.mp4"),
        ("kafka://broker:9092/frames?group=a", None, "kafka://broker:9092/frames?group=a"),
    ],
)  # fmt: skip
def test_a_redacted_address_holds_no_secret(shown, secret, want):
    assert redact(shown) == want
    assert secret is None or secret not in want


def test_credentials_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("USER_1", "farm")
    monkeypatch.setenv("PASS_1", "p@ss:w/rd?#%")
    monkeypatch.setenv("CAM", "cam:8554")
    assert (
        resolve_uri("rtsp://${USER_1}:${PASS_1}@${CAM}/x")
        == "rtsp://farm:p%40ss%3Aw%2Frd%3F%23%25@cam:8554/x"
    )
    assert (
        resolve_uri("http://${CAM}/x?token=${PASS_1}") == "http://cam:8554/x?token=p%40ss%3Aw%2Frd%3F%23%25"
    )
    with pytest.raises(SourceError, match="NO_SUCH_NAME is not set"):
        resolve_uri("rtsp://${NO_SUCH_NAME}@cam/x")


@pytest.mark.parametrize("uri", ["rtsp://cam:8554/x?a=1", "rtsp://old:one@cam:8554/x?a=1"])
def test_given_credentials_replace_those_in_the_address(uri):
    resolved = resolve_uri(uri, {"username": "farm", "password": "a@b"})
    assert resolved == "rtsp://farm:a%40b@cam:8554/x?a=1"
    assert resolve_uri(resolved) == resolved


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("foo://cam/x", "unknown scheme foo"),
        ("rtsp:///x", "has no host"),
        ("udp://", "has no host"),
        ("rtsp://cam:port/x", "malformed"),
        ("rtsp://user:se/cret@cam/x", "malformed"),
        ("rtsp://user:secret@[::1/x", "malformed"),
        ("rtsp://cam/x y", "white space"),
    ],
)
def test_an_address_that_can_never_work_is_refused_at_once(uri, reason):
    with pytest.raises(SourceError, match=reason) as refused:
        resolve_uri(uri)
    assert "cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["udp://:5000", "rtsp://[::1]:554/x", "srt://cam:1?mode=caller", "/dev/video0", "http://cam"]
)
def test_addresses_that_may_work(uri):
    assert is_camera(uri)
    assert resolve_uri(uri) == uri


def test_an_existing_file_is_a_path_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rtsp:${X}.mp4").touch()
    assert resolve_uri("rtsp:${X}.mp4") == "rtsp:${X}.mp4"
    assert not is_camera("rtsp:${X}.mp4")


@pytest.mark.parametrize(
    ("uri", "want", "option"),
    [
        ("rtsp://cam/x", "rtsp://cam/x", "tcp"),
        ("rtsp://cam/x?rtsp_transport=udp", "rtsp://cam/x", "udp"),
        ("rtsp://cam/x?rtsp_transport=udp&a=1", "rtsp://cam/x?a=1", "udp"),
        ("rtsp://cam/x?a=1&rtsp_transport=udp&b=2", "rtsp://cam/x?a=1&b=2", "udp"),
    ],
)
def test_an_address_may_choose_its_rtsp_transport(uri, want, option):
    address, format, options = ffmpeg_address(uri, "tcp")
    assert (address, format, options["rtsp_transport"]) == (want, None, option)


def test_the_address_of_a_webcam_may_have_driver_options():
    address, format, options = ffmpeg_address("/dev/video2?video_size=1280x720&input_format=mjpeg", "tcp")
    assert (address, format) == ("/dev/video2", "v4l2")
    assert options == {"timestamps": "abs", "video_size": "1280x720", "input_format": "mjpeg"}
