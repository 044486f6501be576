"""A real RTSP server for tests: GStreamer's, serving H.264 clips in a loop. Run by the system's Python.

    python3 server.py --port 8554 --fps 25 [--user U --password P] small=CLIP.h264 large=CLIP.h264

serves the first clip at rtsp://127.0.0.1:PORT/live and prints `ready PORT`. A line `show NAME` on standard
input switches to another clip. Clips are byte streams with access unit delimiters and begin with a key frame.
The server ends when its standard input is closed.
"""

import argparse
import itertools
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")  # for the methods of appsrc
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

DELIMITER = b"\x00\x00\x00\x01\x09"
PIPELINE = (
    "( appsrc name=frames is-live=true format=time block=false max-buffers=50 leaky-type=downstream"
    " caps=video/x-h264,stream-format=byte-stream,alignment=au"
    " ! h264parse ! rtph264pay name=pay0 pt=96 )"
)


class Clips:
    """Sends the frames of a clip to the clients, at its rate, in an endless loop."""

    def __init__(self, clips, fps):
        self.frames = {
            name: [DELIMITER + unit for unit in Path(path).read_bytes().split(DELIMITER)[1:]]
            for name, path in clips.items()
        }
        self.now_showing = next(iter(clips))
        self.period_ns = round(Gst.SECOND / fps)

    def configure(self, factory, media):
        ended = threading.Event()
        media.connect("unprepared", lambda _: ended.set())
        source = media.get_element().get_by_name("frames")
        threading.Thread(target=self.feed, args=(source, ended), daemon=True).start()

    def feed(self, source, ended):
        showing, pts, due_s = None, 0, time.monotonic()
        while not ended.wait(max(due_s - time.monotonic(), 0)):
            # The process may have been frozen: do not catch up more than a second.
            due_s = max(due_s, time.monotonic() - 1) + self.period_ns / Gst.SECOND
            if showing != self.now_showing:
                showing, units = self.now_showing, itertools.cycle(self.frames[self.now_showing])
            buffer = Gst.Buffer.new_wrapped(next(units))
            buffer.pts = buffer.dts = pts
            buffer.duration = self.period_ns
            pts += self.period_ns
            source.emit("push-buffer", buffer)


def read_commands(lines, clips, loop):
    for line in lines:
        word, _, value = line.strip().partition(" ")
        if word == "show":
            clips.now_showing = value
    loop.quit()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", nargs="+", metavar="NAME=CLIP")
    parser.add_argument("--port", default="0")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--user")
    parser.add_argument("--password")
    args = parser.parse_args()

    Gst.init(None)
    clips = Clips(dict(clip.split("=", 1) for clip in args.clips), args.fps)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(PIPELINE)
    factory.set_shared(True)
    factory.connect("media-configure", clips.configure)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    if args.user:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "viewer")
        auth.add_digest(args.user, args.password, token)
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        server.set_auth(auth)
        role = Gst.Structure.new_empty("viewer")
        role.set_value("media.factory.access", True)
        role.set_value("media.factory.construct", True)
        factory.add_role_from_structure(role)
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {args.port} is taken")
    loop = GLib.MainLoop()
    threading.Thread(target=read_commands, args=(sys.stdin, clips, loop), daemon=True).start()
    print("ready", server.get_bound_port(), flush=True)
    loop.run()


main()
