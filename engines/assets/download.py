"""Downloads over HTTP that continue where they were cut, with a bounded number of tries.

Proxies and certificates come from the environment (https_proxy, SSL_CERT_FILE, …).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from engines.errors import AssetError

Progress = Callable[[int, int | None], None]  # bytes done, bytes in all (None if the server does not say)

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before the second, third, … try
RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
RANGE_NOT_SATISFIABLE = 416

log = logging.getLogger("posestream.assets")


class _CutError(Exception):
    """The download did not finish, but another try may continue it."""


def download(url: str, part: Path, progress: Progress, pauses_s: Sequence[float] = PAUSES_S) -> None:
    """Download `url` into `part`; if an earlier download was cut, continue after the bytes that are there.

    Until it is complete, `PART.validator` lies beside it: the file's ETag or date, by which the server tells
    whether it still has the same file.

    Args:
        url: over HTTP.
        part: the file to write; it stays if the download fails, for a later call to continue.
        progress: called with the bytes done and in all.
        pauses_s: before each further try, in seconds.

    Raises:
        AssetError: the server cannot be reached or refuses, or every try was cut.
        OSError: `part` cannot be written.
    """
    for pause_s in pauses_s:
        try:
            return _continue(url, part, progress)
        except _CutError as cut:
            log.debug("%s: %s; trying again in %.1f s", url, cut, pause_s)
            time.sleep(pause_s)
    try:
        return _continue(url, part, progress)
    except _CutError as cut:
        raise AssetError(f"{cut}, {len(pauses_s) + 1} times in a row; try again later") from None


def _continue(url: str, part: Path, progress: Progress) -> None:
    """One try: ask for the bytes that `part` lacks and append them; start over if the server sends all."""
    validator = part.with_name(f"{part.name}.validator")
    done = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "posestream"}  # several hosts refuse urllib's own
    if done:
        headers["Range"] = f"bytes={done}-"
        if validator.is_file():
            headers["If-Range"] = validator.read_text(encoding="utf-8")
    with _open(Request(url, headers=headers), part) as response:
        start, total = _extent(response)
        if start not in (0, done):
            part.unlink()
            raise _CutError(f"the server sent bytes from {start} where {done} was asked for")
        with part.open("ab" if start else "wb") as file:
            if not start:
                validator.write_text(_validator(response), encoding="utf-8")
            done = start
            progress(done, total)
            while chunk := _read(response, done, total):
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    # http.client does not tell a cut connection from the end of the file, so compare with the length.
    if total is not None and done < total:
        raise _CutError(f"the connection was cut at {done} of {total} bytes")
    validator.unlink(missing_ok=True)


def _open(request: Request, part: Path) -> HTTPResponse:
    try:
        return urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and request.has_header("Range"):
            part.unlink()  # it is as long as, or longer than, the file that the server has now
            raise _CutError("the server has no more bytes than an earlier download left") from None
        answer = f"HTTP {error.code} {error.reason}"
        raise (_CutError(answer) if error.code in RETRIED_STATUS else AssetError(answer)) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if _may_pass(reason):
            raise _CutError(f"no answer: {reason}") from None
        raise AssetError(f"cannot be reached: {reason}") from None


def _may_pass(reason: object) -> bool:
    """Whether another try may help; with a wrong host name or without a network it would not."""
    if isinstance(reason, InvalidURL | ConnectionRefusedError):
        return False
    return isinstance(reason, TimeoutError | ConnectionError | HTTPException)


def _read(response: HTTPResponse, done: int, total: int | None) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)  # read() would lose the bytes that came before a cut
    except (OSError, HTTPException) as error:
        raise _CutError(f"the connection was cut at {done} of {total or '?'} bytes ({error})") from None


def _extent(response: HTTPResponse) -> tuple[int, int | None]:
    """(first byte that the server sends, bytes of the whole file if it says)."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match:
            return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _validator(response: HTTPResponse) -> str:
    etag = response.headers.get("ETag", "")
    # If-Range must not carry a weak ETag, which does not promise the same bytes (RFC 9110, 13.1.5).
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
