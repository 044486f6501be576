"""Downloads from a real server on this machine that cuts, refuses and changes its files."""

from __future__ import annotations

import pytest
from asset_toys import WEIGHTS, web

from engines.assets.download import download
from engines.assets.store import fetch
from engines.errors import AssetError


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
