"""Descriptions in `configs/`: found by name, read and checked, with errors that say what would be right.

One's own lie in `HOME/FOLDER/NAME.yaml`, with HOME the folder of all that is kept on this machine.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engines.errors import ContractError
from engines.home import cache_home

# Beside the package, in a checkout as after installation.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

Described = TypeVar("Described", bound=BaseModel)


def available(folder: str) -> list[str]:
    """The names of all descriptions in a folder of `configs/`, and of one's own, sorted."""
    return sorted({path.stem for place in _places(folder) for path in place.glob("*.yaml")})


def read_config(kind: type[Described], folder: str, name: str) -> Described:
    """The description `configs/FOLDER/NAME.yaml`, or one's own.

    Raises:
        ContractError: there is none (with the nearest name), or it is invalid (with field and reason), or
            one's own has the name of a ready one.
    """
    path = find_config(folder, name)
    return check_config(kind, _read(path), path.name)


def read_names(folder: str, name: str) -> list[str]:
    """The list of names `configs/FOLDER/NAME.yaml`.

    Raises:
        ContractError: there is none (with the nearest name), or it holds something else.
    """
    path = find_config(folder, name)
    names = _read(path)
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise ContractError(f"{path.name}: expected a list of names, found {type(names).__name__}")
    return names


def find_config(folder: str, name: str) -> Path:
    """The file of a description.

    Raises:
        ContractError: there is none (with the nearest name), or there are two.
    """
    names = available(folder)
    if name not in names:
        raise ContractError(f"no {folder.removesuffix('s')} {name!r}; {nearest(name, names)}")
    found = [path for place in _places(folder) if (path := place / f"{name}.yaml").is_file()]
    if len(found) > 1:
        raise ContractError(f"{found[1]} has the name of a ready {folder.removesuffix('s')}; rename it")
    return found[0]


def check_config(kind: type[Described], data: Any, where: str) -> Described:
    """Validate a description that was read from `where`.

    Raises:
        ContractError: with the first field that is wrong, and why.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        found = f", found {first['input']!r}" if field else ""
        raise ContractError(f"{where}: {field + ': ' if field else ''}{reason}{found}") from None


def nearest(name: str, names: list[str]) -> str:
    """A hint for a message: the name most like `name`, or the whole list."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}"


def _places(folder: str) -> list[Path]:
    return [CONFIGS / folder, cache_home() / folder]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from None
