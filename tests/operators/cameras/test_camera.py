"""Reading a camera. Cameras are real here: GStreamer's RTSP server, HTTP and UDP senders, with numbered images."""

import gc
import io
import itertools
import socket
import time

import av
import pytest

from operators.cameras.camera import Camera
from pipeline.packet import Event
from tests.support.videos.camera_senders import UdpSender, http_server, send_pictures
from tests.support.videos.live_reader import LiveReader, camera_threads, live_decode, until, without_gaps
from tests.support.videos.rtsp_fixtures import FPS, FRAMES, SIZES, number_of, numbered

pytestmark = pytest.mark.slow


@pytest.fixture
def udp_port():
    """A free port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def cameras():
    """The cameras in memory."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, Camera)]


def test_after_close_the_camera_and_its_decoder_are_freed():
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
    with LiveReader(rtsp.url, transport=transport) as reader:
        reader.wait_for_packets(2 * FPS)
    packets = reader.packets
    assert without_gaps(packets)
    assert [p.seq for p in packets] == list(range(len(packets)))
    assert {p.size for p in packets} == {SIZES["small"]}
    assert all(before_ns <= p.arrived_ns <= time.time_ns() for p in packets)
    steps_s = [(b.pts_ns - a.pts_ns) / 1e9 for a, b in itertools.pairwise(packets)]
    assert min(steps_s) > 0
    assert sum(steps_s) / len(steps_s) == pytest.approx(1 / FPS, rel=0.1)
    assert reader.events == []


def test_the_time_of_capture_comes_from_the_camera(rtsp):
    with LiveReader(rtsp.url) as reader:
        # The camera sends it in RTCP sender reports, the first one after some seconds.
        until(lambda: any(p.captured_ns != p.arrived_ns for p in reader.packets), "time of capture", reader)
        reader.wait_for_packets(FPS)
    ages_s = [(p.arrived_ns - p.captured_ns) / 1e9 for p in reader.packets[-FPS:]]
    assert min(ages_s) > 0
    assert max(ages_s) < 3
    assert reader.decode.counters["untrusted_times"] == 0


def test_wrong_times_of_capture_are_replaced_by_those_of_arrival(rtsp, caplog):
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
    with LiveReader(rtsp.url) as reader:
        reader.wait_for_packets(FPS)
        rtsp.kill()
        lost = reader.wait_for_events("lost")
        time.sleep(1)  # an outage of some length
        rtsp.start()
        back = reader.wait_for_events("lost", "back")
        reader.wait_for_packets(FPS)
    assert lost.details["reason"]
    assert back.resets
    place = reader.items.index(lost)
    assert reader.items[place + 1] is back
    before, after = reader.items[:place], reader.items[place + 2 :]
    assert without_gaps(before)
    assert without_gaps(after)
    assert [p.seq for p in before + after] == list(range(len(before + after)))
    hole_s = (after[0].pts_ns - before[-1].pts_ns) / 1e9
    assert 1 < back.details["away_s"] == pytest.approx(hole_s, abs=0.5)
    assert reader.decode.counters["outages"] == 1
    assert reader.decode.counters["outage_ms"] == pytest.approx(1e3 * back.details["away_s"], abs=1)
    # One line per change of state, not per attempt.
    assert [r.message.split(":")[1].split()[0] for r in caplog.records if "yard" in r.message] == [
        "lost",
        "back",
    ]


def test_a_silent_camera_is_lost(rtsp):
    with LiveReader(rtsp.url, stall_s=1) as reader:
        reader.wait_for_packets(FPS)
        rtsp.pause()
        paused_s = time.monotonic()
        lost = reader.wait_for_events("lost")
        assert time.monotonic() - paused_s < 5
        assert lost.details == {"reason": "no frame for 1 s"}
        rtsp.resume()
        reader.wait_for_events("lost", "back")
        reader.wait_for_packets(FPS)


def test_stopping_does_not_wait_for_a_silent_camera(rtsp):
    with LiveReader(rtsp.url, stall_s=5) as reader:
        reader.wait_for_packets(1)
        rtsp.pause()
        until(lambda: time.time_ns() - reader.packets[-1].arrived_ns > 3e8, "silence", reader)
        start_s = time.monotonic()
        reader.__exit__()
        assert time.monotonic() - start_s < 1
    rtsp.resume()


