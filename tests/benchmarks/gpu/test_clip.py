"""The clip has the properties of a camera's."""

import itertools

import av
import pytest
from av.video.frame import PictureType
from measuring.clip import FPS, make_clip


def test_it_has_the_size_the_length_and_no_b_frames(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    path = make_clip(tmp_path / "clip.mp4", (192, 108), 6)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        assert (video.codec_context.name, video.width, video.height) == ("h264", 192, 108)
    assert len(frames) == 6 * FPS
    assert {frame.pict_type for frame in frames} <= {PictureType.I, PictureType.P}
    assert sum(frame.key_frame for frame in frames) == 6
    steps = {round((b.time - a.time) * FPS, 3) for a, b in itertools.pairwise(frames)}
    assert steps == {1.0}
    pictures = [frame.to_ndarray(format="gray").astype(int) for frame in frames[:2]]
    assert abs(pictures[1] - pictures[0]).mean() > 1  # the scene moves
    assert pictures[0].std() > 10  # and has texture
