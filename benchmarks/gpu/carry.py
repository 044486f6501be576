"""Fill a folder with what first.py and figures.py need on a GPU machine that has no network.

    python benchmarks/gpu/carry.py FOLDER [--python 3.12] [--max-mb 60]

Run it where there is a network, and copy the folder and the checkout to the GPU machine. The machine must
have PyTorch and its dependencies, cuda-bindings, OpenCV, NumPy, SciPy, ONNX Runtime, msgpack, PyYAML, rich,
typer and pytest. The folder has the packages that such machines lack, a clip of 1920x1080 px, and the sample
clip of the tests. Models are not in it: they get random weights there.

The command prints sizes and times. Exit code 1 if the folder and the checkout's tracked files together are
larger than --max-mb (MiB).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import wheels
from measuring.clip import LOOP_S, make_clip
from packing.carried import ASSETS, CLIP, MANIFEST, ROOT, WHEELS, write_manifest

from engines.assets.clips import load_clip
from engines.assets.store import fetch
from engines.errors import AssetError
from engines.home import cache_home

PACKAGES = ("av", "pydantic", "platformdirs", "kafka-python", "crc32c")  # and what they need
SIZE = (1920, 1080)
SAMPLE = "single-person"
MIB = 2**20


def main() -> int:
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine; default 3.12")
    parser.add_argument("--max-mb", type=float, default=60.0, help="most MiB of folder and checkout")
    given = parser.parse_args()
    try:
        return fill(given.folder, given.python, given.max_mb)
    except (wheels.UnavailableError, RuntimeError) as error:
        raise SystemExit(f"carry.py: {error}") from None


def fill(folder: Path, python: str, max_mb: float) -> int:
    """Fill the folder; 1 if it is too large, otherwise 0.

    Raises:
        UnavailableError: a package cannot be downloaded.
        RuntimeError: the folder holds other things, or the clip cannot be encoded here.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise RuntimeError(f"{folder} holds other files; give a new folder")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / WHEELS).mkdir(parents=True)
    print(f"Python {python}, Linux x86-64")
    for name, step in {
        WHEELS: lambda: wheels.download(folder / WHEELS, requirements(), python),
        CLIP: lambda: make_clip(folder / CLIP, SIZE, LOOP_S),
        ASSETS: lambda: _copy_sample(folder / ASSETS),
    }.items():
        start = time.monotonic()
        step()
        print(f"  {time.monotonic() - start:5.1f} s  {name}", flush=True)
    sizes = write_manifest(folder)
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"  {size / MIB:6.2f} MiB  {name}")
    carried, checkout = sum(sizes.values()) / MIB, tracked_bytes() / MIB
    print(f"{carried:.1f} MiB, with the checkout {carried + checkout:.1f} MiB; at most {max_mb:g}")
    return 1 if carried + checkout > max_mb else 0


def requirements() -> list[str]:
    """The packages of `PACKAGES` with the versions that pyproject.toml asks for."""
    wanted = {re.split(r"[<>=!~\[ ;]", name)[0]: name for name in wheels.dependencies()}
    return [wanted.get(name, name) for name in PACKAGES]


def tracked_bytes() -> int:
    """The size of the files that git tracks in this checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _copy_sample(to: Path) -> None:
    try:
        path = fetch(load_clip(SAMPLE).asset)
    except AssetError as error:
        print(f"  left out, so the tests that need it will be skipped: {error}")
        return
    target = to / path.relative_to(cache_home() / "assets")
    target.parent.mkdir(parents=True)
    shutil.copyfile(path, target)


if __name__ == "__main__":
    sys.exit(main())
