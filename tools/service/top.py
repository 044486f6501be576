"""`posestream top`: a live view of a run, by its control API."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from pipeline.errors import ConfigError
from tools.service.address import DEFAULT_ADDRESS, TOKEN_VARIABLE
from tools.service.top_client import Client, NoAnswerError, Seen
from tools.service.top_view import Picture

REDRAW_S = 0.25


def top(
    url: Annotated[str, typer.Argument(help="Where the control API is.")] = f"http://{DEFAULT_ADDRESS}",
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How often the run is asked.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and end; needs no terminal.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="The token of the API. On the command line others on this machine can see it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch a run at work: what its stages and streams do, and which stage sets the pace.

    It asks the control API of `posestream attach`. Rates, shares and durations are those of the last 10 s.
    q and Ctrl-C end the view, not the run, with exit code 0. When the run ends or cannot be reached for a
    while, the view says so, keeps what it saw last and goes on trying: a run that is started again shows up
    by itself. Where nothing answers at first, it ends with exit code 2.

    Examples:
    `posestream top`

    `posestream top 192.168.1.30:8787 --interval 5`

    `posestream top --once`
    """  # fmt: skip
    client, console = Client(url, token), Console(highlight=False)
    if not once and not console.is_terminal:
        raise ConfigError("top draws on a terminal, and this is none; --once prints one picture anywhere")
    with contextlib.suppress(KeyboardInterrupt):  # a way to end it
        seen = client.look()
        if once:
            console.print(Picture(seen, client.url))
        else:
            _watch(_Asking(client, seen, interval), console)


class _Asking:
    """Asks again and again, in a thread of its own: a slow answer holds up no key."""

    def __init__(self, client: Client, seen: Seen, interval_s: float):
        self.client, self.seen = client, seen
        self.trouble: str | None = None  # why there is nothing newer
        self._interval_s = interval_s
        self._ended = threading.Event()

    def __enter__(self) -> _Asking:
        threading.Thread(target=self._ask, name="top", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self.seen, self.trouble = self.client.look(), None
            except NoAnswerError as error:
                self.trouble = error.reason


def _watch(asking: _Asking, console: Console) -> None:
    live = Live(console=console, screen=True, auto_refresh=False)
    drawn: object = None
    with asking, _sigterm_as_ctrl_c(), _keys() as key, live:
        while key(REDRAW_S) not in ("q", "Q"):
            seen, trouble, size = asking.seen, asking.trouble, console.size
            away_s = int(time.monotonic() - seen.at_s) if trouble else 0
            if (seen.at_s, trouble, size, away_s) != drawn:  # drawing takes more time than all else here
                live.update(
                    Picture(seen, asking.client.url, trouble=trouble, height=size.height), refresh=True
                )
                drawn = seen.at_s, trouble, size, away_s


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """So that the terminal is put in order again."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and gives it; without a keyboard it only waits."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def key(seconds: float) -> str:
        pressed, _, _ = select.select([keyboard], [], [], seconds)
        return os.read(keyboard, 1).decode(errors="replace") if pressed else ""

    tty.setcbreak(keyboard)
    try:
        yield key
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
