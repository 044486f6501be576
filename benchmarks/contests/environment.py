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
    """What a side did, from its first frame to its last."""

    fps: float
    cores: float  # kept busy by its processes
    persons: float  # a frame


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of the environment `name` that has what is required; made on first use."""
    folder = cache_home() / "peers" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (folder / "complete").exists():
        print(f"installing {' '.join(requirements)} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        # Some peers are gigabytes, which pip's cache would keep twice.
        install = [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *requirements]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return python


def versions_in(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages in an environment."""
    tell = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]), sep='\\n')"
    done = subprocess.run([python, "-c", tell, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))


def side_by_side(
    python: Path, program: str, runs: Sequence[Sequence[object]], settings: Mapping[str, str] | None = None
) -> Figures:
    """Run a program once for each list of arguments, all at the same time, and add up what they did.

    A program loads, says so, waits until all have loaded, and tells in the end what it did and when
    (`programs/measured.py`). `settings` are its environment variables, ours unless told.

    Raises:
        SystemExit: one failed, with the end of what it said.
    """
    with ExitStack() as stack:
        started = [stack.enter_context(_Started(python, program, arguments, settings)) for arguments in runs]
        for one in started:
            one.wait_until_loaded()
        for one in started:
            one.go()
        told = [one.told() for one in started]
    seconds = (max(one["end_ns"] for one in told) - min(one["start_ns"] for one in told)) / 1e9
    frames = sum(one["frames"] for one in told)
    return Figures(
        frames / seconds,
        sum(one["cpu_s"] for one in told) / seconds,
        sum(one["persons"] for one in told) / frames,
    )


class _Started:
    """A program at work; its process ends with the `with` statement at the latest."""

    def __init__(
        self, python: Path, program: str, arguments: Sequence[object], settings: Mapping[str, str] | None
    ):
        self._program = program
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as a pipe that nobody reads could fill up
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
        """Until it says so; libraries may write to its output before that."""
        assert self._process.stdout is not None
        if not any(line.strip() == "ready" for line in self._process.stdout):
            self._fail()

    def go(self) -> None:
        """Let it work."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, float]:
        """What it did, when it has ended."""
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
