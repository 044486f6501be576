"""What a measurement leaves: a table in the terminal, and files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipeline.errors import ConfigError
from tools.profiling.compare import Comparison, compare, print_comparison
from tools.profiling.document import Profile
from tools.profiling.recording.stack_sampler import collapsed
from tools.profiling.sweep import Failed, as_json
from tools.profiling.table import print_profile, print_sweep


@dataclass(frozen=True)
class Output:
    """Where the results go besides the table; None: not written."""

    console: Console
    json: Path | None
    html: Path | None
    trace: Path | None
    flame: Path | None

    def check(self) -> None:
        """Refuse files that cannot be written, before time is spent on measuring.

        Raises:
            ConfigError: the folder of a file does not exist.
        """
        for file in (self.json, self.html, self.trace, self.flame):
            if file and not file.absolute().parent.is_dir():
                raise ConfigError(f"cannot write {file}: there is no folder {file.parent}")

    def write(self, profile: Profile, baseline: Profile | None, tolerance: float) -> Comparison | None:
        """Show and write one profile, and with a baseline what has changed since.

        Raises:
            ConfigError: a file cannot be written, or the two cannot be compared. What comes before is kept.
        """
        if self.json:
            _write(self.json, profile.model_dump_json(indent=1))
        if self.flame:
            _write(self.flame, collapsed(profile.stacks))
        print_profile(profile, self.console)
        comparison = compare(baseline, profile, tolerance) if baseline else None
        if comparison:
            print_comparison(comparison, self.console)
        self._write_html([profile], comparison)
        return comparison

    def write_sweep(self, results: Sequence[Profile | Failed]) -> None:
        """Show and write the points of a sweep, and why some of them failed.

        Raises:
            ConfigError: a file cannot be written.
        """
        if self.json:
            _write(self.json, as_json(results))
        profiles = [result for result in results if not isinstance(result, Failed)]
        if profiles:
            print_sweep(profiles, self.console)
        for result in results:
            if isinstance(result, Failed):
                point = " ".join(f"{name}={value}" for name, value in result.swept.items())
                failure = f"{point} failed: {result.error}"
                self.console.print(failure, style="red", markup=False, highlight=False, soft_wrap=True)
        if profiles:
            self._write_html(profiles)

    def _write_html(self, profiles: Sequence[Profile], comparison: Comparison | None = None) -> None:
        if self.html:
            from tools.profiling.report.page import write_html  # Jinja2 takes a tenth of a second to load

            write_html(profiles, self.html, comparison)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
