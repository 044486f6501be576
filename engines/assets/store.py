"""Weights and clips on this machine: fetched once, verified by SHA-256, kept.

They lie in `HOME/assets/SHA256/FILENAME`, with HOME from POSESTREAM_HOME, else the user's cache folder. A
file gets this name only after it was verified, so loading checks only its size; `verify` and `fetch` hash it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from engines.assets.download import Progress
from engines.assets.sources import describe, is_web, retrieve
from engines.contracts.contract import Asset, FileSource, Source
from engines.errors import AssetError, one_line
from engines.home import HOME, cache_home, locked

MIRROR = "POSESTREAM_MIRROR"

log = logging.getLogger("posestream.assets")


def cached_path(asset: Asset) -> Path:
    """Where the asset lies once it is fetched; the checksum in the path separates files of the same name.

    Raises:
        AssetError: the contract gives a path in place of a file name.
    """
    if Path(asset.filename).name != asset.filename:
        raise AssetError(
            f"filename {asset.filename!r} names a folder; the contract must give a plain file name"
        )
    return cache_home() / "assets" / (asset.sha256 or "unknown")[:16] / asset.filename


def is_cached(asset: Asset) -> bool:
    """Whether the asset is on this machine, judged by its size if that is known; the file is not read."""
    path = cached_path(asset)
    return path.is_file() and asset.bytes in (None, path.stat().st_size)


def locate(asset: Asset, name: str | None = None) -> Path:
    """The asset's file on this machine; never touches the network.

    Args:
        asset: to look for.
        name: of the model, for the message.

    Raises:
        AssetError: it is not on this machine, or not complete; the message names the command that fetches it.
    """
    if is_cached(asset):
        return cached_path(asset)
    what = f"the weights of {name} ({asset.filename}) are" if name else f"{asset.filename} is"
    state = "damaged" if cached_path(asset).is_file() else "not here"
    command = (
        f"fetch them: posestream models pull {name}" if name else "fetch it first: posestream models pull"
    )
    raise AssetError(f"{what} {state}; {command}")


def verify(asset: Asset) -> bool | None:
    """Whether the cached file has the asset's SHA-256, by reading all of it; None if there is no file.

    Where the publisher states only eight digits of the checksum, only these are compared.
    """
    if not cached_path(asset).is_file():
        return None
    return is_cached(asset) and asset.has_checksum(sha256(cached_path(asset)))


def fetch(asset: Asset, progress: Progress | None = None, *, archives: Path | None = None) -> Path:
    """The asset's verified file; fetched if it is missing or damaged: from the mirror, else from its sources.

    Only one process or thread fetches an asset at a time; the others wait, and then find the file.

    Args:
        asset: to fetch.
        progress: called with the bytes done and in all.
        archives: a folder that keeps archives and wheels, for several assets from the same one; the caller
            deletes it. None to delete them at once.

    Raises:
        AssetError: every source failed (with the answer of each), the cache folder cannot be written, or
            there is no checksum to verify the file by.
    """
    if asset.sha256 is None:
        raise AssetError(
            f"{asset.filename} is not fetched, since its publisher states no checksum; download it yourself "
            f"from {describe(asset.sources[0])}, then: posestream models import FILE --like MODEL"
        )
    try:
        return cached_path(asset) if verify(asset) else _fetch_locked(asset, progress or _ignore, archives)
    except OSError as error:
        raise AssetError(
            f"cannot write {asset.filename} to the cache {cache_home()}: {error.strerror or error}; "
            f"set {HOME} to a folder with room that you may write to"
        ) from None


def _fetch_locked(asset: Asset, progress: Progress, archives: Path | None) -> Path:
    path = cached_path(asset)
    with locked(path.parent / ".lock", f"{asset.filename} is being fetched by another process", log):
        if verify(asset):  # another process fetched it while we waited
            return path
        with tempfile.TemporaryDirectory(prefix="posestream-") as folder:
            return _fetch_from_any(asset, path, archives or Path(folder), progress)


def _fetch_from_any(asset: Asset, path: Path, archives: Path, progress: Progress) -> Path:
    failures, rejected = [], []
    for source in [*_mirrored(asset), *asset.sources]:
        try:
            part = retrieve(source, path.parent, archives, asset.bytes, progress)
        except AssetError as error:
            failures.append(f"{describe(source)}: {error}")
            continue
        if mismatch := _mismatch(asset, part):
            part.unlink()
            rejected.append(f"{describe(source)}: {mismatch}")
            failures.append(rejected[-1])
            continue
        _publish(part, path)
        for failure in rejected:  # where every source fails, the error below names them
            log.warning("%s was not taken from %s", asset.filename, failure)
        return path
    raise AssetError(
        f"cannot fetch {asset.filename} from {'; '.join(map(one_line, failures))}; "
        f"without a network, set {MIRROR} to a folder that holds {asset.filename}"
    )


def _mirrored(asset: Asset) -> list[Source]:
    """The asset on the mirror, if one is set: a folder or URL with the file under its name."""
    mirror = os.environ.get(MIRROR, "")
    if not mirror:
        return []
    filename = quote(asset.filename) if is_web(mirror) else asset.filename
    return [FileSource(url=f"{mirror.rstrip('/')}/{filename}")]


def _mismatch(asset: Asset, part: Path) -> str | None:
    """Why a retrieved file is not the asset; None if it is."""
    found, size = sha256(part), part.stat().st_size
    if asset.has_checksum(found):
        return None
    expected = f"{asset.sha256}{'' if asset.in_full else '…'}"
    expected += f" ({asset.bytes} bytes)" if asset.bytes else ""
    return f"expected SHA-256 {expected}, found {found} ({size} bytes)"


def _publish(part: Path, path: Path) -> None:
    """Give a verified file its final name, and delete what failed sources left."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave a file of the right size but empty
    part.replace(path)
    for leftover in path.parent.glob(".*.part*"):
        leftover.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore(done: int, total: int | None) -> None:
    pass
