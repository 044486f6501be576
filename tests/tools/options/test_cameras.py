from __future__ import annotations

import re

import pytest

from pipeline.errors import ConfigError
from tools.options.cameras import name_cameras, read_credentials


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yard: hush", "yard: expected {username"),
        ("yard: {username: me, password: 1234}", "quote numbers"),
        ("yard: {user: hush}", "yard: expected {username"),
        ("- hush", "expected NAME: {username"),
        ("yard: {username: hush", "logins.yaml:1: not valid YAML"),
    ],
)
def test_a_file_of_credentials_is_refused_without_showing_it(tmp_path, text, message):
    path = tmp_path / "logins.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        read_credentials(path)
    assert not re.search("hush|1234", str(refused.value))


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        (["yard=rtsp://cam/1"], {"yard": "rtsp://cam/1"}),
        (["rtsp://me:hush@cam.farm.lan"], {"cam.farm.lan": "rtsp://me:hush@cam.farm.lan"}),
        (["rtsp://me:hush@cam"], {"cam": "rtsp://me:hush@cam"}),
        (["http://cam/live.m3u8?token=hush"], {"live": "http://cam/live.m3u8?token=hush"}),
        (["rtsp://a/s1", "rtsp://b/s1"], {"s1": "rtsp://a/s1", "s1-2": "rtsp://b/s1"}),
        (["/dev/video0", "walk.mp4"], {"video0": "/dev/video0", "walk": "walk.mp4"}),
        (["a=b=c"], {"a": "b=c"}),
    ],
)
def test_cameras_are_named_without_their_secrets(sources, named):
    assert name_cameras(sources) == named
