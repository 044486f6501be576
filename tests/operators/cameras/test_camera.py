"""Cameras are real here: GStreamer's RTSP server, and small HTTP and UDP senders. Pictures tell their numbers."""

import gc
import io
import itertools
import logging
import socket
import time

import av
import cv2
import pytest
import toys

from operators.cameras.camera import Camera, pause_s
from operators.decode import Decode
from pipeline.errors import SourceError
from pipeline.graph import check_graph
from pipeline.packet import Event
from pipeline.run import Run
from tests.support.rtsp_fixtures import FPS, FRAMES, SIZES, make_clip, number_of, numbered
from tests.support.watching import (
    Sender,
    Watching,
    http_server,
    link_threads,
    live_decode,
    send_pictures,
    until,
)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    until(lambda: not link_threads(), "end of the connections' threads", within_s=40)


@pytest.fixture
def udp_port():
    """A port that nobody listens at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def cameras():
    """The cameras in memory."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Camera)]


def whole(packets):
    """Whether no frame is missing between these packets of a looped clip."""
    numbers = [number_of(packet.image) for packet in packets]
    return all(b == (a + 1) % FRAMES for a, b in itertools.pairwise(numbers))


def test_a_camera_that_is_closed_keeps_no_decoder():
    with http_server(send_pictures) as url:
        decode = live_decode()
        assert next(decode.read("yard", url)).picture is not None
        assert cameras()
        decode.stop()
        decode.close()
        until(lambda: not cameras(), "end of the camera")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_frames_of_a_camera(rtsp, transport):
    before_ns = time.time_ns()
    with Watching(rtsp.url, transport=transport) as watching:
        watching.more(2 * FPS)
    packets = watching.packets
    assert whole(packets)
    assert [p.seq for p in packets] == list(range(len(packets)))
    assert {p.size for p in packets} == {SIZES["small"]}
    assert all(before_ns <= p.arrived_ns <= time.time_ns() for p in packets)
    steps_s = [(b.pts_ns - a.pts_ns) / 1e9 for a, b in itertools.pairwise(packets)]
    assert min(steps_s) > 0
    assert sum(steps_s) / len(steps_s) == pytest.approx(1 / FPS, rel=0.1)
    assert watching.events == []


def test_the_camera_tells_the_time_of_capture(rtsp):
    with Watching(rtsp.url) as watching:  # in its sender reports, of which the first comes after seconds
        until(
            lambda: any(p.captured_ns != p.arrived_ns for p in watching.packets), "time of capture", watching
        )
        watching.more(FPS)
    ages_s = [(p.arrived_ns - p.captured_ns) / 1e9 for p in watching.packets[-FPS:]]
    assert min(ages_s) > 0
    assert max(ages_s) < 3
    assert watching.decode.counters["untrusted_times"] == 0


def test_a_camera_whose_clock_is_wrong_is_not_believed(rtsp, caplog):
    decode = live_decode()
    hour_ns = 3600 * 10**9
    packets = []
    for packet in decode.read("yard", rtsp.url, clock=lambda: time.time_ns() - hour_ns):
        packets.append(packet)
        if decode.counters["untrusted_times"] > FPS:
            decode.stop()
    assert all(p.captured_ns == p.arrived_ns for p in packets)
    assert [r.message for r in caplog.records if "time of day" in r.message] == [
        "yard: the camera's time of day is wrong; frames get their time of arrival instead"
    ]


def test_a_camera_that_dies_comes_back(rtsp, caplog):
    with Watching(rtsp.url) as watching:
        watching.more(FPS)
        rtsp.kill()
        lost = watching.told("lost")
        time.sleep(1)  # an outage of some length
        rtsp.start()
        back = watching.told("lost", "back")
        watching.more(FPS)
    assert lost.details["reason"]
    assert back.resets
    place = watching.items.index(lost)
    assert watching.items[place + 1] is back
    before, after = watching.items[:place], watching.items[place + 2 :]
    assert whole(before)
    assert whole(after)
    assert [p.seq for p in before + after] == list(range(len(before + after)))
    hole_s = (after[0].pts_ns - before[-1].pts_ns) / 1e9
    assert 1 < back.details["away_s"] == pytest.approx(hole_s, abs=0.5)
    assert watching.decode.counters["outages"] == 1
    assert watching.decode.counters["outage_ms"] == pytest.approx(1e3 * back.details["away_s"], abs=1)
    # A line for each change, not for each attempt.
    assert [r.message.split(":")[1].split()[0] for r in caplog.records if "yard" in r.message] == [
        "lost",
        "back",
    ]


