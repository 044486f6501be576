"""An environment with the packages of wheels and of this Python."""

import subprocess
import sys
import zipfile

import environment
import pytest
from packing import split_files

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path):
    """A folder with one wheel of one module."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "farmyard-1.0.dist-info"
    with zipfile.ZipFile(folder / "farmyard-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("farmyard.py", "ANIMALS = ['cow']\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: farmyard\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "farmyard.py,,\n")
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="environments have other folders there")
def test_packages_of_split_wheels_and_of_this_python_can_be_imported(wheels, tmp_path):
    split_files.split(wheels, 200)
    folder = tmp_path / "venv"
    environment.make(folder, wheels)
    script = "import farmyard, numpy; print(farmyard.ANIMALS)"
    done = subprocess.run(
        [folder / "bin" / "python", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['cow']"
    (folder / "ours").touch()
    environment.make(folder, wheels)
    assert (folder / "ours").exists()  # the environment was not made again
