"""The table of what has run on a GPU comes from the results, and the page has it."""

import json

import pytest
import status


def test_the_page_has_the_table_of_the_results():
    """If this fails: python benchmarks/gpu/status.py --write."""
    page = status.PAGE.read_text(encoding="utf-8")
    assert page == status.page_with(page, status.table(status.results(status.RESULTS)))


def result(at, rows, gpu="NVIDIA H200", **more):
    machine = {"gpus": [gpu] if gpu else [], "driver": "580.1", "commit": "0123456789ab"}
    return {"at": f"{at}T10:00:00+00:00", "machine": machine, "rows": rows, **more}


CROP = [{"part": "kernel crop", "state": "ok", "why": ""}]
FAILED = [{"part": "kernel crop", "state": "failed", "why": "3 | 4 differ"}]
TESTED = [
    {"name": "a", "passed": 3, "failed": 0, "skipped": 1},
    {"name": "b", "passed": 2, "failed": 0, "skipped": 0},
]
STREAMS = [{"kind": "backend", "backend": "torch"}, {"kind": "streams", "fps": 900.0}]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "| `first.py` | kernel crop | never run |"),
        (
            {"h200-first": result("2026-12-01", CROP)},
            "| `first.py` | kernel crop | ok: NVIDIA H200, driver 580.1, 2026-12-01, commit 0123456 |",
        ),
        ({"no-gpu-first": result("2026-12-01", CROP, gpu="")}, "| `first.py` | kernel crop | never run |"),
        (
            {"h200-first": result("2026-12-01", CROP, dry_run=True)},
            "| `first.py` | kernel crop | never run |",
        ),
        (
            {
                "a-first": result("2026-12-02", FAILED),
                "b-first": result("2026-12-01", CROP),
            },  # the newest counts
            "| `first.py` | kernel crop | failed: NVIDIA H200, driver 580.1, 2026-12-02, commit 0123456 "
            "(3 / 4 differ) |",
        ),
        (
            {"h200-test": result("2026-12-01", TESTED)},
            "| `run_tests.py` | tests marked `gpu` | ok: NVIDIA H200, driver 580.1, 2026-12-01, commit 0123456 "
            "(5 passed, 0 failed, 1 skipped) |",
        ),
        (
            {"h200-bench": result("2026-12-01", STREAMS)},
            "| `bench.py` | the fastest backend | ok: NVIDIA H200, driver 580.1, 2026-12-01, commit 0123456 "
            "(torch) |",
        ),
    ],
)
def test_each_part_has_its_newest_run(tmp_path, files, line):
    for name, document in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert line in status.table(status.results(tmp_path)).splitlines()


def test_runs_on_other_gpus_are_kept(tmp_path):
    for name, gpu in (("a", "NVIDIA H200"), ("b", "NVIDIA L4")):
        (tmp_path / f"{name}-first.json").write_text(json.dumps(result("2026-12-01", CROP, gpu=gpu)))
    table = status.table(status.results(tmp_path))
    assert "H200, driver 580.1, 2026-12-01, commit 0123456; ok: NVIDIA L4" in table