def test_a_camera_that_says_nothing_is_lost(rtsp):
    with Watching(rtsp.url, stall_s=1) as watching:
        watching.more(FPS)
        rtsp.pause()
        paused_s = time.monotonic()
        lost = watching.told("lost")
        assert time.monotonic() - paused_s < 5
        assert lost.details == {"reason": "no frame for 1 s"}
        rtsp.resume()
        watching.told("lost", "back")
        watching.more(FPS)


def test_stopping_does_not_wait_for_a_silent_camera(rtsp):
    with Watching(rtsp.url, stall_s=5) as watching:
        watching.more(1)
        rtsp.pause()
        until(lambda: time.time_ns() - watching.packets[-1].arrived_ns > 3e8, "silence", watching)
        start_s = time.monotonic()
        watching.__exit__()
        assert time.monotonic() - start_s < 1
    rtsp.resume()


def test_a_server_that_takes_the_call_and_says_nothing(monkeypatch):
    monkeypatch.setattr("operators.cameras.camera_source.OPEN_S", 1)
    server = socket.create_server(("127.0.0.1", 0))
    with server, Watching(f"rtsp://127.0.0.1:{server.getsockname()[1]}/live") as watching:
        assert watching.told("lost").details == {"reason": "no answer for 1 s"}
        start_s = time.monotonic()
        watching.decode.stop()
        watching._thread.join(5)
        assert time.monotonic() - start_s < 1


def test_another_size_in_mid_stream_and_after_an_outage(rtsp):
    with Watching(rtsp.url) as watching:
        watching.more(FPS)
        rtsp.show("large")
        changed = watching.told("changed")
        watching.more(FPS)
        rtsp.restart("small")
        watching.told("changed", "lost", "back", "changed")
        watching.more(FPS)
    assert changed.details == {"before": "h264 320x240", "after": "h264 640x360"}
    assert changed.resets
    sizes = [item.size for item in watching.items if not isinstance(item, Event)]
    assert [size for size, _ in itertools.groupby(sizes)] == [SIZES["small"], SIZES["large"], SIZES["small"]]
    place = watching.items.index(changed)
    assert whole(watching.items[:place])
    assert watching.items[place + 1].size == SIZES["large"]


@pytest.mark.parametrize("how", ["file", "environment", "none", "wrong"])
def test_a_password(guarded_rtsp, monkeypatch, caplog, how):
    from operators.decoding.addresses import resolve_uri

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
    with Watching(uri) as watching:
        if how in ("file", "environment"):
            watching.more(3)
        else:
            lost = watching.told("lost")
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
    ("uri", "says"),
    [
        ("rtsp://127.0.0.1:1/live", "nothing listens at 127.0.0.1:1"),
        ("rtsp://camera.invalid/live", "unknown host camera.invalid"),
        ("http://camera.invalid/live", "unknown host camera.invalid"),
        ("/dev/video99", "there is no such device"),
    ],
)
def test_what_is_not_there_is_tried_again(uri, says):
    with Watching(uri) as watching:
        assert watching.told("lost").details == {"reason": says}
    assert watching.error is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (serve_html, "it serves text/html, which is not a video"),
        (refuse, "there is no such stream (404)"),
    ],
)
def test_what_is_no_video_is_tried_again(answer, says):
    with http_server(answer) as address, Watching(address + "index.html") as watching:
        assert watching.told("lost").details == {"reason": says}
    assert watching.error is None


