"""Addresses of sources: which can work at all, their credentials, and how to show them without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

from pipeline.errors import SourceError

CAMERA_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "http", "https", "srt", "udp", "rtp", "tcp")
SCHEMES = (*CAMERA_SCHEMES, "kafka", "file")
LISTENING = ("udp", "rtp", "srt", "tcp")  # may give only a port of this machine: udp://:5000

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEVICE = re.compile(r"/dev/(video\d|v4l/)")
# Up to the last @: a password that should have been encoded may itself hold "@" and "/".
_USERINFO = re.compile(r"://.*@", re.DOTALL)
_TRANSPORT = re.compile(r"([?&])rtsp_transport=([a-z_]+)(&|$)")
_SECRET_WORDS = "pass|pwd|token|secret|key|auth|sig|hmac|jwt|cred|session|user|login|streamid"
_SECRET = re.compile(rf"([\w.-]*(?:{_SECRET_WORDS})[\w.-]*=)[^&;#\s'\"]*", re.IGNORECASE)


def scheme_of(uri: str) -> str | None:
    """`rtsp` for rtsp://…; None for a path. An existing file is a path, whatever its name (horse:1.mp4)."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found and not os.path.lexists(uri) else None


def is_device(uri: str) -> bool:
    """Whether it is a webcam: /dev/video0, or with FFmpeg's options, /dev/video0?video_size=1280x720."""
    return _DEVICE.match(uri) is not None


def is_camera(uri: str) -> bool:
    """Whether it is live: a webcam, or a URL with one of `CAMERA_SCHEMES`."""
    return is_device(uri) or scheme_of(uri) in CAMERA_SCHEMES


def redact(text: str) -> str:
    """An address, or a text that holds one, without user, password and tokens."""
    if "://" not in text:  # a path: `key=3` in it is not a secret
        return text
    return _SECRET.sub(r"\1***", _USERINFO.sub("://***@", text))


def resolve_uri(uri: str, credentials: Mapping[str, str] | None = None) -> str:
    """Replace every `${NAME}` in an address by the environment variable, and put in the credentials if given.

    Values in the user, the password or the query are percent-encoded. `credentials` holds `username` and
    `password`, and replaces those in the address. The result holds secrets: show it with `redact` only.

    Raises:
        SourceError: the address can never work (unknown scheme, no host, malformed port), or names a variable
            that is not set.
    """
    if os.path.lexists(uri):
        return uri
    resolved = _VARIABLE.sub(lambda variable: _value(uri, variable), uri)
    _check(resolved)
    return _with_credentials(resolved, credentials) if credentials else resolved


def _check(uri: str) -> None:
    """Refuse an address that can never work.

    Raises:
        SourceError: unknown scheme, no host, malformed, or white space in it.
    """
    scheme = scheme_of(uri)
    if scheme is None:
        return
    shown = redact(uri)
    if scheme not in SCHEMES:
        raise SourceError(
            f"cannot read {shown}: unknown scheme {scheme}; expected a path, or one of {', '.join(SCHEMES)}"
        )
    if scheme not in CAMERA_SCHEMES:
        return
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may hold a part of the password
        raise SourceError(
            f"cannot read {shown}: malformed; expected {scheme}://USER:PASSWORD@HOST:PORT/PATH with special "
            "characters percent-encoded (%40 for @, %2F for /)"
        ) from None
    if not host and not (port and scheme in LISTENING):
        raise SourceError(f"cannot read {shown}: it has no host; expected {scheme}://HOST:PORT/PATH")
    if re.search(r"\s", uri):
        raise SourceError(f"cannot read {shown}: it has white space; percent-encode it as %20")


def ffmpeg_address(uri: str, transport: str) -> tuple[str, str | None, dict[str, str]]:
    """The address, format (None: FFmpeg detects it) and options with which FFmpeg opens a camera.

    `transport` is that of RTSP; `?rtsp_transport=udp` in an address overrides it. The options keep FFmpeg
    from reading for long before it begins, since the frame rate need not be known. `nobuffer` is not used: it
    would discard what was read for detection, with a key frame in it. `low_delay` is not used: it changes
    nothing for H.264 and H.265, and breaks MPEG-2 with B-frames.
    """
    options = {"fpsprobesize": "0", "analyzeduration": "1000000"}  # us
    if is_device(uri):
        path, _, query = uri.partition("?")
        return path, "v4l2", {"timestamps": "abs"} | dict(parse_qsl(query))
    scheme = scheme_of(uri)
    if scheme in ("rtsp", "rtsps"):
        found = _TRANSPORT.search(uri)
        uri = _TRANSPORT.sub(lambda own: own[1] if own[3] else "", uri)
        options |= {"rtsp_transport": found[2] if found else transport, "allowed_media_types": "video"}
    elif scheme and scheme.startswith("rtmp"):
        options |= {"rtmp_live": "live", "rtmp_buffer": "100"}  # ms; the default is 3 s
    elif scheme in ("http", "https"):
        options |= {"live_start_index": "-1"}  # HLS: start at the newest segment, not the third from the end
    elif scheme == "udp":
        options |= {"overrun_nonfatal": "1"}
    if transport == "udp" or scheme in ("udp", "rtp"):
        options |= {"buffer_size": str(1 << 20)}  # a key frame arrives in one burst
    return uri, None, options


def _value(uri: str, variable: re.Match[str]) -> str:
    value = os.environ.get(variable[1])
    if value is None:
        raise SourceError(
            f"cannot read {redact(uri)}: the environment variable {variable[1]} is not set; export it"
        )
    in_userinfo = variable.end() <= uri.rfind("@")
    in_query = "?" in uri[: variable.start()]
    return quote(value, safe="") if in_userinfo or in_query else value


def _with_credentials(uri: str, credentials: Mapping[str, str]) -> str:
    if scheme_of(uri) not in CAMERA_SCHEMES:
        raise SourceError(f"cannot read {redact(uri)} with a user and a password; expected a camera's URL")
    parts = urlsplit(uri)
    user = ":".join(
        quote(credentials[key], safe="") for key in ("username", "password") if key in credentials
    )
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()
