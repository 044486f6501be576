"""Follows `docs/model-families.md` in a copy of the project: the page's files and lines must be all it takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "model-families.md").read_text(encoding="utf-8")
# "**`file`**" or "**`file`** in `LIST`", then a fenced block: the whole file, or a line of that list.
STEP = re.compile(r"^\*\*`([^`]+)`\*\*(?: in `(\w+)`)?\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDED = (
    "engines",
    "pipeline",
    "configs",
    "tests/engines/conftest.py",
    "tests/engines/codecs/test_reduce_on_device.py",
)


@pytest.fixture
def copy(tmp_path):
    for name in (*NEEDED, "tests/support", "pyproject.toml"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return tmp_path


def follow(page: str, folder: Path) -> list[str]:
    """Do what the page says; the files that it touches."""
    for file, listed_in, text in STEP.findall(page):
        path = folder / file
        if not listed_in:
            assert not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        before = path.read_text(encoding="utf-8")
        # Where the list's first line begins.
        first = re.search(rf"^{listed_in} = [(\[]\n", before, re.MULTILINE).end()
        path.write_text(before[:first] + text + before[first:], encoding="utf-8")
    return [file for file, *_ in STEP.findall(page)]


@pytest.mark.skipif(find_spec("torch") is None, reason="the page's tests use tensors")
def test_the_page_adds_a_family(copy):
    assert follow(PAGE, copy) == [
        "engines/codecs/detr.py",
        "engines/codecs/registry.py",
        "configs/models/detr-tiny.yaml",
        "tests/engines/codecs/test_detr.py",
        "tests/engines/codecs/test_reduce_on_device.py",
    ]
    tests = ["tests/engines/codecs/test_detr.py", "tests/engines/codecs/test_reduce_on_device.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests, "-k", "detr or family"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    # The page's three tests, the first with arrays and with tensors; its row in two precisions; the check that
    # every family has a row.
    assert "7 passed" in done.stdout
