"""Large files as parts, and whole again: some ways to a machine take only small files.

`parts.json` beside the parts tells the size and the SHA-256 of every file that was cut.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

MANIFEST = "parts.json"
BLOCK = 2**20


class PartsError(Exception):
    """Parts are missing or damaged; the message says which, in one line."""


def cut(folder: Path, most: int) -> list[str]:
    """Replace every file of a folder with more than `most` bytes by its parts; the names of those files."""
    known = _manifest(folder)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST]
    large = [path for path in files if path.stat().st_size > most]
    for path in large:
        checksum, names = hashlib.sha256(), []
        with path.open("rb") as file:
            while part := file.read(most):
                checksum.update(part)
                names.append(f"{path.name}.part{len(names):03}")
                (folder / names[-1]).write_bytes(part)
        known[path.name] = {"bytes": path.stat().st_size, "sha256": checksum.hexdigest(), "parts": names}
        path.unlink()
    if large:
        (folder / MANIFEST).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return [path.name for path in large]


def join(folder: Path, out: Path) -> list[Path]:
    """Put the files together that were cut in `folder`, in `out`; those that lie there already stay.

    Raises:
        PartsError: parts are missing, or what they make is not the file that was cut.
    """
    made = []
    for name, told in _manifest(folder).items():
        path = out / name
        if not (path.is_file() and path.stat().st_size == told["bytes"]):
            missing = [part for part in told["parts"] if not (folder / part).is_file()]
            if missing:
                raise PartsError(
                    f"{name}: {len(missing)} of {len(told['parts'])} parts are missing in {folder}, "
                    f"first {missing[0]}; bring them, too"
                )
            _put_together(folder, told, path)
        made.append(path)
    return made


def _put_together(folder: Path, told: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished, checksum = path.with_name(f".{path.name}"), hashlib.sha256()
    with unfinished.open("wb") as file:
        for part in told["parts"]:
            with (folder / part).open("rb") as source:
                while block := source.read(BLOCK):
                    checksum.update(block)
                    file.write(block)
    if checksum.hexdigest() != told["sha256"]:
        unfinished.unlink()
        raise PartsError(
            f"{path.name}: its parts in {folder} make SHA-256 {checksum.hexdigest()[:12]}…, "
            f"expected {told['sha256'][:12]}…; bring them anew"
        )
    unfinished.replace(path)


def _manifest(folder: Path) -> dict[str, dict]:
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
