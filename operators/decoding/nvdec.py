"""Decoding on NVDEC, the video decoder of NVIDIA's GPUs, with the processor's decoder beside it.

What NVDEC decodes stays in the GPU's memory (frames of the format `cuda`). Its samples are those that the
processor decodes, to the last bit: the codecs leave a decoder no choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import av
from av.codec import CodecContext
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from engines.errors import EngineError
from operators.decoding.frame_images import DisplayMatrix, colour_matrix

CODECS = ("h264", "hevc", "vp9", "av1")
FORMATS = ("yuv420p", "yuvj420p")  # what a surface of NV12 can hold, by the names of the processor's frames
TRIAL_PACKETS = 64  # a decoder gives its first frame far sooner
FAILURES_MAX = 30  # packets in a row, about a second: then NVDEC is given up


class Nvdec:
    """Decodes the packets of one video, as its `VideoCodecContext` would; what NVDEC cannot, that does.

    The processor decodes up to the first frame, which tells what the video really is; from there both do,
    until NVDEC has given its first frame; then NVDEC alone. So no frame is lost, whatever NVDEC refuses, and
    neither a file nor a camera has to be opened twice. `refused` is told why, when the processor goes on.

    Damage: packets whose headers cannot be read raise, as on the processor. What is damaged inside of a slice
    the processor's decoder conceals and marks (`is_corrupt`); NVDEC conceals it too, without a mark.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        open_hardware: Callable[[VideoCodecContext], VideoCodecContext],
        refused: Callable[[str], None],
    ):
        self._software, self._open_hardware, self._refused = context, open_hardware, refused
        self._start()

    def decode(self, packet: Packet | None) -> list[VideoFrame]:
        """The frames that are complete with this packet; with None those that are left.

        Raises:
            av.error.FFmpegError: the packet cannot be decoded; the next one may be.
        """
        return self._step(packet)

    def flush_buffers(self) -> None:
        """Forget what has been seen; the next packet begins anew."""
        self._software.flush_buffers()
        if self._step == self._with_nvdec and self._hardware:
            self._hardware.flush_buffers()
        elif self._step in (self._look, self._try):
            self._start()

    def _start(self) -> None:
        self._hardware: VideoCodecContext | None = None
        self._packets: list[Packet | None] = []  # seen before NVDEC was opened
        self._tried = 0  # packets that NVDEC was given in vain
        self._held: list[VideoFrame] = []  # the processor's, in case that NVDEC refuses
        self._failures = 0  # packets in a row
        self._step: Callable[[Packet | None], list[VideoFrame]] = self._look

    def _look(self, packet: Packet | None) -> list[VideoFrame]:
        """Before the first frame."""
        frames = self._software.decode(packet)
        self._packets.append(packet)
        if not frames:
            return self._fall_back(_NO_FRAME) if len(self._packets) >= TRIAL_PACKETS else []
        self._held = frames
        if reason := unsuited(self._software, frames[0]):
            return self._fall_back(reason)
        try:
            self._hardware = self._open_hardware(self._software)
        except (EngineError, av.error.FFmpegError) as error:
            return self._fall_back(f"NVDEC cannot be opened ({_words(error)})")
        self._step = self._try
        return self._compare(self._packets)

    def _try(self, packet: Packet | None) -> list[VideoFrame]:
        """Before NVDEC's first frame."""
        self._held += self._software.decode(packet)
        return self._compare([packet])

    def _compare(self, packets: Sequence[Packet | None]) -> list[VideoFrame]:
        """Give these packets to NVDEC too; its frames if they are what was expected, else what was held."""
        assert self._hardware is not None
        frames: list[VideoFrame] = []
        try:
            for packet in packets:
                frames += self._hardware.decode(packet)
        except av.error.FFmpegError as error:
            return self._fall_back(
                f"NVDEC refuses it ({_words(error)}): {_kind(self._software, self._held[0])}"
            )
        self._tried += len(packets)
        if not frames:
            over = self._tried >= TRIAL_PACKETS or packets[-1] is None
            return self._fall_back(_NO_FRAME) if over else []
        if reason := _differs(frames[0], self._held[0]):
            return self._fall_back(reason)
        self._packets, self._held = [], []
        self._software.flush_buffers()  # its pictures are not needed any more
        self._step = self._with_nvdec
        return frames

    def _with_nvdec(self, packet: Packet | None) -> list[VideoFrame]:
        assert self._hardware is not None
        try:
            frames = self._hardware.decode(packet)
        except av.error.FFmpegError as error:
            self._failures += 1
            if self._failures >= FAILURES_MAX:  # the processor goes on at the next key frame
                self._fall_back(f"NVDEC has failed on {self._failures} packets in a row ({_words(error)})")
            raise
        if frames:
            self._failures = 0
        return frames

    def _fall_back(self, reason: str) -> list[VideoFrame]:
        """From now on the processor decodes; the frames that it already has."""
        self._refused(reason)
        frames = self._held
        self._hardware, self._packets, self._held = None, [], []
        self._step = self._software.decode
        return frames