def test_a_camera_is_given_up_after_so_many_attempts():
    with Watching("rtsp://user:s3cret@127.0.0.1:1/live", attempts=3) as watching:
        until(lambda: watching.error, "end", watching)
    assert isinstance(watching.error, SourceError)
    assert str(watching.error) == "yard: given up after 3 attempts: nothing listens at 127.0.0.1:1"
    assert watching.kinds() == ["lost"]


@pytest.mark.parametrize("uri", ["foo://cam/x", "rtsp://", "srt://127.0.0.1:9"])
def test_what_can_never_work_is_an_error_at_once(uri):
    if uri.startswith("srt"):
        try:
            av.open(uri, timeout=1)
        except av.error.ProtocolNotFoundError:
            pass
        except av.error.FFmpegError:
            pytest.skip("this FFmpeg reads SRT")
    with pytest.raises(SourceError, match="cannot read"):
        list(live_decode().read("yard", uri))


def test_pauses_grow_and_differ():
    for refused, longest_s in ((False, 1), (True, 60)):
        pauses = [pause_s(tries, refused) for tries in range(40)]
        assert pauses[0] < longest_s / 5
        assert max(pauses) <= longest_s
        assert len(set(pauses[10:])) > 20
    assert pause_s(0, refused=True) > pause_s(0, refused=False)


def test_pictures_over_http():
    with http_server(send_pictures) as address, Watching(address) as watching:
        watching.more(FPS)
    assert whole(watching.packets)
    span_s = (watching.packets[-1].pts_ns - watching.packets[0].pts_ns) / 1e9
    arrived_s = (watching.packets[-1].arrived_ns - watching.packets[0].arrived_ns) / 1e9
    assert span_s == pytest.approx(arrived_s, abs=0.01)  # such a stream has no clock but this machine's


def test_a_clock_that_jumps(udp_port):
    with Sender(udp_port) as sender, Watching(f"udp://127.0.0.1:{udp_port}") as watching:
        watching.more(FPS)
        sender.jump_s = 100
        jumped = watching.told("jumped")
        watching.more(FPS)
        first = watching.packets
        sender.stop()
        with Sender(udp_port):  # one that begins anew
            back = watching.told("jumped", "jumped")
            watching.more(FPS)
    assert whole(first)
    assert -120 < back.details["by_s"] < -100
    assert jumped.details["by_s"] == pytest.approx(100, abs=1)
    assert not jumped.resets
    steps_s = [(b.pts_ns - a.pts_ns) / 1e9 for a, b in itertools.pairwise(watching.packets)]
    assert min(steps_s) > 0
    assert max(steps_s) < 6
    assert watching.decode.counters["jumps"] == 2


def test_a_decoder_that_cannot_keep_up_skips_to_a_key_frame(rtsp):
    decode = live_decode()
    packets, ages_s = [], []
    for packet in decode.read("yard", rtsp.url):
        packets.append(packet)
        ages_s.append((time.time_ns() - packet.arrived_ns) / 1e9)
        time.sleep(0.2)  # five a second, of 25
        if decode.counters["late_packets"] > 60:
            decode.stop()
    assert max(ages_s) < 3
    numbers = [number_of(p.image) for p in packets]
    gaps = [b for a, b in itertools.pairwise(numbers) if b != (a + 1) % FRAMES]
    assert gaps
    assert all(number % 5 == 0 for number in gaps)  # key frames


@pytest.mark.parametrize(("options", "rate"), [({"stride": 5}, 5), ({"fps": 5}, 5)])
def test_cameras_are_thinned_out(rtsp, options, rate):
    with Watching(rtsp.url, max_frames=6, **options) as watching:
        until(lambda: not watching._thread.is_alive(), "end", watching)
    packets = watching.packets
    assert len(packets) == 6
    assert (packets[-1].pts_ns - packets[0].pts_ns) / 1e9 == pytest.approx(5 / rate, abs=0.2)


def test_a_camera_has_no_beginning():
    with pytest.raises(SourceError, match="remove start_s"):
        list(live_decode(start_s=3).read("yard", "rtsp://127.0.0.1:1/x"))


