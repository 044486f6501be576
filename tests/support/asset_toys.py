"""Assets with random content, and the files in the cache folder of one."""

from __future__ import annotations

import hashlib
import random

from faulty_server import FaultyServer

from engines.assets.store import cached_path
from engines.contracts.contract import Asset, FileSource

WEIGHTS = random.Random(7).randbytes(300_000)
OTHER = random.Random(8).randbytes(300_000)


def asset(*sources, content: bytes = WEIGHTS, filename: str = "w.onnx") -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset(filename=filename, sha256=digest, bytes=len(content), sources=list(sources))


def web(server: FaultyServer, content: bytes = WEIGHTS) -> Asset:
    """An asset that expects `content` at /w.onnx, where the server has WEIGHTS."""
    server.files["/w.onnx"] = WEIGHTS
    return asset(FileSource(url=f"{server.url}/w.onnx"), content=content)


def files_beside(it: Asset) -> set[str]:
    return {path.name for path in cached_path(it).parent.iterdir()} - {".lock"}
