"""What `posestream top` asks the control API of a run, and what it says when that does not answer."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from operators.decoding.addresses import redact
from pipeline.errors import ConfigError, SourceError
from tools.service.address import DEFAULT_ADDRESS, TOKEN_VARIABLE
from tools.service.attached import StreamNow
from tools.service.attached_stages import RunNow

TIMEOUT_S = 5.0
LARGEST = 64 << 20  # bytes of an answer; what gives more is something else
WHICH = "`posestream attach` tells its address as it starts, and --control HOST:PORT sets it"
OTHER = ("what answers there is no posestream, or not of this version", "give the address of its control API")
MOVED = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Seen:
    """What a run said of itself."""

    at_s: float  # monotonic
    run: RunNow
    streams: list[StreamNow]


class NoAnswerError(SourceError):
    """A run says nothing of itself: `reason` is why."""

    def __init__(self, url: str, reason: str, advice: str):
        super().__init__(f"{url}: {reason}; {advice}")
        self.reason = reason


class Client:
    """Asks a run; what it raises never holds the token or a password.

    Raises:
        ConfigError: the address can be none of a control API, or the token cannot be sent.
    """

    def __init__(self, url: str, token: str | None = None):
        self.url = _checked(url)
        if token and not (token.isascii() and token.isprintable()):
            raise ConfigError(
                f"the token ({TOKEN_VARIABLE}, --token) holds a line break or something else that no request "
                "can bring"
            )
        self._token = token
        self._run, self._streams = TypeAdapter(RunNow), TypeAdapter(dict[str, list[StreamNow]])
        # Straight to it: neither a proxy of the environment nor another address shall see the token.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _StayHere)

    def look(self) -> Seen:
        """How it stands now.

        Raises:
            NoAnswerError: nobody answers, the token is refused, or what answers is something else.
        """
        run, streams = self._get("/stages"), self._get("/streams")
        try:
            told = self._streams.validate_json(streams)["streams"]
            return Seen(time.monotonic(), self._run.validate_json(run), told)
        except (ValidationError, KeyError):
            raise NoAnswerError(self.url, *OTHER) from None

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self.url + path)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(LARGEST))
        except urllib.error.HTTPError as error:
            with error:
                raise NoAnswerError(self.url, *self._refusal(error)) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise NoAnswerError(self.url, *_trouble(error)) from None

    def _refusal(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        if error.code == 401:
            said = "the token is refused" if self._token else "a token is asked for"
            return said, f"set {TOKEN_VARIABLE} to the one that `posestream attach` was started with"
        if error.code in MOVED:
            there = printable(redact(error.headers.get("Location", ""))).removesuffix("/stages")
            return f"it sends on to {there}", "give that address"
        if error.code == 404:
            return OTHER
        return f"it answers {error.code} {printable(error.reason)}", WHICH


class _StayHere(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _checked(url: str) -> str:
    given = url if "://" in url else f"http://{url}"
    shown = printable(redact(given).partition("?")[0].partition("#")[0])
    expected = f"expected http://HOST:PORT, as in http://{DEFAULT_ADDRESS}"
    try:
        parts = urlsplit(given)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        usable = False
    if "@" in given or "?" in given or "#" in given:
        raise ConfigError(
            f"{shown}: {expected}; it is asked without user, password and query, the token is in "
            f"{TOKEN_VARIABLE}"
        )
    if not usable or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(f"{shown} is no address of a control API; {expected}")
    return given.rstrip("/")


def _trouble(error: Exception) -> tuple[str, str]:
    """Why there is no answer, and what to do."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ConnectionRefusedError):
        return "nobody listens there", f"is it running? {WHICH}"
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s", WHICH
    if isinstance(reason, ConnectionError):
        return "it hung up without an answer", WHICH
    if isinstance(reason, http.client.HTTPException):
        return "what listens there speaks no HTTP", WHICH
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
    return f"cannot be reached: {printable(str(said))}", WHICH


def printable(text: str) -> str:
    """A text from elsewhere, which must not steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
