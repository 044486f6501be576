"""The descriptions of the sample clips."""

from __future__ import annotations

import pytest

from engines.assets.clips import available_clips, load_clip
from engines.errors import ContractError


@pytest.mark.parametrize("name", available_clips())
def test_clips_are_described(name):
    clip = load_clip(name)
    assert clip.name == name
    assert clip.licence == "BSD-3-Clause"
    assert clip.asset.filename == f"{name}.mp4"


def test_an_unknown_clip_is_refused_with_the_nearest_name():
    with pytest.raises(ContractError, match="did you mean 'single-person'"):
        load_clip("single-persn")