def test_a_file_plays_at_its_own_pace(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", SIZES["small"], frames=FPS)
    start_s = time.monotonic()
    packets = list(live_decode(loop=2).read("yard", str(path)))
    assert time.monotonic() - start_s > 2 - 2 / FPS
    assert [number_of(p.image) for p in packets] == list(range(FPS)) * 2
    span_s = (packets[-1].captured_ns - packets[0].captured_ns) / 1e9
    assert span_s > (packets[-1].pts_ns - packets[0].pts_ns) / 1e9 - 0.1


def live_graph(*nodes):
    """`decode` and these nodes in a chain, and `collect` behind them."""
    toys.Collect.packets.clear()
    toys.Collect.ended.clear()
    spec = {"decode": {"op": "decode", "stall_s": 1}}
    for name, node in [*nodes, ("collect", {"op": "collect"})]:
        spec[name] = {"after": list(spec)[-1], **node}
    return check_graph({"name": "live", "graph": spec}, {**toys.REGISTRY, "decode": Decode})


def test_one_bad_camera_never_stops_the_others(rtsp):
    sources = {"good": rtsp.url, "gone": "rtsp://127.0.0.1:1/x", "wrong": "foo://x/y"}
    run = Run(live_graph(), sources, live=True, keep_open=True)
    run.start()
    until(lambda: sum(p.stream == "good" for p in list(toys.Collect.packets)) > FPS, "frames")
    assert {s.name: s.lost for s in run.stats().streams} == {"good": False, "gone": True, "wrong": False}
    assert set(run.sources()) == {"good", "gone"}
    run.stop()
    stats = run.finish()
    assert {s.name: s.counters.get("outages") for s in stats.streams} == {
        "good": None,
        "gone": 1,
        "wrong": None,
    }


def test_under_overload_frames_stay_young_and_drops_are_counted(rtsp):
    run = Run(live_graph(("slow", {"op": "slow", "ms": 150})), {"yard": rtsp.url}, live=True, max_age_s=1)
    run.start()
    until(lambda: len(toys.Collect.packets) > 15, "frames")
    run.stop()
    stats = run.finish()
    (stream,) = stats.streams
    dropped = sum(sum(edge.dropped.values()) for edge in stats.edges)
    assert stream.read == stream.finished + dropped
    assert dropped > 0
    assert stream.age_p99_ms < 1500


def test_outages_leak_nothing():
    """Connections of which each gives some pictures and is then closed by the other side."""

    def some(handler):
        encoded = io.BytesIO()
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        handler.end_headers()
        with av.open(encoded, "w", format="mjpeg") as container:
            video = container.add_stream("mjpeg", rate=FPS)
            video.width, video.height, video.pix_fmt = 320, 240, "yuvj420p"
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered(1, 320, 240), "rgb24")))
            container.mux(video.encode())
        for _ in range(5):
            head = (
                f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(encoded.getvalue())}\r\n\r\n"
            )
            handler.wfile.write(head.encode() + encoded.getvalue() + b"\r\n")

    with http_server(some) as address, Watching(address) as watching:
        until(lambda: watching.decode.counters["outages"] >= 10, "ten outages", watching, within_s=60)
        assert len(link_threads()) <= 2
    until(lambda: not link_threads(), "end of the threads")
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, av.container.InputContainer)]


def test_a_topic_is_handed_on(kafka, topic):
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for number in range(3):
        image = cv2.imencode(".png", numbered(number, 320, 240))[1].tobytes()
        producer.send(topic, image, key=b"yard").get(20)
    producer.close()
    with Watching(f"kafka://{kafka.bootstrap}/{topic}?group=test") as watching:
        until(lambda: len(watching.packets) == 3, "packets", watching)
        watching.decode.finished(watching.packets[-1])
    watching.decode.close()
    assert [(p.stream, p.seq, number_of(p.image)) for p in watching.packets] == [
        ("yard", i, i) for i in range(3)
    ]
