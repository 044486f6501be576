"""The folder that carry.py fills, and its use on a machine without a network. Needs nothing but Python."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = "manifest.json"  # file: bytes
WHEELS, ASSETS, CLIP = "wheels", "assets", "clip.mp4"
INSTALLED = "installed-from.txt"


class CarriedError(Exception):
    """The folder is not complete, or cannot be installed; the message says in one line what to do."""


def write_manifest(folder: Path) -> dict[str, int]:
    """Write the list of the folder's files with their sizes in bytes, and return it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / MANIFEST).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
    return sizes


def use_from(words: Sequence[str]) -> None:
    """`use` the folder that --carried names in a command line, before anything of posestream is imported."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--carried", type=Path)
    try:
        use(early.parse_known_args(words)[0].carried)
    except CarriedError as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None


def use(folder: Path | None) -> None:
    """Import posestream from this checkout, with the packages and the clips of a folder, if one is given.

    Packages are installed once, beside the machine's own, and come first. Processes that are started later
    get the same.

    Raises:
        CarriedError: a file is missing or has another size, or pip refuses a wheel.
    """
    import_from(ROOT)
    sys.path.insert(1, str(ROOT / "benchmarks"))
    if folder is not None:
        home = Path(tempfile.gettempdir(), "posestream-gpu")
        import_from(_install(folder.resolve(), home))
        os.environ["POSESTREAM_HOME"] = str(home)


def import_from(folder: Path) -> None:
    """This process, and those that it starts later, look for modules in this folder first."""
    sys.path.insert(0, str(folder))
    known = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(folder), *known]))


def install_wheels(wheels: Sequence[Path], site: Path) -> None:
    """Install wheels, without what they need, into a folder.

    Raises:
        CarriedError: pip refuses a wheel; with pip's reason.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--target", str(site)]
    done = subprocess.run([*command, *map(str, wheels)], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(site, ignore_errors=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        raise CarriedError(f"the wheels cannot be installed ({reason.strip()[:200]})")


def _install(folder: Path, home: Path) -> Path:
    """Install the packages, and put the clips where posestream finds them; the folder of the packages."""
    _check(folder)
    site, stamp = home / "site", home / INSTALLED
    made_from = hashlib.sha256((folder / MANIFEST).read_bytes() + sys.executable.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == made_from:
        return site
    shutil.rmtree(site, ignore_errors=True)
    try:
        install_wheels(sorted((folder / WHEELS).glob("*.whl")), site)
    except CarriedError as error:
        raise CarriedError(
            f"{folder.name}: {error}; fill the folder for this Python: "
            f"carry.py {folder.name} --python {sys.version_info[0]}.{sys.version_info[1]}"
        ) from None
    if (folder / ASSETS).is_dir():
        shutil.copytree(folder / ASSETS, home / ASSETS, dirs_exist_ok=True)
    stamp.write_text(made_from, encoding="utf-8")
    return site


def _check(folder: Path) -> None:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CarriedError(
            f"{folder} has no readable {MANIFEST}; fill the folder: carry.py {folder.name}"
        ) from None
    for name, size in sizes.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes, expected {size}"
            raise CarriedError(f"{folder.name}/{name} {state}; copy the folder again")
