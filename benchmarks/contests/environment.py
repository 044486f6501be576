"""The peers' environments, outside the repository, and the programs that run in them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, NoReturn, Self

from engines.home import cache_home

PROGRAMS = Path(__file__).with_name("programs")


class Figures(NamedTuple):
    """The figures of a side, from its first frame to its last."""

    fps: float
    cores: float  # kept busy by its processes
    persons: float  # in a frame, on average


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of the environment `name`, with these requirements; made on first use."""
    folder = cache_home() / "peers" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (folder / "complete").exists():
        print(f"installing {' '.join(requirements)} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        # No cache: some peers take gigabytes, and pip would keep a second copy.
        install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *requirements]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return python


def versions_in(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages in an environment."""
    script = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]), sep='\\n')"
    done = subprocess.run([python, "-c", script, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


def side_by_side(
    python: Path, program: str, runs: Sequence[Sequence[object]], settings: Mapping[str, str] | None = None
) -> Figures:
    """Run a program once for each list of arguments, all at the same time, and add up their figures.

    A program loads, says that it is ready, waits until all are ready, works, and prints its figures
    (`programs/measured.py`). `settings` are its environment variables; default: those of this process.

    Raises:
        SystemExit: a program failed, with the last line of its errors.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_Started(python, program, arguments, settings)) for arguments in runs]
        for one in started:
            one.wait_until_loaded()
        for one in started:
            one.go()
        figures = [one.figures() for one in started]
    seconds = (max(one["end_ns"] for one in figures) - min(one["start_ns"] for one in figures)) / 1e9
    frames = sum(one["frames"] for one in figures)
    return Figures(
        frames / seconds,
        sum(one["cpu_s"] for one in figures) / seconds,
        sum(one["persons"] for one in figures) / frames,
    )


class _Started:
    """A running program; leaving the context kills it."""

    def __init__(
        self, python: Path, program: str, arguments: Sequence[object], settings: Mapping[str, str] | None
    ):
        self._program = program
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads could fill up
        self._process = subprocess.Popen(
            [python, PROGRAMS / program, *map(str, arguments)],
            env=settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def wait_until_loaded(self) -> None:
        """Wait until it says that it is ready; libraries may print other lines before."""
        assert self._process.stdout is not None
        if not any(line.strip() == "ready" for line in self._process.stdout):
            self._fail()

    def go(self) -> None:
        """Let it begin its work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def figures(self) -> dict[str, float]:
        """Wait for its end; return the figures that it printed."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            self._fail()
        found: dict[str, float] = json.loads(out.splitlines()[-1])
        return found

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip() or "nothing").splitlines()[-1]
        raise SystemExit(f"{self._program} ended with code {code}: {last}")
