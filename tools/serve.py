"""Keep a live run at work until it ends or a signal comes: control API, live view, log lines, a summary."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

import typer
from rich.console import Console

from pipeline.errors import SourceError
from tools.exit_codes import INTERRUPTED
from tools.run_report import Progress, log_summary, print_summary
from tools.service.address import TOKEN_VARIABLE
from tools.service.attached import Attached
from tools.signals import INTERRUPTION, stop_on_signals

log = logging.getLogger("posestream.attach")

TICK_S, SUMMARY_S = 0.5, 60.0
ABORT_S = 3.0  # after a second signal; a source that does not stop in that time is left behind


def serve(attached: Attached, control: str | None, *, quiet: bool = False) -> None:
    """Run until all sources have ended or a signal comes, with the control API at the address `control`.

    Raises:
        ConfigError: nothing can listen at this address.
        PosestreamError: the run failed.
        SourceError: all sources have ended, and none gave a frame.
        typer.Exit: with code 130, it was interrupted by Ctrl-C.
    """
    run, console = attached.run, Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if control:
            from tools.service.control import ControlServer, listen  # FastAPI takes long to load

            token = os.environ.get(TOKEN_VARIABLE) or None
            server = stack.enter_context(ControlServer(attached, listen(control, token), token))
            log.info("control API at %s", server.url)
        signals = stack.enter_context(stop_on_signals(run))
        view = stack.enter_context(Progress(console, shown=not quiet and console.is_terminal))
        attached.start()
        _follow(attached, signals, view, summaries=not quiet and not console.is_terminal)
    stats = run.stats()
    if not quiet and stats.finished:
        print_summary(stats, console)
    if run.failure:
        raise run.failure
    if signal.SIGINT in signals:
        console.print(INTERRUPTION, highlight=False)
        raise typer.Exit(INTERRUPTED)
    if not signals and not stats.finished:
        raise SourceError("all sources have ended and none gave a frame; the messages above say why")


def _follow(attached: Attached, signals: list[int], view: Progress, *, summaries: bool) -> None:
    """Wait for the end of the run, and meanwhile keep the view up to date and log a summary now and then."""
    summary_at = time.monotonic() + SUMMARY_S
    while not attached.run.wait(TICK_S):
        attached.sample()
        view.show_cameras(attached.streams)
        if summaries and time.monotonic() >= summary_at:
            summary_at += SUMMARY_S
            log.info("%s", log_summary(attached.streams()))
        if len(signals) > 1 and not attached.run.wait(ABORT_S):
            unfinished = ", ".join(attached.run.sources()) or "a stage"
            log.error("%s did not stop within %g s; ending without it", unfinished, ABORT_S)
            break