_NO_FRAME = f"no frame came of its first {TRIAL_PACKETS} packets, or of all there are"


def unsuited(context: VideoCodecContext, frame: VideoFrame) -> str | None:
    """Why NVDEC's frames of a video could not be used as they are, by the processor's first one."""
    codec = context.codec.canonical_name
    if codec not in CODECS:
        return f"NVDEC is used for {', '.join(CODECS)}, not for {codec}"
    if frame.format.name not in FORMATS:
        return f"its pictures are {frame.format.name}, expected 8 bit with halved colour (yuv420p)"
    if frame.width % 2 or frame.height % 2:
        return f"its size {frame.width}x{frame.height} is odd, and NVDEC's pictures are even"
    if colour_matrix(frame) is None:
        return (
            f"its colour matrix has the number {frame.colorspace} (ITU-T H.273), expected BT.601, 709 or 2020"
        )
    if DisplayMatrix()(frame) is not None:
        return "its pictures are to be turned or mirrored"
    return None


def open_nvdec(context: VideoCodecContext, index: int) -> VideoCodecContext:
    """A decoder on GPU `index` for the packets that `context` is for, which has decoded some.

    Raises:
        EngineError: CUDA refuses, or this FFmpeg has no NVDEC for the codec.
        av.error.FFmpegError: FFmpeg cannot use the GPU.
    """
    from engines.device.cuda_bindings import call

    # FFmpeg is to use PyTorch's context, else neither sees the other's memory. PyAV asks it to retain the
    # primary one, but that FFmpeg refuses where it is active with other flags than its own, as after PyTorch
    # (libavutil/hwcontext_cuda.c). So it is told to take the current one, and this makes it current.
    call("runtime", "cudaSetDevice", index)
    accel = HWAccel(
        "cuda",
        device=str(index),
        is_hw_owned=True,
        allow_software_fallback=False,  # `context` has threads, and decodes AV1 by another library
        options={"primary_ctx": "0", "current_ctx": "1"},
    )
    hardware = decoder_like(context, accel)
    if not hardware.is_hwaccel:
        raise EngineError(f"this FFmpeg has no NVDEC for {context.codec.canonical_name}")
    return hardware


def decoder_like(context: VideoCodecContext, accel: HWAccel | None) -> VideoCodecContext:
    """Another decoder, with one thread, for the packets of `context`, which has decoded some."""
    decoder = cast(VideoCodecContext, CodecContext.create(context.codec.canonical_name, "r", accel))
    decoder.thread_count = 1
    # What only the container may tell, and how many frames are held back to bring them in order.
    decoder.extradata = context.extradata
    decoder.reorder_depth = context.reorder_depth
    decoder.colorspace, decoder.color_range = context.colorspace, context.color_range
    return decoder


def _differs(frame: VideoFrame, expected: VideoFrame) -> str | None:
    """Why NVDEC's first frame is not what the processor's is."""
    if frame.sw_format is None or frame.sw_format.name != "nv12":
        return f"NVDEC gives {frame.sw_format.name if frame.sw_format else frame.format.name}, expected nv12"
    size, wanted = (frame.width, frame.height), (expected.width, expected.height)
    if size != wanted:  # FFmpeg crops such frames at the right and at the bottom only
        return (
            f"NVDEC gives {size[0]}x{size[1]} px, expected {wanted[0]}x{wanted[1]}: it is cropped on the left"
        )
    return None


def _kind(context: VideoCodecContext, frame: VideoFrame) -> str:
    profile = f" {context.profile}" if context.profile else ""
    return f"{context.codec.canonical_name}{profile}, {frame.format.name}, {frame.width}x{frame.height}"


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
