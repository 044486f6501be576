"""A real RTSP server for tests: GStreamer's, run by the system's Python. Without it, its tests are skipped."""

from __future__ import annotations

import functools
import select
import signal
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

PYTHON = "/usr/bin/python3"  # Debian's Python: GStreamer's bindings are not on PyPI
SERVER = Path(__file__).parent / "rtsp" / "server.py"
FPS, FRAMES, KEY_FRAME_EVERY = 25, 50, 5
BITS = 8
SIZES = {"small": (320, 240), "large": (640, 360)}


def numbered(number: int, width: int, height: int) -> np.ndarray:
    """An image (H, W, 3) that shows its number in binary: a vertical bar for each digit, white for 1."""
    bars = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8) * 200 + 20, width // BITS)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, len(row), 3)))


def number_of(image: np.ndarray) -> int:
    """The number that an image shows, see `numbered`."""
    middle = image[image.shape[0] // 2, :, 1].reshape(BITS, -1).mean(axis=1)
    return int(sum(1 << bit for bit, level in enumerate(middle) if level > 120))


def make_clip(
    path: Path, size: tuple[int, int], frames: int = FRAMES, codec: str = "libx264", **options: str
) -> Path:
    """Write a clip of numbered images. In H.264 each access unit begins with a delimiter, for the server."""
    if codec == "libx264":
        options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x264-params": "aud=1:sliced-threads=0",
        } | options
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width, video.height = size
        video.pix_fmt, video.gop_size = "yuvj420p" if codec == "mjpeg" else "yuv420p", KEY_FRAME_EVERY
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


@functools.cache
def unavailable() -> str | None:
    """Why the server cannot run on this machine; None if it can."""
    if not Path(PYTHON).exists():
        return f"there is no {PYTHON}"
    test = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    found = subprocess.run([PYTHON, "-c", test], capture_output=True, text=True)
    return found.stderr.strip().splitlines()[-1] if found.returncode else None


class RtspServer:
    """Serves numbered clips in a loop at `url`; the port stays the same after a restart."""

    def __init__(self, clips: dict[str, Path], user: str | None = None, password: str | None = None):
        self.clips, self.user, self.password = clips, user, password
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self, showing: str | None = None) -> None:
        """Start the server and wait until it listens; `showing` is the clip to begin with."""
        clips = (
            sorted(self.clips.items(), key=lambda clip: clip[0] != showing) if showing else self.clips.items()
        )
        command = [PYTHON, str(SERVER), "--port", str(self.port), "--fps", str(FPS)]
        if self.user:
            command += ["--user", self.user, "--password", str(self.password)]
        command += [f"{name}={path}" for name, path in clips]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self._read_line(within_s=30)
        assert line.startswith("ready "), line
        self.port = int(line.split()[1])

    @property
    def url(self) -> str:
        """Its address, without a user."""
        return f"rtsp://127.0.0.1:{self.port}/live"

    def kill(self) -> None:
        """End it as a power cut would: nothing is sent before."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def restart(self, showing: str | None = None) -> None:
        """Kill it and start it again on the same port."""
        self.kill()
        self.start(showing)

    def pause(self) -> None:
        """Freeze the process: its sockets stay open, and nothing is sent."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def show(self, name: str) -> None:
        """Switch to another clip without closing the connection."""
        self._process.stdin.write(f"show {name}\n")
        self._process.stdin.flush()

    def _read_line(self, within_s: float) -> str:
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        return self._process.stdout.readline() if ready else "nothing"


@pytest.fixture(scope="session")
def numbered_clips(tmp_path_factory):
    """The clips `small` and `large`, by name."""
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_clip(folder / f"{name}.h264", size) for name, size in SIZES.items()}


@pytest.fixture
def rtsp(numbered_clips):
    """A running server that a test may kill, pause and restart."""
    yield from _served(RtspServer(numbered_clips))


@pytest.fixture
def guarded_rtsp(numbered_clips):
    """The same, with a user whose password has characters that an address must encode."""
    yield from _served(RtspServer(numbered_clips, "viewer", "p@ss:w/rd?#%"))


def _served(server: RtspServer):
    if reason := unavailable():
        pytest.skip(f"no RTSP server here: {reason}")
    server.start()
    yield server
    server.kill()
