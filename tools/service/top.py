"""`posestream top`: a live view of a run, drawn from its control API."""

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
from tools.service.top_client import Answer, Client, NoAnswerError
from tools.service.top_view import Picture

REDRAW_S = 0.25


def top(
    url: Annotated[str, typer.Argument(help="Where the control API is.")] = f"http://{DEFAULT_ADDRESS}",
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How often the run is asked.")
    ] = 1.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and exit; needs no terminal.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="The token of the API. Others on this machine can see it on the command line.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch a run at work: what its stages and streams do, and which stage sets the pace.

    It asks the control API of `posestream attach`. Rates, shares and durations are those of the last 10 s.
    q and Ctrl-C end the view with exit code 0; the run goes on. When the run ends or cannot be reached, the
    view says so, keeps the last picture and goes on trying: a run that is started again shows up by itself.
    If nothing answers at the start, it ends with exit code 2.

    Examples:
    `posestream top`

    `posestream top 192.168.1.30:8787 --interval 5`

    `posestream top --once`
    """  # fmt: skip
    client, console = Client(url, token), Console(highlight=False)
    if not once and not console.is_terminal:
        raise ConfigError("top needs a terminal, and this is not one; --once prints one picture anywhere")
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is a normal way to end the view
        answer = client.ask()
        if once:
            console.print(Picture(answer, client.url))
        else:
            _show(_Poller(client, answer, interval), console)


class _Poller:
    """Asks at intervals, in a thread of its own, so that keys work while an answer is slow."""

    def __init__(self, client: Client, answer: Answer, interval_s: float):
        self.client, self.answer = client, answer
        self.trouble: str | None = None  # why there is no newer answer
        self._interval_s = interval_s
        self._ended = threading.Event()

    def __enter__(self) -> _Poller:
        threading.Thread(target=self._ask, name="top", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _ask(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self.answer, self.trouble = self.client.ask(), None
            except NoAnswerError as error:
                self.trouble = error.reason


def _show(poller: _Poller, console: Console) -> None:
    live = Live(console=console, screen=True, auto_refresh=False)
    drawn: object = None
    with poller, _sigterm_as_ctrl_c(), _keys() as key, live:
        while key(REDRAW_S) not in ("q", "Q"):
            answer, trouble, size = poller.answer, poller.trouble, console.size
            away_s = int(time.monotonic() - answer.at_s) if trouble else 0
            if (answer.at_s, trouble, size, away_s) != drawn:  # drawing is the most expensive part
                live.update(
                    Picture(answer, poller.client.url, trouble=trouble, height=size.height), refresh=True
                )
                drawn = answer.at_s, trouble, size, away_s


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that the terminal is restored."""
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
    """Yield a function that waits up to so many seconds for a key; without a keyboard it only waits."""
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
