"""The folder for a GPU machine without a network: complete or refused, and what pip says is one line."""

import re
import subprocess
import sys
import zipfile

import pytest
from packing import carried


@pytest.fixture
def folder(tmp_path):
    """A folder with a wheel of one module, and a clip that the tests need."""
    folder = tmp_path / "carried"
    (folder / carried.WHEELS).mkdir(parents=True)
    info = "farmyard-1.0.dist-info"
    with zipfile.ZipFile(folder / carried.WHEELS / "farmyard-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("farmyard.py", "ANIMALS = ['cow']\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: farmyard\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "farmyard.py,,\n")
    clip = folder / carried.ASSETS / "1234" / "clip.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(b"clip")
    carried.write_manifest(folder)
    return folder


@pytest.mark.slow
def test_packages_and_clips_are_found_also_by_later_processes(folder, tmp_path):
    script = (
        "import os, subprocess, sys\n"
        f"sys.path.insert(0, {str(carried.ROOT / 'benchmarks' / 'gpu')!r})\n"
        "from pathlib import Path\nfrom packing import carried\n"
        f"carried.use(Path({str(folder)!r}))\n"
        "import farmyard, engines\n"
        "then = 'import farmyard, engines, os; print(farmyard.ANIMALS, os.environ[\"POSESTREAM_HOME\"])'\n"
        "subprocess.run([sys.executable, '-c', then], check=True)\n"
    )
    for _ in range(2):  # the second time it is installed
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env={"TMPDIR": str(tmp_path)}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout.split() == ["['cow']", str(tmp_path / "posestream-gpu")]
    assert (tmp_path / "posestream-gpu" / "assets" / "1234" / "clip.mp4").read_bytes() == b"clip"


def broken_wheel(folder):
    (folder / carried.WHEELS / "farmyard-1.0-py3-none-any.whl").rename(
        folder / carried.WHEELS / "farmyard-1.0-cp39-cp39-win_amd64.whl"
    )
    carried.write_manifest(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / carried.MANIFEST).unlink(), "has no readable manifest.json; fill the folder"),
        (lambda folder: (folder / carried.MANIFEST).write_text("{"), "has no readable manifest.json"),
        (lambda folder: (folder / "assets/1234/clip.mp4").unlink(), "assets/1234/clip.mp4 is missing; copy"),
        (lambda folder: (folder / "assets/1234/clip.mp4").write_bytes(b"c"), "has 1 bytes, expected 4; copy"),
        pytest.param(broken_wheel, "not a supported wheel.*; fill the folder for this Python: carry.py carried",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_complete_is_refused_in_one_line(folder, tmp_path, monkeypatch, damage, reason):
    monkeypatch.setenv("POSESTREAM_HOME", "")
    monkeypatch.setattr(carried.tempfile, "gettempdir", lambda: str(tmp_path))
    damage(folder)
    with pytest.raises(carried.CarriedError) as raised:
        carried.use(folder)
    assert re.search(reason, str(raised.value))
    assert "\n" not in str(raised.value)
