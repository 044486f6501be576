"""Run all tests that need a GPU, and compute-sanitizer on the kernels; the result is one table and one JSON.

    python benchmarks/gpu/run_tests.py [--minutes 7] [--commit HASH] [--json FILE] [--out FOLDER]
                                       [--carried FOLDER]

Each test file runs in a process of its own, since after an illegal access a process cannot use the GPU any
more, and for 90 s at most. compute-sanitizer runs the tests of our own kernels: memcheck finds accesses out
of bounds, racecheck finds races in shared memory. PyTorch's memory pool is switched off for it, since inside
the pool memcheck would not see an access out of bounds. Where compute-sanitizer does not support the device,
the table says so, and this does not count as failed. Tests for which no time is left have a row that says so.

Without --json or --out the result goes to benchmarks/results/gpu/, named after the GPU; without a GPU it goes
to build/. A log beside it has all that the tests printed, tracebacks included. Exit code 1 if a test failed,
or none ran.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from packing import carried

if __name__ == "__main__":
    carried.use_from(sys.argv[1:])
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import harness
from measuring.isolation import LEAST_S, Deadline
from measuring.result_files import log_path, parser, result_path, save_result

from engines.device.names import cuda_devices

ROOT = Path(__file__).resolve().parents[2]
FILE_S = 90.0  # most seconds of one file, so that a hang costs no more
# These files first: without what they test, the others need not be looked at.
FIRST = ("test_streams", "test_crop", "test_nms", "test_device_frames_gpu", "test_pool", "test_image")
KERNELS = ("tests/engines/kernels/test_crop.py", "tests/engines/kernels/test_nms.py")
TOOLS = ("memcheck", "racecheck")
REFUSED = "Device not supported"  # what compute-sanitizer prints under some hypervisors
STACKS_S = 45  # a test that takes longer has the stacks of all threads logged
ERRORS_FOUND = 86  # the exit code that the sanitizer is to use if it finds errors
COLUMNS = ("tests", "passed", "failed", "skipped", "s", "")


@dataclass
class Outcome:
    """The outcome of one test file, or of one of compute-sanitizer's tools."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""
    failures: tuple[str, ...] = ()


def main() -> int:
    given = parser(__doc__ or "").parse_args()
    result = result_path("test", given)
    log, deadline, outcomes = log_path(result), Deadline(given.minutes), []
    for file in gpu_tests(ROOT):
        outcomes.append(run_file(file, deadline.left(at_most=FILE_S), log))
        print(line(outcomes[-1]), file=sys.stderr, flush=True)
    for tool in TOOLS:
        outcomes.append(sanitize(tool, deadline.left(at_most=FILE_S), log))
        print(line(outcomes[-1]), file=sys.stderr, flush=True)
    harness.show("tests on the GPU", COLUMNS, [cells(outcome) for outcome in outcomes])
    for outcome in outcomes:
        for failure in outcome.failures:
            print(f"  FAILED {outcome.name}: {failure}")
    if not cuda_devices():
        print("  nothing was tested: no CUDA device here")
    save_result(result, [asdict(outcome) for outcome in outcomes], given)
    broken = any(outcome.failed for outcome in outcomes)
    return 1 if broken or not any(outcome.passed for outcome in outcomes) else 0


def gpu_tests(root: Path) -> list[str]:
    """The test files with a test marked `gpu`, as paths relative to `root`; those of `FIRST` first."""
    files = sorted((root / "tests").rglob("test_*.py"))
    marked = [file for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]
    marked.sort(key=lambda file: FIRST.index(file.stem) if file.stem in FIRST else len(FIRST))
    return [file.relative_to(root).as_posix() for file in marked]


