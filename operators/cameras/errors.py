"""Why a camera gives no frames, in a few words, from FFmpeg's errors."""

from __future__ import annotations

import errno
import os
import socket
from urllib.parse import urlsplit

import av

from operators.decoding.addresses import is_device, redact, scheme_of
from pipeline.errors import SourceError


class CameraError(Exception):
    """A connection has ended, or could not be made. The text says why, and holds no credentials.

    `refused`: the other side has answered and will not send video. Asking often does not help then, and some
    cameras lock a user out for it.
    """

    def __init__(self, reason: str, *, refused: bool = False):
        super().__init__(reason)
        self.refused = refused


UNSUPPORTED = (
    av.error.ProtocolNotFoundError,
    av.error.DecoderNotFoundError,
    av.error.DemuxerNotFoundError,
)
ANSWERS = {
    av.error.HTTPUnauthorizedError: "wrong or missing user name or password (401)",
    av.error.HTTPForbiddenError: "this user has no access to it (403)",
    av.error.HTTPNotFoundError: "there is no such stream (404)",
    av.error.HTTPBadRequestError: "the request was not understood (400)",
    av.error.HTTPOtherClientError: "the request was refused (4xx)",
    av.error.HTTPServerError: "the server reports an error (5xx)",
}


def camera_error(error: av.error.FFmpegError, uri: str, limit_s: float, opened: bool) -> Exception:
    """FFmpeg's error as a CameraError, or as a SourceError if no attempt can ever work.

    FFmpeg's own texts are not used: they hold the address, and so the password.

    Args:
        error: from opening or reading.
        uri: the camera's address.
        limit_s: the time-out that was in force.
        opened: whether the connection was open.
    """
    if isinstance(error, UNSUPPORTED):
        return SourceError(
            f"cannot read {redact(uri)}: this build of FFmpeg does not support it ({error.strerror}); "
            "give another address of the camera (RTSP, say)"
        )
    if isinstance(error, av.error.ExitError):
        return CameraError(f"no {'data' if opened else 'answer'} for {limit_s:g} s")
    if opened:
        broken_off = error.errno in (errno.EIO, errno.ECONNRESET, errno.EPIPE)
        return CameraError("the connection was broken off" if broken_off else _message(error))
    for kind, reason in ANSWERS.items():
        if isinstance(error, kind):
            return CameraError(reason, refused=True)
    if served := _content_type(uri):
        return CameraError(f"it serves {served}, which is not a video", refused=True)
    if isinstance(error, av.error.InvalidDataError):
        return CameraError("it serves data that is not a video", refused=True)
    return CameraError(_device_reason(error) if is_device(uri) else _network_reason(error, uri))


def _device_reason(error: av.error.FFmpegError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such device"
    if error.errno == errno.EACCES:
        return "no permission to open the device (is the user in the group video?)"
    if error.errno == errno.EBUSY:
        return "another program uses the device"
    return _message(error)


def _network_reason(error: av.error.FFmpegError, uri: str) -> str:
    parts = urlsplit(uri)
    if error.errno == errno.ECONNREFUSED:
        return f"nothing listens at {parts.hostname}:{parts.port or 'the usual port'}"
    if error.errno == errno.EIO and parts.hostname:  # FFmpeg reports unknown host names like this, too
        try:
            socket.getaddrinfo(parts.hostname, None)
        except OSError:
            return f"unknown host {parts.hostname}"
    return _message(error)


def _content_type(uri: str) -> str | None:
    """The content type that a web server gives, if it is text."""
    if scheme_of(uri) not in ("http", "https"):
        return None
    import urllib.request
    from http.client import HTTPException

    parts = urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        with urllib.request.urlopen(address, timeout=3) as answer:
            kind: str = answer.headers.get_content_type()
    except (OSError, ValueError, HTTPException):
        return None
    return kind if kind.startswith("text/") else None


def _message(error: av.error.FFmpegError) -> str:
    system = error.errno if error.errno in errno.errorcode else None
    words = os.strerror(system) if system else error.strerror or f"FFmpeg's error {error.errno}"
    return words[:1].lower() + words[1:]
