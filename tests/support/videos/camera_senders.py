"""Small servers that send numbered images like cameras that need no GStreamer: over HTTP and over UDP."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import av

from tests.support.videos.rtsp_fixtures import FPS, numbered


@contextmanager
def http_server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An HTTP server that answers every request with `answer`. Yields its address."""

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
    """Send numbered JPEG images, as a webcam's web server does, until the client closes the connection."""
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


class UdpSender:
    """Sends numbered images as MPEG-TS over UDP to a port of this machine, until the `with` block ends.

    `jump_s` may be set at any time; it is added to the times of the frames sent from then on.
    """

    def __init__(self, port: int):
        self.port, self.jump_s = port, 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> UdpSender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _send(self) -> None:
        options = {"preset": "ultrafast", "tune": "zerolatency"}
        address = f"udp://127.0.0.1:{self.port}?pkt_size=1316"
        muxing = {"muxdelay": "0", "flush_packets": "1"}
        with av.open(address, "w", format="mpegts", container_options=muxing) as container:
            video = container.add_stream("libx264", rate=FPS, options=options)
            video.width, video.height, video.pix_fmt, video.gop_size = 320, 240, "yuv420p", 5
            start_s, number = time.monotonic(), 0
            while not self._stopped.wait(max(start_s + number / FPS - time.monotonic(), 0)):
                frame = av.VideoFrame.from_ndarray(numbered(number % 50, 320, 240), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                for packet in video.encode(frame):
                    shift = round(self.jump_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    container.mux(packet)
                number += 1
