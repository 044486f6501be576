"""Make a virtual environment from a folder of wheels, without a network, on top of the Python that runs this.

    python benchmarks/gpu/environment.py VENV --wheels DIR

The environment also sees the packages of this Python, PyTorch above all; those of the wheels come first.
`--system-site-packages` would not do: if this Python is that of a virtual environment, as in many images, it
gives the packages of the base Python instead. A second call with the same wheels does nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from packing import split_files

STAMP = "wheels.json"


def main() -> None:
    summary, _, more = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("venv", type=Path)
    parser.add_argument("--wheels", type=Path, required=True, metavar="DIR")
    given = parser.parse_args()
    if not given.wheels.is_dir():
        raise SystemExit(
            f"WHEELS={given.wheels} is not a folder; make one: python benchmarks/gpu/wheels.py DIR"
        )
    try:
        make(given.venv, given.wheels)
    except split_files.PartsError as error:
        raise SystemExit(f"environment.py: {error}") from None


def make(folder: Path, wheels: Path) -> None:
    """Make the environment, unless it exists and was made from the same wheels.

    Raises:
        PartsError: a wheel was split, and not all of its parts are there.
        SystemExit: pip refused the wheels.
    """
    stamp = folder / STAMP
    content = json.dumps(sorted((path.name, path.stat().st_size) for path in wheels.iterdir()))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == content:
        return
    # Debian's Python has no pip to put into it; this one's pip is used below.
    venv.create(folder, clear=True, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    (site / "parent.pth").write_text("".join(f"{path}\n" for path in packages()), encoding="utf-8")
    joined = folder / "joined"
    files = [*sorted(wheels.glob("*.whl")), *split_files.join(wheels, joined)]
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    # No dependencies: they are in the folder or in this Python; `pip check` reports missing ones.
    done = subprocess.run([*command, "--no-deps", "--no-compile", *files], check=False)
    if done.returncode:
        raise SystemExit("the wheels cannot be installed; pip printed the reason above")
    for path in joined.glob("*"):
        path.unlink()
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "check"], check=False)
    stamp.write_text(content, encoding="utf-8")


def packages() -> list[str]:
    """The folders in which this Python has its packages."""
    own = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return list(dict.fromkeys([*own, *(path for path in sys.path if path.endswith("-packages"))]))


if __name__ == "__main__":
    main()
