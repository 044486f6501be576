"""The description of the machine in a profile."""

import os
import subprocess

import numpy as np

from tools.profiling.machine.hardware import commit, this_machine


def git(folder, *arguments):
    person = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *person, *arguments], cwd=folder, check=True, capture_output=True)


def test_this_machine():
    machine = this_machine()
    assert machine.cores == os.cpu_count()
    assert machine.memory_mb > 100
    assert machine.processor
    assert machine.versions["numpy"] == np.__version__


def test_the_commit_says_whether_files_differ(tmp_path):
    assert commit(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--message", "one")
    clean = commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{clean}+changes"
