"""Decoding on NVDEC, the video decoder of NVIDIA's GPUs, with a fallback to the processor's decoder.

NVDEC's frames stay in the GPU's memory (format `cuda`). Their samples are bit-identical to those that the
processor decodes, since the codecs define them exactly.
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
from operators.decoding.nvcuvid import load_nvcuvid

CODECS = ("h264", "hevc", "vp9", "av1")
FORMATS = ("yuv420p", "yuvj420p")  # of the processor's frames that NV12 surfaces can hold
TRIAL_PACKETS = 64  # a decoder that works gives its first frame far sooner
FAILURES_MAX = 30  # give NVDEC up after failures on this many packets in a row, about a second


class Nvdec:
    """Decodes the packets of one video on NVDEC; with its `VideoCodecContext` if NVDEC cannot.

    At first the processor decodes alone: its first frame shows format and size. Then both decode until NVDEC
    gives its first frame, and from there NVDEC decodes alone. So no frame is lost if NVDEC refuses the video
    late, and neither a file nor a camera has to be opened twice. When the processor takes over, `refused` is
    called with the reason.

    Damage: packets whose headers cannot be read raise, as on the processor. Both decoders conceal damage
    inside of a slice; the processor's marks the frame (`is_corrupt`), NVDEC does not.
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
        """The frames that are complete with this packet; with None, at the end, all that are left.

        Raises:
            av.error.FFmpegError: the packet cannot be decoded; the next one may be.
        """
        return self._step(packet)

    def flush_buffers(self) -> None:
        """Discard frames that are not complete; the next packet may come from another place in the video."""
        self._software.flush_buffers()
        if self._step == self._with_nvdec and self._hardware:
            self._hardware.flush_buffers()
        elif self._step in (self._before_first_frame, self._with_both):
            self._start()

    def _start(self) -> None:
        self._hardware: VideoCodecContext | None = None
        self._packets: list[Packet | None] = []  # decoded before NVDEC was opened
        self._tried = 0  # packets that NVDEC was given without giving a frame
        self._held: list[VideoFrame] = []  # the processor's frames, in case NVDEC refuses
        self._failures = 0  # packets in a row
        self._step: Callable[[Packet | None], list[VideoFrame]] = self._before_first_frame

    def _before_first_frame(self, packet: Packet | None) -> list[VideoFrame]:
        """Decode on the processor until its first frame shows whether NVDEC suits the video."""
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
            return self._fall_back(f"NVDEC cannot be opened ({_message(error)})")
        self._step = self._with_both
        return self._try_nvdec(self._packets)

    def _with_both(self, packet: Packet | None) -> list[VideoFrame]:
        """Decode on both until NVDEC's first frame."""
        self._held += self._software.decode(packet)
        return self._try_nvdec([packet])

    def _try_nvdec(self, packets: Sequence[Packet | None]) -> list[VideoFrame]:
        """Decode packets on NVDEC too. Returns its frames; those of the processor if NVDEC has failed."""
        assert self._hardware is not None
        frames: list[VideoFrame] = []
        try:
            for packet in packets:
                frames += self._hardware.decode(packet)
        except av.error.FFmpegError as error:
            return self._fall_back(
                f"NVDEC refuses it ({_message(error)}): {_description(self._software, self._held[0])}"
            )
        self._tried += len(packets)
        if not frames:
            failed = self._tried >= TRIAL_PACKETS or packets[-1] is None
            return self._fall_back(_NO_FRAME) if failed else []
        if reason := _differs(frames[0], self._held[0]):
            return self._fall_back(reason)
        self._packets, self._held = [], []
        self._software.flush_buffers()  # frees its frames
        self._step = self._with_nvdec
        return frames

    def _with_nvdec(self, packet: Packet | None) -> list[VideoFrame]:
        assert self._hardware is not None
        try:
            frames = self._hardware.decode(packet)
        except av.error.FFmpegError as error:
            self._failures += 1
            if self._failures >= FAILURES_MAX:  # the processor continues from the next key frame
                self._fall_back(f"NVDEC has failed on {self._failures} packets in a row ({_message(error)})")
            raise
        if frames:
            self._failures = 0
        return frames

    def _fall_back(self, reason: str) -> list[VideoFrame]:
        """Decode on the processor from now on. Returns the frames that it has decoded already."""
        self._refused(reason)
        frames = self._held
        self._hardware, self._packets, self._held = None, [], []
        self._step = self._software.decode
        return frames


