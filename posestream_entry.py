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
        own = HOME / name / "__init__.py"
        found = _location(name)
        if not found or found == str(own) or _same_file(found, own):
            continue  # a package that is missing altogether is reported by its own import
        other = found.removesuffix("__init__.py").rstrip("/\\")
        raise ImportError(
            f"posestream needs its own package {name} in {own.parent}, but Python "
            f"{'has already imported' if name in sys.modules else 'finds'} {other}; rename that, or keep its "
            "folder off Python's search path: python -P or PYTHONSAFEPATH=1 leaves out the folder of the "
            "script and the current one, and PYTHONPATH must not name it",
            name=name,
            path=found,
        )


def main() -> None:
    """Run the command `posestream`; if one of its packages is hidden by another, one line and exit code 2."""
    try:
        check_packages()
    except ImportError as error:
        sys.stderr.write(f"posestream: {error}\n")
        sys.exit(2)
    from tools.cli import main as run_command

    run_command()


def _location(name: str) -> str:
    """The file of the package that is imported, or that an import would find; a folder if it has no file."""
    module: Any = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), repr(module))
    spec = importlib.util.find_spec(name)
    return "" if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "")


def _same_file(one: str, other: Path) -> bool:
    """Whether both paths lead to one file, for example through a symbolic link."""
    return Path(one).exists() and other.exists() and other.samefile(one)