def run_file(file: str, within_s: float, log: Path) -> Outcome:
    """Run the marked tests of one file."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [*pytest(), f"--junitxml={report}", "-o", "junit_family=xunit1", file]
        done = run(command, within_s, log)
        if report.is_file():
            outcome = read_report(file, report)
            outcome.seconds = done.seconds
            return outcome
    return Outcome(file, failed=1, seconds=done.seconds, note=done.why or _last(done))


def read_report(name: str, report: Path) -> Outcome:
    """Read the outcome that pytest has written as JUnit XML."""
    outcome, reasons, failures = Outcome(name), Counter(), []
    for case in ElementTree.parse(report).iter("testcase"):
        found = {child.tag: child for child in case}
        if broken := found.keys() & {"failure", "error"}:
            outcome.failed += 1
            message = " ".join((found[min(broken)].get("message") or "").split())
            failures.append(f"{case.get('name')}: {message}"[:300])
        elif "skipped" in found:
            outcome.skipped += 1
            reasons[found["skipped"].get("message") or "no reason"] += 1
        else:
            outcome.passed += 1
    outcome.note = "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common())[:300]
    outcome.failures = tuple(failures)
    return outcome


def sanitize(tool: str, within_s: float, log: Path) -> Outcome:
    """Run the tests of the kernels under one of compute-sanitizer's tools."""
    outcome = Outcome(tool)
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if program is None or not cuda_devices():
        outcome.note = f"not run: {'no compute-sanitizer found' if program is None else 'no CUDA device'}"
        return outcome
    command = [program, "--tool", tool, "--error-exitcode", str(ERRORS_FOUND)]
    if tool == "memcheck":  # errors of CUDA calls are the tests' business; here only memory accesses count
        command += ["--report-api-errors", "no"]
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = run([*command, *pytest(), "--timeout=0", *KERNELS], within_s, log, environment)
    outcome.seconds = done.seconds
    if done.why:
        outcome.failed, outcome.note = 1, done.why
        return outcome
    outcome.passed, outcome.failed, outcome.skipped, outcome.note = read_sanitizer(done.output, done.code)
    return outcome


def read_sanitizer(output: str, code: int) -> tuple[int, int, int, str]:
    """Passed, failed and skipped tests, and the tool's findings, from its output and exit code."""
    if REFUSED in output:  # the tests then fail, too, but only because there is no device for them
        return 0, 0, 0, f"not run: compute-sanitizer says: {REFUSED}"
    closing = " ".join(re.findall(r"^.* in \d[\d.]* ?s\b", output, re.MULTILINE))
    counted = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", closing)}
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", output)
    passed, failed = counted.get("passed", 0), counted.get("failed", 0) + counted.get("error", 0)
    skipped = counted.get("skipped", 0)
    if summary is None:
        last = next((text for text in reversed(output.splitlines()) if text.strip()), "nothing")
        return passed, max(failed, 1), skipped, f"no summary (exit code {code}): {last.strip()[:200]}"
    errors = int(summary.group(1))
    if not errors:
        return passed, failed, skipped, "no errors" if passed else "no errors, but no test ran"
    first = re.search(r"========= (?!COMPUTE-SANITIZER)(\S.*)", output)
    found = f"{errors} errors; first: {first.group(1) if first else '?'}"
    return passed, max(failed, 1), skipped, found


def pytest() -> list[str]:
    """The pytest command, with this Python."""
    # A time limit by signal would wait until a call into CUDA returns; one by a thread ends the process.
    options = ["-m", "gpu", "-p", "no:cacheprovider", "--timeout-method=thread", "-rfEs"]
    return [sys.executable, "-m", "pytest", *options, "-o", f"faulthandler_timeout={STACKS_S}"]


class Done(NamedTuple):
    """A command that was run: what it printed, or why it did not end."""

    output: str
    code: int
    seconds: float
    why: str = ""


def run(command: list[str], within_s: float, log: Path, environment: dict[str, str] | None = None) -> Done:
    """Run a command in the checkout; what it prints is appended to the log."""
    if within_s < LEAST_S:
        return Done("", 0, 0.0, "left out: the time is up")
    start, why, code = monotonic(), "", 0
    with log.open("ab+") as file:
        file.write(f"\n===== {' '.join(command)}\n".encode())
        file.flush()
        begin = file.tell()
        try:
            code = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, timeout=within_s, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            why = f"not done in {within_s:.0f} s"
        file.seek(begin)
        return Done(file.read().decode(errors="replace"), code, monotonic() - start, why)


def _last(done: Done) -> str:
    lines = [line for line in done.output.splitlines() if line.strip()] or ["no output"]
    return f"exit code {done.code}: {lines[-1].strip()[:200]}"


def line(outcome: Outcome) -> str:
    return " ".join(word for word in cells(outcome) if word)


def cells(outcome: Outcome) -> list[str]:
    """The cells of a row of the table."""
    counts = (outcome.passed, outcome.failed, outcome.skipped)
    return [outcome.name, *map(str, counts), f"{outcome.seconds:.1f}", outcome.note]


if __name__ == "__main__":
    sys.exit(main())
