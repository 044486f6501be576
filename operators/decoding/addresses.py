"""The addresses of cameras: which can work at all, where their credentials come from, how they are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

from pipeline.errors import SourceError

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "http", "https", "srt", "udp", "rtp", "tcp")
LISTENING = ("udp", "rtp", "srt", "tcp")  # may name a port of this machine only, as in udp://:5000

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DEVICE = re.compile(r"/dev/(video\d|v4l/)")
# Up to the last @, since a password that should have been encoded may hold "@" and "/" itself.
_USERINFO = re.compile(r"://.*@", re.DOTALL)
_TRANSPORT = re.compile(r"([?&])rtsp_transport=([a-z_]+)(&|$)")
_SECRET_WORDS = "pass|pwd|token|secret|key|auth|sig|hmac|jwt|cred|session|user|login|streamid"
_SECRET = re.compile(rf"([\w.-]*(?:{_SECRET_WORDS})[\w.-]*=)[^&;#\s'\"]*", re.IGNORECASE)


def scheme_of(uri: str) -> str | None:
    """`rtsp` of rtsp://…; None for a path. One that exists is a path, whatever its name (horse:1.mp4)."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found and not os.path.lexists(uri) else None


def is_device(uri: str) -> bool:
    """Whether it is a webcam: /dev/video0, perhaps with FFmpeg's options, /dev/video0?video_size=1280x720."""
    return _DEVICE.match(uri) is not None


def is_camera(uri: str) -> bool:
    """Whether it is read as a camera: kept alive, and waited for by nobody."""
    return is_device(uri) or scheme_of(uri) in SCHEMES


def redact(text: str) -> str:
    """An address, or a text with one in it, fit to be shown: no user, no password, no token."""
    if "://" not in text:  # a path, whose `key=3` is nobody's secret
        return text
    return _SECRET.sub(r"\1***", _USERINFO.sub("://***@", text))


def resolve_uri(uri: str, credentials: Mapping[str, str] | None = None) -> str:
    """The address with every `${NAME}` replaced from the environment, and with these credentials if given.

    What is put in as a user, a password or a part of the query is percent-encoded. `credentials` holds
    `username` and `password`, and takes the place of those in the address. Not for eyes: see `redact`.

    Raises:
        SourceError: the address can never work (its scheme, no host, a port that is none), or names a
            variable that is not set.
    """
    if os.path.lexists(uri):
        return uri
    resolved = _NAME.sub(lambda name: _value(uri, name), uri)
    check_uri(resolved)
    return _with_credentials(resolved, credentials) if credentials else resolved


def check_uri(uri: str) -> None:
    """Refuse an address that can never work.

    Raises:
        SourceError: in one line.
    """
    scheme = scheme_of(uri)
    if scheme is None or scheme in ("file", "kafka"):
        return
    shown = redact(uri)
    if scheme not in SCHEMES:
        raise SourceError(
            f"cannot read {shown}: {scheme} is no scheme known here; expected a file or one of "
            f"{', '.join(SCHEMES)}, kafka"
        )
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:  # whose text may hold a piece of the password
        raise SourceError(
            f"cannot read {shown}: malformed; expected {scheme}://USER:PASSWORD@HOST:PORT/PATH with special "
            "characters percent-encoded (%40 for @, %2F for /)"
        ) from None
    if not host and not (port and scheme in LISTENING):
        raise SourceError(f"cannot read {shown}: it names no host; expected {scheme}://HOST:PORT/PATH")
    if re.search(r"\s", uri):
        raise SourceError(f"cannot read {shown}: there is white space in it; percent-encode it as %20")


def ffmpeg_address(uri: str, transport: str) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg is to open: address, format (None: it finds out) and options; `transport` is RTSP's.

    An address may say `?rtsp_transport=udp` itself. FFmpeg's own waiting is kept short: it need not find out
    the frame rate before it begins. (`nobuffer` would throw away what it has read until then, a key frame
    among it, and `low_delay` changes nothing for H.264 and H.265 but breaks MPEG-2 with B-frames.)
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
        options |= {"rtmp_live": "live", "rtmp_buffer": "100"}  # ms; 3 s unless told
    elif scheme in ("http", "https"):
        options |= {"live_start_index": "-1"}  # of HLS: the newest piece, not the third from the end
    elif scheme == "udp":
        options |= {"overrun_nonfatal": "1"}
    if transport == "udp" or scheme in ("udp", "rtp"):
        options |= {"buffer_size": str(1 << 20)}  # a key frame comes in one burst
    return uri, None, options


def _value(uri: str, name: re.Match[str]) -> str:
    value = os.environ.get(name[1])
    if value is None:
        raise SourceError(
            f"cannot read {redact(uri)}: the environment variable {name[1]} is not set; export it"
        )
    in_userinfo = name.end() <= uri.rfind("@")
    in_query = "?" in uri[: name.start()]
    return quote(value, safe="") if in_userinfo or in_query else value


def _with_credentials(uri: str, credentials: Mapping[str, str]) -> str:
    if scheme_of(uri) not in SCHEMES:
        raise SourceError(f"cannot read {redact(uri)} with a user and a password; expected a camera's URL")
    parts = urlsplit(uri)
    user = ":".join(
        quote(credentials[key], safe="") for key in ("username", "password") if key in credentials
    )
    return parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}").geturl()
