"""The HTTP control API of a live run: sources, graph, figures and health. docs/service.md describes it."""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import ConfigError, RunError, SourceError
from pipeline.graph import Graph
from pipeline.packet import Event
from tools.graph.drawing import as_mermaid
from tools.service.address import DEFAULT_ADDRESS, TOKEN_VARIABLE
from tools.service.attached import Attached, NotOpenError, UnknownError
from tools.service.prometheus import make_registry, scrape

LOCAL_NAMES = ["localhost", "127.0.0.1", "::1", "[::1]"]
START_S = STOP_S = 5.0


class NewStream(BaseModel):
    """A source to attach."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^/\x00-\x1f]+$")]
    uri: Annotated[str, Field(min_length=1, max_length=4096)]


def make_app(attached: Attached, token: str | None = None, *, local: bool = True) -> FastAPI:
    """Make the API of a run.

    With a `token`, every request but /healthz must carry it. `local`: only this machine can reach the API.
    """
    app = FastAPI(title="posestream", docs_url=None, redoc_url=None)
    registry = make_registry(attached.run)

    @app.middleware("http")
    async def authorise(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if token and request.url.path != "/healthz" and not _holds(request, token):
            return JSONResponse(
                {"detail": "send the token: Authorization: Bearer …"}, 401, {"WWW-Authenticate": "Bearer"}
            )
        return await call_next(request)

    if local and not token:
        # Against DNS rebinding: a page whose name resolves to this machine could call the API from a browser.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES, www_redirect=False)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        # FastAPI's own answer would repeat the input, and a URI may hold a password.
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, 422)

    @app.get("/streams")
    def streams() -> dict[str, Any]:
        return {"streams": [asdict(stream) for stream in attached.streams()]}

    @app.post("/streams", status_code=201)
    def add(new: NewStream) -> dict[str, Any]:
        try:
            attached.add(new.name, new.uri)
        except NotOpenError as error:
            raise HTTPException(503, str(error)) from None
        except ConfigError as error:
            raise HTTPException(409, str(error)) from None
        except SourceError as error:
            raise HTTPException(422, str(error)) from None
        return asdict(next(stream for stream in attached.streams() if stream.source == new.name))

    @app.delete("/streams/{name}")
    def remove(name: str, response: Response) -> dict[str, Any]:
        try:
            ended = attached.remove(name)
        except UnknownError as error:
            raise HTTPException(404, str(error)) from None
        response.status_code = 200 if ended else 202
        return {"name": name, "ended": ended}

    @app.get("/streams/{name}/events")
    def events(name: str) -> dict[str, Any]:
        if name not in {known for stream in attached.streams() for known in (stream.name, stream.source)}:
            raise HTTPException(404, f"no stream named {name!r} has been attached")
        return {"events": [_event_as_json(event) for event in attached.events(name)]}

    @app.get("/stages")
    def stages() -> dict[str, Any]:
        return asdict(attached.stages())

    @app.get("/graph", response_model=None)
    def graph(format: Literal["json", "mermaid"] = "json") -> Response | dict[str, Any]:
        graph = attached.run.graph
        return PlainTextResponse(as_mermaid(graph)) if format == "mermaid" else _graph_as_json(graph)

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        body, content_type = scrape(registry, request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    @app.get("/healthz")
    def healthy() -> dict[str, Any]:
        return {"alive": True}

    @app.get("/readyz")
    def ready(response: Response) -> dict[str, Any]:
        problems = attached.problems()
        response.status_code = 503 if problems else 200
        lost = {stream.name: stream.reason for stream in attached.streams() if stream.state == "lost"}
        return {"ready": not problems, "problems": problems, "lost": lost}

    return app


def _holds(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _event_as_json(event: Event) -> dict[str, Any]:
    place = {"stream": event.stream, "event": event.kind, "at_ns": event.at_ns}
    return {**place, "resets": event.resets, **event.details}


def _graph_as_json(graph: Graph) -> dict[str, Any]:
    nodes = [
        {
            "name": node.name,
            "op": node.op,
            "after": node.after,
            "options": node.options,
            "needs": sorted(node.ports.needs),
            "provides": sorted(node.ports.provides),
        }
        for node in graph.nodes
    ]
    return {"name": graph.name, "description": graph.description, "nodes": nodes}


def listen(address: str, token: str | None) -> socket.socket:
    """Open a listening socket at HOST:PORT.

    Raises:
        ConfigError: this machine does not have the address, the port is taken, or others can reach it and
            there is no token.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--control {address}: expected HOST:PORT, as in {DEFAULT_ADDRESS}")
    try:
        family, _, _, _, found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(
            f"--control {address}: {host} is no address of this machine: {error.strerror}"
        ) from None
    if not token and not is_local(str(found[0])):
        raise ConfigError(
            f"--control {address}: anyone who can reach it could attach sources; set {TOKEN_VARIABLE} to a "
            "secret that callers must send, or listen at 127.0.0.1"
        )
    try:
        return socket.create_server(found[:2], family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigError(
            f"--control {address}: cannot listen: {reason}; give another HOST:PORT, or --no-control"
        ) from None


def is_local(address: str) -> bool:
    """Whether only this machine can reach this address."""
    return ipaddress.ip_address(address).is_loopback


class ControlServer:
    """Serves the API from a thread of its own while its `with` block runs."""

    def __init__(self, attached: Attached, listener: socket.socket, token: str | None):
        self._listener = listener
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # uvicorn would log every request. Callers get our errors in the answers.
        config = uvicorn.Config(
            make_app(attached, token, local=is_local(host)),
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="control", daemon=True
        )

    def __enter__(self) -> ControlServer:
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RunError(f"the control API at {self.url} did not start; run with --no-control")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_S)
        self._listener.close()
