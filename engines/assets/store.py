"""Weights and clips on this machine: fetched once, verified by SHA-256, kept.

They lie in `HOME/assets/SHA256/FILENAME`, with HOME from POSESTREAM_HOME, else the user's cache folder. A
file gets that name only after it was verified, so loading looks at its size alone; `verify` and `fetch` hash
it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from engines.assets.download import Progress
from engines.assets.sources import describe, is_web, obtain
from engines.contracts.contract import Asset, FileSource, Source
from engines.errors import AssetError
from engines.home import HOME, alone, cache_home

__all__ = ["cache_home", "cached_path", "fetch", "is_cached", "locate", "sha256", "verify"]

MIRROR = "POSESTREAM_MIRROR"

log = logging.getLogger("posestream.assets")


def cached_path(asset: Asset) -> Path:
    """Where the asset lies once it is fetched; the checksum in it keeps files of the same name apart."""
    if Path(asset.filename).name != asset.filename:
        raise AssetError(
            f"filename {asset.filename!r} names a folder; the contract must give a plain file name"
        )
    return cache_home() / "assets" / (asset.sha256 or "unknown")[:16] / asset.filename


def is_cached(asset: Asset) -> bool:
    """Whether the asset is here, by its size where that is known; reads nothing of it."""
    path = cached_path(asset)
    return path.is_file() and asset.bytes in (None, path.stat().st_size)


def locate(asset: Asset, name: str | None = None) -> Path:
    """The asset's file on this machine; `name` is the model's, for the message. Never touches the network.

    Raises:
        AssetError: it is not here, or not all of it, with the command that fetches it.
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

    Where the publisher states eight digits of the checksum, these are all that can be compared.
    """
    if not cached_path(asset).is_file():
        return None
    return is_cached(asset) and asset.has_checksum(sha256(cached_path(asset)))


def fetch(asset: Asset, progress: Progress | None = None, *, keep: Path | None = None) -> Path:
    """Make sure the asset is here, whole and right; the mirror is asked first, then its sources in order.

    Only one process or thread fetches an asset at a time; the others wait, and then find the file. `keep` is
    a folder for archives and wheels that several assets come out of; its owner deletes it.

    Raises:
        AssetError: with what each source answered, or the cache folder cannot be written, or there is no
            checksum to verify the file by.
    """
    if asset.sha256 is None:
        raise AssetError(
            f"{asset.filename} is not fetched, since its publisher states no checksum; download it yourself "
            f"from {describe(asset.sources[0])}, then: posestream models import FILE --like MODEL"
        )
    try:
        return cached_path(asset) if verify(asset) else _fetch_alone(asset, progress or _ignore, keep)
    except OSError as error:
        raise AssetError(
            f"cannot write {asset.filename} to the cache {cache_home()}: {error.strerror or error}; "
            f"set {HOME} to a folder with room that you may write to"
        ) from None


def _fetch_alone(asset: Asset, progress: Progress, keep: Path | None) -> Path:
    path = cached_path(asset)
    with alone(path.parent / ".lock", f"{asset.filename} is being fetched elsewhere", log):
        if verify(asset):
            return path
        with tempfile.TemporaryDirectory(prefix="posestream-") as folder:
            return _fetch_from_any(asset, path, keep or Path(folder), progress)


def _fetch_from_any(asset: Asset, path: Path, keep: Path, progress: Progress) -> Path:
    answers, refused = [], []
    for source in [*_mirrored(asset), *asset.sources]:
        try:
            part = obtain(source, path.parent, keep, asset.bytes, progress)
        except AssetError as error:
            answers.append(f"{describe(source)}: {error}")
            continue
        if mismatch := _mismatch(asset, part):
            part.unlink()
            refused.append(f"{describe(source)}: {mismatch}")
            answers.append(refused[-1])
            continue
        _publish(part, path)
        for answer in refused:  # where every source fails, the error says so
            log.warning("%s was not taken from %s", asset.filename, answer)
        return path
    raise AssetError(
        f"cannot fetch {asset.filename} from {'; '.join(' '.join(answer.split()) for answer in answers)}; "
        f"without a network, set {MIRROR} to a folder that holds {asset.filename}"
    )


def _mirrored(asset: Asset) -> list[Source]:
    mirror = os.environ.get(MIRROR, "")
    if not mirror:
        return []
    if is_web(mirror):
        return [FileSource(url=f"{mirror.rstrip('/')}/{quote(asset.filename)}")]
    return [FileSource(url=f"{mirror.rstrip('/')}/{asset.filename}")]


def _mismatch(asset: Asset, part: Path) -> str | None:
    found, size = sha256(part), part.stat().st_size
    if asset.has_checksum(found):
        return None
    expected = f"{asset.sha256}{'' if asset.in_full else '…'}"
    expected += f" ({asset.bytes} bytes)" if asset.bytes else ""
    return f"expected SHA-256 {expected}, found {found} ({size} bytes)"


def _publish(part: Path, path: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut could leave a file of the right size that holds nothing
    part.replace(path)
    for left in path.parent.glob(".*.part*"):  # by sources that failed before
        left.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore(done: int, total: int | None) -> None:
    pass
