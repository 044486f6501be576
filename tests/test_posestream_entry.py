"""Folders and files beside a script that have the names of posestream's packages; each in a Python of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from posestream_entry import PACKAGES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
STRANGER = "raise SystemExit('the code of a stranger has run')\n"
USE = "import posestream\nprint(posestream.load_graph('human-lite').name)\n"
COMMAND = "from posestream_entry import main\nmain()\n"  # as in the script that pip installs


def put(folder: Path, kind: str, name: str, content: str = STRANGER) -> Path:
    """A package, a folder without `__init__.py`, or a file of this name, with a module of its own in it."""
    if kind == "file":
        path = folder / f"{name}.py"
        path.write_text(content)
        return path
    path = folder / name
    path.mkdir()
    (path / "cli.py").write_text(content)
    if kind == "package":
        (path / "__init__.py").write_text(content)
    return path


def python(*arguments: object, cwd: Path, path: tuple[Path, ...] = (ROOT,), **environment: str):
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def script(folder: Path, content: str = USE, name: str = "script.py") -> Path:
    (folder / name).write_text(content)
    return folder / name


def assert_refused(
    done: subprocess.CompletedProcess[str], name: str, stranger: Path, how: str = "finds"
) -> None:
    """One line, the last, with both paths and the way out; the stranger's code has not run."""
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: posestream needs its own package {name} in {ROOT / name}, but Python"
    )
    assert f"{how} {stranger};" in last
    assert "rename that" in last
    assert "python -P" in last


@pytest.mark.parametrize("kind", ["package", "file"])
@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_or_file_beside_the_script_is_named(tmp_path, name, kind):
    stranger = put(tmp_path, kind, name)
    done = python(script(tmp_path), cwd=ROOT)
    assert_refused(done, name, stranger)
    assert len(done.stderr.splitlines()) < 10  # no traceback from deep inside


@pytest.mark.parametrize("name", PACKAGES)
def test_a_folder_without_init_does_no_harm(tmp_path, name):
    """Python prefers a package to it, even one that comes later on the search path."""
    put(tmp_path, "folder", name)
    done = python(script(tmp_path), cwd=ROOT)
    assert done.stdout == "human-lite\n", done.stderr


@pytest.mark.parametrize("kind", ["package", "file", "folder"])
def test_configs_beside_the_script_does_no_harm(tmp_path, kind):
    """The `configs` of posestream are read by their path; nothing imports that name."""
    put(tmp_path, kind, "configs")
    done = python(script(tmp_path), cwd=ROOT)
    assert done.stdout == "human-lite\n", done.stderr


def test_a_script_of_such_a_name_is_named(tmp_path):
    stranger = script(tmp_path, name="tools.py")
    assert_refused(python(stranger, cwd=ROOT), "tools", stranger)


@pytest.mark.parametrize("kind", ["package", "file"])
@pytest.mark.parametrize("name", PACKAGES)
def test_a_module_that_is_imported_already_is_named(tmp_path, name, kind):
    stranger = put(tmp_path, kind, name, content="")
    content = f"import sys, {name}\nsys.path.remove({str(tmp_path)!r})\n{USE}"
    assert_refused(python(script(tmp_path, content), cwd=ROOT), name, stranger, "has already imported")


def test_a_folder_without_init_that_is_imported_already_is_named(tmp_path):
    """Only possible while posestream is not on the search path yet; -S leaves out installed packages."""
    stranger = put(tmp_path, "folder", "engines")
    content = f"import sys, engines\nsys.path.insert(0, {str(ROOT)!r})\n{USE}"
    done = python("-S", script(tmp_path, content), cwd=tmp_path, path=())
    assert_refused(done, "engines", stranger, "has already imported")


@pytest.mark.parametrize("way_out", [{"options": ["-P"]}, {"environment": {"PYTHONSAFEPATH": "1"}}])
def test_the_way_out_leads_out(tmp_path, way_out):
    put(tmp_path, "package", "tools")
    options, environment = way_out.get("options", []), way_out.get("environment", {})
    done = python(*options, script(tmp_path), cwd=tmp_path, **environment)
    assert done.stdout == "human-lite\n", done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_the_same_package_by_a_link_is_no_stranger(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(ROOT, target_is_directory=True)
    content = f"import sys, engines\nsys.path.insert(0, {str(link)!r})\n{USE}"
    done = python(script(tmp_path, content), cwd=tmp_path)
    assert done.stdout == "human-lite\n", done.stderr


@pytest.mark.parametrize("kind", ["package", "file"])
@pytest.mark.parametrize("name", PACKAGES)
def test_the_command_says_it_in_one_line(tmp_path, name, kind):
    """A script's folder is not on the command's search path, but PYTHONPATH is."""
    stranger = put(tmp_path, kind, name)
    done = python("-P", "-c", COMMAND, "--help", cwd=tmp_path, path=(tmp_path, ROOT))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"posestream needs its own package {name} in {ROOT / name}, but")
    assert f"finds {stranger};" in line
    assert "PYTHONPATH must not name it" in line


def test_the_command_runs_beside_folders_of_such_names(tmp_path):
    for name in PACKAGES:
        put(tmp_path, "package", name)
    done = python("-P", "-c", COMMAND, "version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("posestream ")


def test_the_installed_command_starts_with_the_check():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"posestream": "posestream_entry:main"}
