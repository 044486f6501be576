"""Split large files into parts and join them again, for transfers that only take small files.

`parts.json` beside the parts has the size and the SHA-256 of each file that was split.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

MANIFEST = "parts.json"
BLOCK = 2**20


class PartsError(Exception):
    """Parts are missing or damaged; the message names them in one line."""


def split(folder: Path, max_bytes: int) -> list[str]:
    """Replace each file of a folder that has more than `max_bytes` by its parts; the files' names."""
    manifest = _manifest(folder)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST]
    large = [path for path in files if path.stat().st_size > max_bytes]
    for path in large:
        checksum, names = hashlib.sha256(), []
        with path.open("rb") as file:
            while part := file.read(max_bytes):
                checksum.update(part)
                names.append(f"{path.name}.part{len(names):03}")
                (folder / names[-1]).write_bytes(part)
        manifest[path.name] = {"bytes": path.stat().st_size, "sha256": checksum.hexdigest(), "parts": names}
        path.unlink()
    if large:
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return [path.name for path in large]


def join(folder: Path, out: Path) -> list[Path]:
    """Join the parts in `folder` to files in `out`; files that are there already are not written again.

    Raises:
        PartsError: parts are missing, or the joined file is not the one that was split.
    """
    joined = []
    for name, entry in _manifest(folder).items():
        path = out / name
        if not (path.is_file() and path.stat().st_size == entry["bytes"]):
            missing = [part for part in entry["parts"] if not (folder / part).is_file()]
            if missing:
                raise PartsError(
                    f"{name}: {len(missing)} of {len(entry['parts'])} parts are missing in {folder}, "
                    f"first {missing[0]}; copy them there, too"
                )
            _join_one(folder, entry, path)
        joined.append(path)
    return joined


def _join_one(folder: Path, entry: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, checksum = path.with_name(f".{path.name}"), hashlib.sha256()
    with unfinished.open("wb") as file:
        for part in entry["parts"]:
            with (folder / part).open("rb") as source:
                while block := source.read(BLOCK):
                    checksum.update(block)
                    file.write(block)
    if checksum.hexdigest() != entry["sha256"]:
        unfinished.unlink()
        raise PartsError(
            f"{path.name}: its parts in {folder} have SHA-256 {checksum.hexdigest()[:12]}…, "
            f"expected {entry['sha256'][:12]}…; copy them again"
        )
    unfinished.replace(path)


def _manifest(folder: Path) -> dict[str, dict]:
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