_NO_FRAME = f"its first {TRIAL_PACKETS} packets, or all there are, gave no frame"


def unsuited(context: VideoCodecContext, frame: VideoFrame) -> str | None:
    """Why NVDEC cannot be used for a video, by the first frame that the processor decoded; None if it can."""
    codec = context.codec.canonical_name
    if codec not in CODECS:
        return f"NVDEC is used for {', '.join(CODECS)}, not for {codec}"
    if frame.format.name not in FORMATS:
        return f"its pixel format is {frame.format.name}, expected 8 bit 4:2:0 (yuv420p)"
    if frame.width % 2 or frame.height % 2:
        return f"its size {frame.width}x{frame.height} is odd, NVDEC's frames have even sizes"
    if colour_matrix(frame) is None:
        return (
            f"its colour matrix has the number {frame.colorspace} (ITU-T H.273), expected BT.601, 709 or 2020"
        )
    if DisplayMatrix()(frame) is not None:
        return "its frames are rotated or mirrored"
    return None


def open_nvdec(context: VideoCodecContext, index: int) -> VideoCodecContext:
    """A decoder on GPU `index` for the same video as `context`, which has decoded at least one frame.

    Raises:
        EngineError: CUDA reports an error, the driver's video decoder is not installed, or this FFmpeg has no
            NVDEC for the codec.
        av.error.FFmpegError: FFmpeg cannot use the GPU.
    """
    from engines.device.cuda_bindings import primary_context

    # FFmpeg must use PyTorch's CUDA context, the device's primary one, else neither sees the other's memory.
    # PyAV's default is the option `primary_ctx`, but FFmpeg refuses that context if it is active with other
    # flags than FFmpeg's own, as after PyTorch; without options FFmpeg makes a second context
    # (libavutil/hwcontext_cuda.c). So make the primary one current, and let FFmpeg use the current one.
    accel = HWAccel(
        "cuda",
        device=str(index),
        is_hw_owned=True,
        allow_software_fallback=False,  # `context` is the fallback; it has threads and decodes AV1
        options={"primary_ctx": "0", "current_ctx": "1"},
    )
    with primary_context(index):
        load_nvcuvid()
        hardware = decoder_like(context, accel)
    # PyAV sets `cuda`. FFmpeg's AV1 decoder then takes the format for agreed and never opens NVDEC
    # (libavcodec/av1dec.c); with a format of the processor it asks which one to use, as the others do.
    hardware.pix_fmt = "yuv420p"
    if not hardware.is_hwaccel:
        raise EngineError(f"this FFmpeg has no NVDEC for {context.codec.canonical_name}")
    return hardware


def decoder_like(context: VideoCodecContext, accel: HWAccel | None) -> VideoCodecContext:
    """Another decoder, with one thread, for the same video as `context`, which has decoded some packets."""
    decoder = cast(VideoCodecContext, CodecContext.create(context.codec.canonical_name, "r", accel))
    decoder.thread_count = 1
    decoder.extradata = context.extradata
    take_over(decoder, context)
    return decoder


def take_over(decoder: VideoCodecContext, context: VideoCodecContext) -> None:
    """Tell a decoder what `context` has learnt of the video."""
    # Facts that may come from the container only, and how many frames are held back for reordering.
    decoder.reorder_depth = context.reorder_depth
    decoder.colorspace, decoder.color_range = context.colorspace, context.color_range


def _differs(frame: VideoFrame, expected: VideoFrame) -> str | None:
    """How NVDEC's first frame differs from the processor's; None if it does not."""
    if frame.sw_format is None or frame.sw_format.name != "nv12":
        return f"NVDEC gives {frame.sw_format.name if frame.sw_format else frame.format.name}, expected nv12"
    size, wanted = (frame.width, frame.height), (expected.width, expected.height)
    if size != wanted:  # FFmpeg crops frames in GPU memory at the right and at the bottom only
        return (
            f"NVDEC gives {size[0]}x{size[1]} px, expected {wanted[0]}x{wanted[1]}: it is cropped on the left"
        )
    return None


def _description(context: VideoCodecContext, frame: VideoFrame) -> str:
    profile = f" {context.profile}" if context.profile else ""
    return f"{context.codec.canonical_name}{profile}, {frame.format.name}, {frame.width}x{frame.height}"


def _message(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
