"""A camera watched by `decode` in a thread of its own, and small servers for the kinds that need no GStreamer."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av

from operators.decode import Decode
from pipeline.operator import RunInfo
from pipeline.packet import Event, Packet
from tests.support.rtsp_fixtures import FPS, numbered


def live_decode(**options: object) -> Decode:
    """A `decode` of a live run."""
    decode = Decode(**options)
    decode.open(RunInfo.new("test")._replace(live=True, cores=2))
    return decode


class Watching:
    """Reads a source until the `with` ends; what it gave is in `items`, what it raised in `error`.

    `keep` False: only its events are kept, and the packets counted.
    """

    def __init__(self, uri: str, *, keep: bool = True, **options: object):
        self.decode = live_decode(**options)
        self.items: list[Packet | Event] = []
        self.given = 0  # packets
        self._keep = keep
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(uri,), daemon=True)

    def _read(self, uri: str) -> None:
        try:
            for item in self.decode.read("yard", uri):
                self.given += isinstance(item, Packet)
                if self._keep or isinstance(item, Event):
                    self.items.append(item)
        except Exception as error:
            self.error = error

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.decode.stop()
        self._thread.join(5)
        assert not self._thread.is_alive(), "stop() did not end it"

    @property
    def packets(self) -> list[Packet]:
        return [item for item in list(self.items) if isinstance(item, Packet)]

    @property
    def events(self) -> list[Event]:
        return [item for item in list(self.items) if isinstance(item, Event)]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def more(self, packets: int) -> None:
        """Wait for so many more packets."""
        wanted = self.given + packets
        until(lambda: self.given >= wanted, f"{packets} packets", self)

    def told(self, *kinds: str) -> Event:
        """Wait until just these events have been told; the last."""
        until(lambda: self.kinds() == list(kinds), f"events {kinds}", self)
        return self.events[-1]


def until(
    condition: Callable[[], object], what: str, seen: Watching | None = None, within_s: float = 30
) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within_s
    while not condition():
        found = f"; {seen.given} packets, {seen.events}, {seen.error!r}" if seen else ""
        assert time.monotonic() < deadline, f"no {what} within {within_s} s{found}"
        time.sleep(0.01)


def link_threads() -> list[str]:
    """The threads that connections to cameras still hold."""
    return [thread.name for thread in threading.enumerate() if thread.name.endswith("-link")]


@contextmanager
def http_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that gives this answer to every request; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def send_pictures(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Numbered JPEG pictures, as a webcam's web server sends them, until nobody takes them any more."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 320, 240, "yuvj420p"
    encoder.time_base = Fraction(1, FPS)
    handler.send_response(200)
    handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
    handler.end_headers()
    number = 0
    try:
        while True:
            frame = av.VideoFrame.from_ndarray(numbered(number % 50, 320, 240), "rgb24")
            frame.pts = number
            number += 1
            for packet in encoder.encode(frame.reformat(format="yuvj420p")):
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {packet.size}\r\n\r\n"
                handler.wfile.write(head.encode() + bytes(packet) + b"\r\n")
            time.sleep(1 / FPS)
    except OSError:
        pass


class Sender:
    """Sends numbered pictures as MPEG-TS over UDP to a port of this machine, until the `with` ends.

    `jump_s` is added to the times of what is sent from now on.
    """

    def __init__(self, port: int):
        self.port, self.jump_s = port, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(10)

    def _send(self) -> None:
        options = {"preset": "ultrafast", "tune": "zerolatency"}
        address = f"udp://127.0.0.1:{self.port}?pkt_size=1316"
        muxing = {"muxdelay": "0", "flush_packets": "1"}
        with av.open(address, "w", format="mpegts", container_options=muxing) as container:
            video = container.add_stream("libx264", rate=FPS, options=options)
            video.width, video.height, video.pix_fmt, video.gop_size = 320, 240, "yuv420p", 5
            start_s, number = time.monotonic(), 0
            while not self._over.wait(max(start_s + number / FPS - time.monotonic(), 0)):
                frame = av.VideoFrame.from_ndarray(numbered(number % 50, 320, 240), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                for packet in video.encode(frame):
                    shift = round(self.jump_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    container.mux(packet)
                number += 1
