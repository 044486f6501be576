"""The first step of `import posestream` and of the command `posestream`: are its packages the ones found?

The packages pipeline, engines, operators and tools have ordinary names. Python imports the first package of a
name that it finds on its search path, and a script's own folder comes before installed packages. So a package
`tools/` or a file `tools.py` beside a script would be imported in place of posestream's.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

HOME = Path(__file__).parent
# Not `configs`: it holds data, which is read by its path and never imported.
PACKAGES = ("pipeline", "engines", "operators", "tools")


def check_packages() -> None:
    """Check that each of posestream's packages is the one that Python has imported, or would import.

    Raises:
        ImportError: another package or file has that name and comes first; one line with both paths and the
            way out.
    """
    for name in PACKAGES:
        own, found = HOME / name, _location(name)
        if not found or found.parent == own or _same_folder(found.parent, own):
            continue  # a package that is missing altogether is reported by its own import
        other = found.parent if found.stem == "__init__" else found
        raise ImportError(
            f"posestream needs its own package {name} in {own}, but Python "
            f"{'has already imported' if name in sys.modules else 'finds'} {other}; rename that, or keep its "
            "folder off Python's search path: python -P or PYTHONSAFEPATH=1 leaves out the folder of the "
            "script and the current one, and PYTHONPATH must not name it",
            name=name,
            path=str(found),
        )


def main() -> None:
    """Run the command `posestream`; if one of its packages is hidden by another, one line and exit code 2."""
    try:
        check_packages()
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    from tools.cli import main as run_command

    run_command()


def _location(name: str) -> Path | None:
    """The file of the package that is imported, or that an import would find; a folder if it has no file."""
    module: Any = sys.modules.get(name)
    if module is not None:
        file, folders = getattr(module, "__file__", None), getattr(module, "__path__", ())
        return Path(file or next(iter(folders), repr(module)))
    spec = importlib.util.find_spec(name)
    place = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    return Path(place) if place else None


def _same_folder(one: Path, other: Path) -> bool:
    """Whether both paths lead to one folder, for example through a symbolic link."""
    return one.exists() and other.exists() and one.samefile(other)