def test_changes_of_size_within_a_connection_and_after_an_outage(rtsp):
    with LiveReader(rtsp.url) as reader:
        reader.wait_for_packets(FPS)
        rtsp.show("large")
        changed = reader.wait_for_events("changed")
        reader.wait_for_packets(FPS)
        rtsp.restart("small")
        reader.wait_for_events("changed", "lost", "back", "changed")
        reader.wait_for_packets(FPS)
    assert changed.details == {"before": "h264 320x240", "after": "h264 640x360"}
    assert changed.resets
    sizes = [item.size for item in reader.items if not isinstance(item, Event)]
    assert [size for size, _ in itertools.groupby(sizes)] == [SIZES["small"], SIZES["large"], SIZES["small"]]
    place = reader.items.index(changed)
    assert without_gaps(reader.items[:place])
    assert reader.items[place + 1].size == SIZES["large"]


def test_jpeg_images_over_http():
    with http_server(send_pictures) as address, LiveReader(address) as reader:
        reader.wait_for_packets(FPS)
    assert without_gaps(reader.packets)
    span_s = (reader.packets[-1].pts_ns - reader.packets[0].pts_ns) / 1e9
    arrived_s = (reader.packets[-1].arrived_ns - reader.packets[0].arrived_ns) / 1e9
    assert span_s == pytest.approx(arrived_s, abs=0.01)  # the stream has no times: they are those of arrival


def test_a_clock_that_jumps(udp_port):
    with UdpSender(udp_port) as sender, LiveReader(f"udp://127.0.0.1:{udp_port}") as reader:
        reader.wait_for_packets(FPS)
        sender.jump_s = 100
        jumped = reader.wait_for_events("jumped")
        reader.wait_for_packets(FPS)
        first = reader.packets
        sender.stop()
        with UdpSender(udp_port):  # a new sender, whose times start again at 0
            back = reader.wait_for_events("jumped", "jumped")
            reader.wait_for_packets(FPS)
    assert without_gaps(first)
    assert -120 < back.details["by_s"] < -100
    assert jumped.details["by_s"] == pytest.approx(100, abs=1)
    assert not jumped.resets
    steps_s = [(b.pts_ns - a.pts_ns) / 1e9 for a, b in itertools.pairwise(reader.packets)]
    assert min(steps_s) > 0
    assert max(steps_s) < 6
    assert reader.decode.counters["jumps"] == 2


def test_a_reader_that_cannot_keep_up_skips_to_key_frames(rtsp):
    decode = live_decode()
    packets, ages_s = [], []
    for packet in decode.read("yard", rtsp.url):
        packets.append(packet)
        ages_s.append((time.time_ns() - packet.arrived_ns) / 1e9)
        time.sleep(0.2)  # reads 5 of 25 frames per second
        if decode.counters["late_packets"] > 60:
            decode.stop()
    assert max(ages_s) < 3
    numbers = [number_of(p.image) for p in packets]
    gaps = [b for a, b in itertools.pairwise(numbers) if b != (a + 1) % FRAMES]
    assert gaps
    assert all(number % 5 == 0 for number in gaps)  # key frames


@pytest.mark.parametrize(("options", "rate"), [({"stride": 5}, 5), ({"fps": 5}, 5)])
def test_stride_and_fps_thin_out_a_camera(rtsp, options, rate):
    with LiveReader(rtsp.url, max_frames=6, **options) as reader:
        until(lambda: not reader.thread.is_alive(), "end", reader)
    packets = reader.packets
    assert len(packets) == 6
    assert (packets[-1].pts_ns - packets[0].pts_ns) / 1e9 == pytest.approx(5 / rate, abs=0.2)


def test_connections_that_have_ended_are_freed():
    """The server closes each connection after a few images."""

    def send_five(handler):
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

    with http_server(send_five) as address, LiveReader(address) as reader:
        until(lambda: reader.decode.counters["outages"] >= 10, "ten outages", reader, within_s=60)
        assert len(camera_threads()) <= 2
    until(lambda: not camera_threads(), "end of the threads")
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, av.container.InputContainer)]
