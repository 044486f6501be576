"""The asset store against a real server, a real pip and real processes, all on this machine."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_server import FaultyServer

from engines.assets.clips import available_clips, load_clip
from engines.assets.download import download
from engines.assets.store import cached_path, fetch, is_cached, locate, verify
from engines.contracts.contract import ArchiveSource, Asset, FileSource, WheelSource
from engines.errors import AssetError, ContractError
from engines.home import cache_home

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = random.Random(7).randbytes(300_000)
OTHER = random.Random(8).randbytes(300_000)
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing answers there

FETCH = """
import sys
from engines.assets.store import fetch
from engines.contracts.contract import Asset
asset = Asset.model_validate_json(sys.argv[1])
print("ready", flush=True)
print(fetch(asset))
"""


def asset(*sources, content: bytes = WEIGHTS, filename: str = "w.onnx") -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset(filename=filename, sha256=digest, bytes=len(content), sources=list(sources))


def web(server: FaultyServer, content: bytes = WEIGHTS) -> Asset:
    """An asset that expects `content` at /w.onnx, where the server has WEIGHTS."""
    server.files["/w.onnx"] = WEIGHTS
    return asset(FileSource(url=f"{server.url}/w.onnx"), content=content)


def files_beside(it: Asset) -> set[str]:
    return {path.name for path in cached_path(it).parent.iterdir()} - {".lock"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("POSESTREAM_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "home"


@pytest.fixture
def server():
    with FaultyServer() as running:
        yield running


def test_an_asset_is_fetched_once_verified_and_kept(server):
    it, seen = web(server), []
    path = fetch(it, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WEIGHTS
    assert path == locate(it) == cached_path(it)
    assert (is_cached(it), verify(it)) == (True, True)
    assert seen[0] == (0, len(WEIGHTS))
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert fetch(it) == path
    assert len(server.requests) == 1
    assert files_beside(it) == {"w.onnx"}


def test_a_wrong_checksum_is_refused_and_leaves_no_file(server):
    it = web(server, content=OTHER)
    with pytest.raises(AssetError) as error:
        fetch(it)
    for part in (it.sha256, hashlib.sha256(WEIGHTS).hexdigest(), f"{server.url}/w.onnx", "\n"):
        assert (part in str(error.value)) == (part != "\n")
    assert not is_cached(it)
    assert files_beside(it) == set()


def with_short_checksum(server: FaultyServer, content: bytes = WEIGHTS) -> Asset:
    """An asset as OpenMMLab describes files: the first eight digits of the checksum, and no size."""
    it = web(server, content)
    return it.model_copy(update={"sha256": it.sha256[:8], "bytes": None})


def test_eight_digits_of_a_checksum_without_a_size_suffice(server):
    it = with_short_checksum(server)
    server.faults["/w.onnx"] = ["cut"]
    path = fetch(it)
    assert path.read_bytes() == WEIGHTS
    assert path == locate(it)
    assert (is_cached(it), verify(it)) == (True, True)
    path.write_bytes(WEIGHTS[:-1])
    assert verify(it) is False
    assert fetch(it).read_bytes() == WEIGHTS


def test_eight_digits_that_differ_are_refused(server):
    it = with_short_checksum(server, content=OTHER)
    found = hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(AssetError, match=rf"expected SHA-256 {it.sha256}…, found {found} \(300000 bytes\)"):
        fetch(it)
    assert not is_cached(it)


def test_a_member_of_an_archive_whose_size_is_unknown(tmp_path):
    (tmp_path / "pack").write_bytes(make_zip(INSIDE))
    it = asset(ArchiveSource(url=str(tmp_path / "pack"), member="end2end.onnx"))
    assert fetch(it.model_copy(update={"bytes": None})).read_bytes() == WEIGHTS


def test_without_a_checksum_nothing_is_fetched(server):
    it = web(server).model_copy(update={"sha256": None})
    with pytest.raises(
        AssetError, match=r"states no checksum; download it yourself from http.*/w\.onnx, then: "
    ):
        fetch(it)
    assert (server.requests, verify(it)) == ([], None)


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [
        (["cut"], [None, "bytes=150000-"]),
        (["cut", "cut"], [None, "bytes=150000-", "bytes=225000-"]),
        (["cut", "ignore_range"], [None, "bytes=150000-"]),
        ([503], [None, None]),
        (["cut", 416], [None, "bytes=150000-", None]),
    ],
)
def test_a_download_continues_where_it_was_cut(server, faults, ranges):
    it = web(server)
    server.faults["/w.onnx"] = faults
    assert fetch(it).read_bytes() == WEIGHTS
    assert [headers.get("Range") for _, headers in server.requests] == ranges
    assert all(headers.get("If-Range") == '"v1"' for _, headers in server.requests if "Range" in headers)


def test_a_later_download_continues_unless_the_file_has_changed(server, tmp_path):
    server.files["/a"], part, seen = WEIGHTS, tmp_path / "part", []
    for etag, expected_start in (('"v1"', 150_000), ('"v2"', 0)):
        server.etag, server.faults["/a"] = '"v1"', ["cut"]
        with pytest.raises(AssetError, match="cut at 150000 of 300000 bytes"):
            download(f"{server.url}/a", part, lambda done, total: None, pauses_s=())
        server.etag = etag
        download(f"{server.url}/a", part, lambda done, total: seen.append(done))
        assert seen[0] == expected_start
        assert part.read_bytes() == WEIGHTS
        assert list(tmp_path.glob("part*")) == [part]
        part.unlink()
        seen.clear()


def test_the_number_of_tries_is_bounded(server, tmp_path):
    server.files["/a"], server.faults["/a"] = WEIGHTS, ["cut"] * 9
    with pytest.raises(AssetError, match="3 times in a row"):
        download(f"{server.url}/a", tmp_path / "part", lambda done, total: None, pauses_s=(0, 0))
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [404, 403])
def test_a_refusal_is_not_retried(server, fault):
    it = web(server)
    server.faults["/w.onnx"] = [fault]
    with pytest.raises(
        AssetError, match=rf"w\.onnx: HTTP {fault} .*POSESTREAM_MIRROR to a folder that holds w"
    ):
        fetch(it)
    assert len(server.requests) == 1


def test_sources_are_tried_in_order_and_the_error_names_every_answer(server, tmp_path):
    server.files["/short"] = WEIGHTS[:-1]
    sources = [FileSource(url=f"{server.url}/{path}") for path in ("gone", "short")]
    with pytest.raises(
        AssetError, match=r"/gone: HTTP 404 .*; .*/short: expected SHA-256 .*\(299999 bytes\)"
    ):
        fetch(asset(*sources))
    (tmp_path / "copy").write_bytes(WEIGHTS)
    third = FileSource(url=(tmp_path / "copy").as_uri())
    assert fetch(asset(*sources, third)).read_bytes() == WEIGHTS


def test_two_processes_at_once_make_one_download(server):
    it = web(server)
    both_wait = threading.Event()
    server.faults["/w.onnx"] = [both_wait]
    command = [sys.executable, "-c", FETCH, it.model_dump_json()]
    fetchers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    for process in fetchers:
        assert process.stdout.readline() == "ready\n"
    threading.Timer(
        0.4, both_wait.set
    ).start()  # long enough for a second request, if the second process does not wait
    for process in fetchers:
        out, err = process.communicate(timeout=20)
        assert (out.strip(), process.returncode) == (str(cached_path(it)), 0), err
    assert len(server.requests) == 1
    assert verify(it)


def test_threads_at_once_make_one_download(server):
    it = web(server)
    wait = threading.Event()
    server.faults["/w.onnx"] = [wait]
    threading.Timer(0.3, wait.set).start()
    with ThreadPoolExecutor(4) as pool:
        assert {*pool.map(fetch, [it] * 4)} == {cached_path(it)}
    assert len(server.requests) == 1


def test_without_network_a_cold_cache_names_the_command_and_the_mirror():
    it = asset(FileSource(url=f"{CLOSED}/w.onnx"))
    with pytest.raises(
        AssetError, match=r"weights of yolo \(w\.onnx\) are not here; .*: posestream models pull yolo"
    ):
        locate(it, name="yolo")
    with pytest.raises(AssetError, match=r"cannot be reached: .*refused.* set POSESTREAM_MIRROR to a folder"):
        fetch(it)
    assert (is_cached(it), verify(it)) == (False, None)


def test_without_network_a_warm_cache_works():
    with FaultyServer() as server:
        it = web(server)
        fetch(it)
    assert locate(it).read_bytes() == fetch(it).read_bytes() == WEIGHTS
    assert len(server.requests) == 1


def test_a_damaged_file_is_detected_and_fetched_again(server):
    it = web(server)
    path = fetch(it)
    path.write_bytes(OTHER)  # of the same size, so that only hashing detects it
    assert (is_cached(it), verify(it)) == (True, False)
    path.write_bytes(b"half")
    assert (is_cached(it), verify(it)) == (False, False)
    with pytest.raises(AssetError, match="damaged; fetch them: posestream models pull yolo"):
        locate(it, name="yolo")
    assert fetch(it).read_bytes() == WEIGHTS
    assert verify(it)


def test_files_of_one_name_do_not_clash(tmp_path):
    assets = []
    for index, content in enumerate((WEIGHTS, OTHER)):
        (tmp_path / str(index)).write_bytes(content)
        assets.append(asset(FileSource(url=str(tmp_path / str(index))), content=content))
    assert [fetch(it).read_bytes() for it in assets] == [WEIGHTS, OTHER]
    assert [locate(it).read_bytes() for it in assets] == [WEIGHTS, OTHER]


@pytest.mark.parametrize("over_http", [False, True])
def test_the_mirror_is_asked_first(server, tmp_path, monkeypatch, over_http):
    it = web(server)
    server.files["/mirror/w.onnx"] = WEIGHTS
    (tmp_path / "w.onnx").write_bytes(WEIGHTS)
    monkeypatch.setenv("POSESTREAM_MIRROR", f"{server.url}/mirror/" if over_http else str(tmp_path))
    assert fetch(it).read_bytes() == WEIGHTS
    assert [path for path, _ in server.requests] == (["/mirror/w.onnx"] if over_http else [])


@pytest.mark.parametrize(("on_mirror", "warnings"), [(None, 0), (OTHER, 1), (WEIGHTS + b"more", 1)])
def test_a_mirror_without_the_right_file_is_skipped(
    server, tmp_path, monkeypatch, caplog, on_mirror, warnings
):
    it = web(server)
    if on_mirror:
        (tmp_path / "w.onnx").write_bytes(on_mirror)
    monkeypatch.setenv("POSESTREAM_MIRROR", str(tmp_path))
    with caplog.at_level(logging.WARNING, "posestream"):
        assert fetch(it).read_bytes() == WEIGHTS
    assert len(caplog.messages) == warnings
    assert all(str(tmp_path / "w.onnx") in message and it.sha256 in message for message in caplog.messages)


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


def test_a_cache_that_cannot_be_written_is_named_with_the_fix(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POSESTREAM_HOME", str(tmp_path / "file"))
    with pytest.raises(AssetError, match=r"cannot write w\.onnx to the cache .*; set POSESTREAM_HOME"):
        fetch(asset(FileSource(url=str(tmp_path / "file"))))


def test_a_filename_cannot_leave_the_cache(tmp_path):
    with pytest.raises(AssetError, match="names a folder"):
        fetch(asset(FileSource(url=str(tmp_path)), filename="../../w.onnx"))


def test_where_the_cache_folder_is(home, monkeypatch):
    assert cache_home() == home
    monkeypatch.setenv("POSESTREAM_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    if sys.platform == "linux":
        assert cache_home() == Path("/caches/posestream")


@pytest.mark.parametrize("name", available_clips())
def test_clips_are_described(name):
    clip = load_clip(name)
    assert clip.name == name
    assert clip.licence == "BSD-3-Clause"
    assert clip.asset.filename == f"{name}.mp4"


def test_an_unknown_clip_is_refused_with_the_nearest_name():
    with pytest.raises(ContractError, match="did you mean 'single-person'"):
        load_clip("single-persn")
