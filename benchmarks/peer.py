"""The peers we measure against, each in an environment of its own outside the repository."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from engines.assets import cache_home, fetch
from engines.clips import load_clip

PEER = "mediapipe==0.10.21"


def peer_python(peer: str = PEER, *others: str) -> Path:
    """The interpreter of an environment that has a peer, and `others` to run it with; made on first use."""
    folder = cache_home() / "peers" / "-".join((peer, *others)).replace("==", "-")
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", peer, *others], check=True)
        (folder / "complete").touch()
    return python


def sample_clip(name: str = "single-person") -> Path:
    """A sample clip, fetched on first use."""
    return fetch(load_clip(name).asset)
