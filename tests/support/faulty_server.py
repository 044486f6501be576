"""A web server on this machine that fails when a test tells it to."""

from __future__ import annotations

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class FaultyServer:
    """Serves `files` (path to content). Each request to a path takes the next of its `faults`, if any is left.

    A fault is an HTTP status (int), "cut" (send half of the body, then close the connection), "ignore_range",
    or an Event to wait for before sending the body. `requests` keeps the path and headers of each request.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str | threading.Event]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.etag = '"v1"'
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *args):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, dict(request.headers)))
        fault = self.faults[request.path].pop(0) if self.faults[request.path] else None
        body = self.files.get(request.path)
        if body is None or isinstance(fault, int):
            request.send_error(404 if body is None else fault)
            return
        requested_range = request.headers.get("Range")
        unchanged = request.headers.get("If-Range", self.etag) == self.etag
        start = (
            int(requested_range.removeprefix("bytes=").rstrip("-")) if requested_range and unchanged else 0
        )
        if fault == "ignore_range":
            start = 0
        if start >= len(body):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.send_header("ETag", self.etag)
        request.end_headers()
        if isinstance(fault, threading.Event):
            fault.wait(20)
        rest = body[start:]
        request.wfile.write(rest[: len(rest) // 2] if fault == "cut" else rest)
