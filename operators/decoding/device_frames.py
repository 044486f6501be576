"""Frames in a GPU's memory: decoded there by NVDEC, or decoded on the processor and copied there."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from operators.decoding.frame_images import Decoder, FrameTarget, HostFrames, colour_matrix, picture_of
from operators.decoding.nvdec import Nvdec, open_nvdec, take_over
from pipeline.errors import SourceError

log = logging.getLogger("posestream.decode")


class DeviceFrames:
    """Makes the images of one source on a device, as `FrameTarget` describes.

    They are stored in a pool of at most `surfaces` surfaces. Every source has a pool of its own; otherwise
    one of the cameras that `sync` waits for could take the memory that the others need. The frames of a
    source that are in a graph are those on its edges (a batch each, 4 or more) and in its batches. If they
    use up the pool, the decoder waits for one to leave; an operator that holds all of them and waits for more
    would wait for ever, so after 30 s this is an error. Frames that are dropped on an edge, or no longer
    used, return their surface at once. Frames whose image nobody asks for are never copied.

    Counts `uploaded_frames`: frames that the processor has decoded.
    """

    def __init__(self, stream: str, device: Device, surfaces: int, count: Callable[[str, int], None]):
        self._stream, self._device, self._count = stream, device, count
        self._pool = SurfacePool(device, surfaces)
        self._kept = KeepAlive()
        self._nvdec: tuple[object, VideoCodecContext] | None = None  # what it decodes, and the decoder
        self._logged: set[str] = set()  # reasons

    def decoder(self, context: VideoCodecContext) -> Decoder:
        """NVDEC, which falls back to `context` for videos that it cannot decode."""
        return Nvdec(context, self._open_nvdec, self._refused)

    def _open_nvdec(self, context: VideoCodecContext) -> VideoCodecContext:
        """The decoder on the GPU that this source used last, if it suits; else a new one, see `open_nvdec`.

        A file that is repeated, and a camera that is connected again, need no new one. Opening one takes
        long, and other streams may wait meanwhile.
        """
        suits = (context.codec.canonical_name, context.extradata)
        if self._nvdec and self._nvdec[0] == suits:
            hardware = self._nvdec[1]
            hardware.flush_buffers()
            take_over(hardware, context)
            return hardware
        self._nvdec = None  # frees its memory before a new one is opened
        hardware = open_nvdec(context, index=self._device.torch_device.index or 0)
        self._nvdec = suits, hardware
        return hardware

    def picture(self, frame: VideoFrame, matrix: np.ndarray | None) -> DeviceImage:
        """The frame in a surface: copied on the device if NVDEC decoded it, else uploaded, see `picture_of`.

        Frames of NVDEC in a format that surfaces do not hold (a camera has switched to 10 bit) are converted
        on the processor and uploaded.

        Raises:
            SourceError: all surfaces stay in use.
        """
        colours = colour_matrix(frame)
        nv12 = frame.sw_format is not None and frame.sw_format.name == "nv12"
        if not nv12 or colours is None or matrix is not None:
            return self.store(picture_of(frame, matrix))
        from torch.utils.dlpack import from_dlpack

        # The frame may be read after CUDA's legacy default stream: FFmpeg copies NVDEC's picture to the frame
        # on the stream of its device context, which is NULL (FFmpeg 8: cuda_context_init in
        # libavutil/hwcontext_cuda.c, nvdec_retrieve_data in libavcodec/nvdec.c). `owner` keeps the frame
        # alive until it has been copied, since a later frame overwrites its memory once it is freed.
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

    def store(self, picture: np.ndarray | YuvImage) -> DeviceImage:
        """Upload an image that the processor has decoded.

        Raises:
            SourceError: all surfaces stay in use.
        """
        self._count("uploaded_frames", 1)
        try:
            return self._pool.from_host(picture, thread_stream(self._device))
        except EngineError as error:
            raise SourceError(f"{self._stream}: {error}") from None

    def _refused(self, reason: str) -> None:
        self._nvdec = None
        if reason not in self._logged:  # once, not for every repetition of a file or connection of a camera
            self._logged.add(reason)
            log.warning("%s: decoded on the processor, and copied to the GPU: %s", self._stream, reason)


def frame_target(device: str, stream: str, surfaces: int, count: Callable[[str, int], None]) -> FrameTarget:
    """Where a source's frames are decoded and stored, by the option `device`.

    `cuda` is the first GPU. Without a GPU it is the processor, so that a graph runs on any machine, and the
    log gives the reason. `cuda:1` names a certain GPU and must be there: the models of that graph need it
    too.

    Raises:
        SourceError: a numbered GPU is not there.
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
