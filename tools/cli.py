"""The command `posestream`: its sub-commands, its log, and its exit codes."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from engines.errors import EngineError
from pipeline.errors import ConfigError, PosestreamError, SourceError
from tools import attach, demo, models, profile, run
from tools.engine import commands as engine
from tools.evaluate import commands as evaluate
from tools.exit_codes import BAD_INPUT, DONE, FAILED
from tools.graph import commands as graph
from tools.kafka import commands as kafka
from tools.service import top

app = typer.Typer(
    name="posestream",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Streaming video pipeline for pose: from cameras and files to tracked 2D and 3D keypoints.",
    epilog="Start with `posestream demo`, then `posestream run VIDEO`. Exit codes: 0 done, 1 the run failed, "
    "2 bad input or usage, 130 interrupted (what was read is finished and written).",
)
app.command("run")(run.run)
app.command("attach")(attach.attach)
app.command("profile")(profile.profile)
app.command("top")(top.top)
app.command("demo")(demo.demo)
app.add_typer(kafka.app, name="kafka")
app.add_typer(graph.app, name="graph")
app.add_typer(models.app, name="models")
app.add_typer(engine.app, name="engine")
app.add_typer(evaluate.app, name="evaluate")


@app.command("version")
def show_version() -> None:
    """Print the versions of posestream and of the libraries that it runs on."""
    names = ["posestream", "numpy", "av", "opencv-python-headless", "onnxruntime", "ai-edge-litert"]
    for name in names:
        try:
            typer.echo(f"{name} {version(name)}")
        except PackageNotFoundError:
            typer.echo(f"{name} (not installed as a package)")


@app.callback()
def _common(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log details, and errors in full.")
    ] = False,
) -> None:
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_time=verbose)],
    )
    logging.getLogger("posestream").setLevel(min(level, logging.INFO))


def exit_code(error: Exception) -> int:
    """The exit code of the process for an error."""
    return BAD_INPUT if isinstance(error, ConfigError | SourceError | EngineError) else FAILED


def main() -> None:
    """Run the command. Our own errors are printed as one line, without a traceback."""
    # So that op: module:Class finds the user's modules; at the end, so that they replace none of ours.
    sys.path.append(str(Path.cwd()))
    try:
        code = app(standalone_mode=True)
    except PosestreamError as error:
        Console(stderr=True, highlight=False).print(f"posestream: {error}", markup=False, soft_wrap=True)
        code = exit_code(error)
    except BrokenPipeError:  # posestream … | head
        sys.stderr.close()
        code = DONE
    sys.exit(code)


if __name__ == "__main__":
    main()
