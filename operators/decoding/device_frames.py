"""Frames in a GPU's memory: decoded there by NVDEC, or on the processor and copied there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from engines.device.devices import open_device, thread_stream
from engines.device.image import DeviceImage
from engines.device.pool import SurfacePool
from engines.device.streams import Device
from engines.device.transfers import KeepAlive
from engines.errors import EngineError
from engines.images.yuv import YuvImage
from operators.decoding.frame_images import Decoder, HostFrames, colour_matrix, picture_of
from operators.decoding.nvdec import Nvdec, open_nvdec
from pipeline.errors import SourceError

log = logging.getLogger("posestream.decode")


class DeviceFrames:
    """Makes the pictures of one source on a device; see `operators.decoding.frame_images.Frames`.

    They lie in a pool of at most `surfaces`, which is the source's own: of cameras that `sync` waits for,
    none can take the memory that the others need. A graph holds as many of a source's frames as there is room
    on its edges (a batch each, 4 or more) and in its batches; if these are more, the decoder waits for one to
    leave. Only an operator that lets none go before it has seen more than `surfaces` would wait for ever:
    after 30 s an error says so. Frames that are dropped on an edge, or wanted no longer, come back at once;
    frames that nobody asks a picture of are never copied.

    `count` is told of uploaded_frames, which the processor has decoded.
    """

    def __init__(self, stream: str, device: Device, surfaces: int, count: Callable[[str, int], None]):
        self._stream, self._device, self._count = stream, device, count
        self._pool = SurfacePool(device, surfaces)
        self._kept = KeepAlive()
        self._said: set[str] = set()

    def decoder(self, context: VideoCodecContext) -> Decoder:
        """NVDEC, or what `context` is for where NVDEC cannot."""
        index = self._device.torch_device.index or 0
        return Nvdec(context, partial(open_nvdec, index=index), self._refused)

    def picture(self, frame: VideoFrame, matrix: np.ndarray | None) -> DeviceImage:
        """The frame in a surface; NVDEC's as it is, others converted as `picture_of` does, and uploaded.

        NVDEC's frames that no surface holds (a camera has switched to 10 bit) go by way of the processor too.

        Raises:
            SourceError: all surfaces stay in use.
        """
        colours = colour_matrix(frame)
        nv12 = frame.sw_format is not None and frame.sw_format.name == "nv12"
        if not nv12 or colours is None or matrix is not None:
            return self.put(picture_of(frame, matrix))
        from torch.utils.dlpack import from_dlpack

        # It is ready once CUDA's legacy default stream is: FFmpeg maps NVDEC's picture and copies it to the
        # frame on the stream of its device context, which is NULL (FFmpeg 8: cuda_context_init in libavutil/
        # hwcontext_cuda.c, nvdec_retrieve_data in libavcodec/nvdec.c). The memory is overwritten by a later
        # frame once this one is gone, hence `owner`.
        try:
            planes = [from_dlpack(plane.__dlpack__()) for plane in frame.planes]  # (H, W), (H / 2, W / 2, 2)
            return self._pool.from_device(
                planes,
                colours,
                thread_stream(self._device),
                self._device.legacy_stream_event(),
                owner=frame,
                keep_alive=self._kept,
            )
        except EngineError as error:
            raise SourceError(f"{self._stream}: {error}") from None

    def put(self, picture: np.ndarray | YuvImage) -> DeviceImage:
        """Upload a picture that the processor has made.

        Raises:
            SourceError: all surfaces stay in use.
        """
        self._count("uploaded_frames", 1)
        try:
            return self._pool.from_host(picture, thread_stream(self._device))
        except EngineError as error:
            raise SourceError(f"{self._stream}: {error}") from None

    def _refused(self, reason: str) -> None:
        if reason not in self._said:  # not at every round of a loop, or connection of a camera
            self._said.add(reason)
            log.warning("%s: decoded on the processor, and copied to the GPU: %s", self._stream, reason)


def frames_on(
    device: str, stream: str, surfaces: int, count: Callable[[str, int], None]
) -> DeviceFrames | HostFrames:
    """What makes a source's pictures under the option `device`.

    `cuda` is the first GPU if there is one, so that a graph runs anywhere; without, frames stay where the
    processor decodes them, and the log says why. `cuda:1` was written for a machine that has it: without it,
    the models of that graph would not run either.

    Raises:
        SourceError: there is no such GPU.
    """
    if device == "cpu":
        return HostFrames()
    try:
        return DeviceFrames(stream, open_device(device), surfaces, count)
    except EngineError as error:
        if device != "cuda":
            raise SourceError(f"{stream}: {error}") from None
        log.warning("%s: decoded on the processor: %s", stream, error)
        return HostFrames()
