"""The asset store against a real server and real processes on this machine."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asset_toys import OTHER, WEIGHTS, asset, files_beside, web
from faulty_server import FaultyServer

from engines.assets.store import cached_path, fetch, is_cached, locate, verify
from engines.contracts.contract import Asset, FileSource
from engines.errors import AssetError
from engines.home import cache_home

ROOT = Path(__file__).resolve().parents[3]
CLOSED = "http://127.0.0.1:9"  # the discard port: nothing answers there

FETCH = """
import sys
from engines.assets.store import fetch
from engines.contracts.contract import Asset
asset = Asset.model_validate_json(sys.argv[1])
print("ready", flush=True)
print(fetch(asset))
"""


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


def test_without_a_checksum_nothing_is_fetched(server):
    it = web(server).model_copy(update={"sha256": None})
    with pytest.raises(
        AssetError, match=r"states no checksum; download it yourself from http.*/w\.onnx, then: "
    ):
        fetch(it)
    assert (server.requests, verify(it)) == ([], None)


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
    # Long enough for a second request, if the second process does not wait.
    threading.Timer(0.4, both_wait.set).start()
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
