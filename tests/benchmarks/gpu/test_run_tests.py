"""The report of the tests on a GPU, from the output of pytest and compute-sanitizer."""

import subprocess
import sys

import pytest
import run_tests

TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is\\nnot two"
def test_odd(missing): pass
@pytest.mark.parametrize("n", [1, 2])
def test_left_out(n): pytest.skip("no CUDA device")
"""


def test_the_report_of_pytest_is_read(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path], cwd=tmp_path, capture_output=True, check=False
    )
    found = run_tests.read_report("some", report)
    assert (found.passed, found.failed, found.skipped) == (1, 2, 2)
    assert found.note == "2 x no CUDA device"
    assert found.failures[0].startswith("test_bad: AssertionError: one is not two")


@pytest.mark.parametrize(
    ("output", "code", "found"),
    [
        ("8 passed in 9 s\n========= ERROR SUMMARY: 0 errors", 0, (8, 0, 0, "no errors")),
        ("2 skipped in 9 s\n========= ERROR SUMMARY: 0 errors", 0, (0, 0, 2, "no errors, but no test ran")),
        (
            "========= COMPUTE-SANITIZER\n========= Invalid __global__ write of size 4 bytes\n"
            "=========     at crop+0x10\n8 passed in 9 s\n========= ERROR SUMMARY: 3 errors",
            86,
            (8, 1, 0, "3 errors; first: Invalid __global__ write of size 4 bytes"),
        ),
        (
            "9 passed in 9 s\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            0,
            (9, 0, 0, "no errors"),
        ),
        (
            "5 failed in 9 s\n========= Error: Device not supported\n========= ERROR SUMMARY: 5 errors",
            1,
            (0, 0, 0, "not run: compute-sanitizer says: Device not supported"),
        ),
        ("Killed", 1, (0, 1, 0, "no summary (exit code 1): Killed")),
    ],
)
def test_the_output_of_compute_sanitizer_is_read(output, code, found):
    assert run_tests.read_sanitizer(output, code) == found


def test_files_with_the_mark_are_found():
    files = run_tests.gpu_tests(run_tests.ROOT)
    assert "tests/engines/tensorrt/test_plan_builder.py" in files
    assert "tests/engines/images/test_geometry.py" not in files
    assert {*run_tests.KERNELS} < {*files}
    first = [name for name in run_tests.FIRST if any(file.endswith(f"/{name}.py") for file in files)]
    assert [file.rpartition("/")[2].removesuffix(".py") for file in files[: len(first)]] == first


@pytest.mark.parametrize(
    ("seconds", "why"), [(30, ""), (5, "not done in 5 s"), (1, "left out: the time is up")]
)
def test_what_a_command_prints_is_logged_also_if_it_does_not_end(tmp_path, seconds, why):
    log = tmp_path / "log"
    script = f"import time; print('to the log', flush=True); time.sleep({1000 if seconds == 5 else 0})"
    done = run_tests.run([sys.executable, "-c", script], seconds, log)
    assert done.why == why
    assert done.output == ("to the log\n" if seconds > 1 else "")
    assert log.is_file() == (seconds > 1)
    assert done.output in (log.read_text() if seconds > 1 else "")
