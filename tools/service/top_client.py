"""The client of `posestream top`: it asks the control API of a run, and explains why there is no answer."""

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
LARGEST_ANSWER = 64 << 20  # bytes; a control API never gives more
WHICH_ADDRESS = "`posestream attach` prints its address when it starts, and --control HOST:PORT sets it"
NOT_POSESTREAM = (
    "the server there is not posestream, or not this version of it",
    "give the address of its control API",
)
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Answer:
    """A run as its control API described it."""

    at_s: float  # monotonic time at which it came
    run: RunNow
    streams: list[StreamNow]


class NoAnswerError(SourceError):
    """The control API gave no usable answer; `reason` says why."""

    def __init__(self, url: str, reason: str, advice: str):
        super().__init__(f"{url}: {reason}; {advice}")
        self.reason = reason


class Client:
    """Asks the control API of a run. Its errors never contain the token or a password.

    Raises:
        ConfigError: the address cannot be that of a control API, or the token cannot be sent.
    """

    def __init__(self, url: str, token: str | None = None):
        self.url = _checked(url)
        if token and not (token.isascii() and token.isprintable()):
            raise ConfigError(
                f"the token ({TOKEN_VARIABLE}, --token) holds a line break or another character that "
                "cannot be sent"
            )
        self._token = token
        self._run, self._streams = TypeAdapter(RunNow), TypeAdapter(dict[str, list[StreamNow]])
        # No proxy of the environment and no redirect, since either would show the token to another server.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)

    def ask(self) -> Answer:
        """Ask how the run is doing now.

        Raises:
            NoAnswerError: nothing answers, the token is refused, or the server is not posestream.
        """
        run, streams = self._get("/stages"), self._get("/streams")
        try:
            listed = self._streams.validate_json(streams)["streams"]
            return Answer(time.monotonic(), self._run.validate_json(run), listed)
        except (ValidationError, KeyError):
            raise NoAnswerError(self.url, *NOT_POSESTREAM) from None

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self.url + path)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read(LARGEST_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise NoAnswerError(self.url, *self._refusal(error)) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise NoAnswerError(self.url, *_reason(error)) from None

    def _refusal(self, error: urllib.error.HTTPError) -> tuple[str, str]:
        if error.code == 401:
            reason = "the token is refused" if self._token else "a token is required"
            return reason, f"set {TOKEN_VARIABLE} to the one that `posestream attach` was started with"
        if error.code in REDIRECTS:
            target = printable(redact(error.headers.get("Location", ""))).removesuffix("/stages")
            return f"it redirects to {target}", "give that address"
        if error.code == 404:
            return NOT_POSESTREAM
        return f"it answers {error.code} {printable(error.reason)}", WHICH_ADDRESS


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _checked(url: str) -> str:
    given = url if "://" in url else f"http://{url}"
    shown = printable(redact(given).partition("?")[0].partition("#")[0])
    expected = f"expected http://HOST:PORT, as in http://{DEFAULT_ADDRESS}"
    try:
        parts = urlsplit(given)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if "@" in given or "?" in given or "#" in given:
        raise ConfigError(
            f"{shown}: {expected}, without user, password and query; {TOKEN_VARIABLE} holds the token"
        )
    if not usable or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(f"{shown} is not the address of a control API; {expected}")
    return given.rstrip("/")


def _reason(error: Exception) -> tuple[str, str]:
    """Return why there is no answer, and what to do."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ConnectionRefusedError):
        return "nothing listens there", f"is it running? {WHICH_ADDRESS}"
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT_S:.0f} s", WHICH_ADDRESS
    if isinstance(reason, ConnectionError):
        return "it closed the connection without an answer", WHICH_ADDRESS
    if isinstance(reason, http.client.HTTPException):
        return "the server there does not speak HTTP", WHICH_ADDRESS
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
    return f"cannot be reached: {printable(str(text))}", WHICH_ADDRESS


def printable(text: str) -> str:
    """Replace what is not printable: a text from elsewhere must not send codes to the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
