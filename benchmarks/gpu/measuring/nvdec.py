"""NVDEC without posestream around it: FFmpeg, opened as the product opens it."""

from __future__ import annotations

from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext

from operators.decoding.nvdec import open_nvdec


def on_nvdec(container: InputContainer, index: int) -> VideoCodecContext:
    """A decoder on GPU `index` for the video of a container, which is read from its beginning again.

    Raises:
        EngineError, av.error.FFmpegError: as `open_nvdec`.
    """
    stream = container.streams.video[0]
    next(container.decode(stream))  # `open_nvdec` needs what FFmpeg learns from the first frame
    container.seek(0)
    return open_nvdec(stream.codec_context, index)
