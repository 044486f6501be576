"""Parts of a command: those after a failed one run, too, and all that they print is in the log."""

import json
import sys

import pytest
from measuring.parts import Report
from measuring.result_files import parser

pytestmark = pytest.mark.slow


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["first.py"])
    return Report("first", parser("Doc.").parse_args(["--out", str(tmp_path), "--commit", "abc"]))


def test_a_failed_part_stops_no_other(report, capfd):
    report.run("fails", "isolation_toys:two_rows_then", "raise", within_s=30)
    report.run("hangs", "isolation_toys:two_rows_then", "hang", within_s=8)
    report.run("cannot run", "isolation_toys:cannot_run", within_s=30)
    report.run("works", "isolation_toys:two_rows_then", "return", within_s=30)
    assert report.close() == 1
    document = json.loads(report.path.read_text())
    assert document["machine"]["commit"] == "abc"
    rows = {row["part"]: row for row in document["rows"]}
    assert {name: (row["state"], row["why"]) for name, row in rows.items()} == {
        "fails": ("failed", "ValueError: no more"),
        "hangs": ("failed", "not done in 8 s"),
        "cannot run": ("not run", "no GPU here"),
        "works": ("ok", ""),
    }
    assert rows["fails"]["rows"] == rows["works"]["rows"] == [{"n": 1}, {"n": 2}]
    assert rows["cannot run"]["rows"] == []
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["failed", "failed", "not", "ok"]
    log = report.log.read_text()
    assert "ValueError: no\nmore" in log  # the traceback
    assert "in two_rows_then" in log.partition("===== hangs")[2]  # the stacks of what hung


def test_without_a_part_that_ran_the_command_fails(report):
    report.run("cannot run", "isolation_toys:cannot_run", within_s=30)
    assert report.close() == 1
    report.run("works", "isolation_toys:two_rows_then", "return", within_s=30)
    assert report.close() == 0
