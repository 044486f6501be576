"""Descriptions in `configs/`: found by name, read and validated, with errors that name the correction.

The user's own descriptions lie in `HOME/FOLDER/NAME.yaml`; HOME is `engines.home.cache_home()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engines.errors import ContractError, nearest, one_line
from engines.home import cache_home

# The folder beside the package, both in a checkout and when installed.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

Described = TypeVar("Described", bound=BaseModel)


def available(folder: str) -> list[str]:
    """The names of all descriptions in a folder of `configs/` and of the user's own, sorted."""
    return sorted({path.stem for place in _places(folder) for path in place.glob("*.yaml")})


def read_config(kind: type[Described], folder: str, name: str) -> Described:
    """The description `configs/FOLDER/NAME.yaml`, or the user's own of that name.

    Raises:
        ContractError: there is none (with the nearest name), or it is invalid (with field and reason), or
            the user's own has the name of one in `configs/`.
    """
    path = find_config(folder, name)
    return check_config(kind, _read(path), path.name)


def read_names(folder: str, name: str) -> list[str]:
    """The list of names `configs/FOLDER/NAME.yaml`.

    Raises:
        ContractError: there is none (with the nearest name), or the file holds something else.
    """
    path = find_config(folder, name)
    names = _read(path)
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise ContractError(f"{path.name}: expected a list of names, found {type(names).__name__}")
    return names


def find_config(folder: str, name: str) -> Path:
    """The file of a description, in `configs/` or among the user's own.

    Raises:
        ContractError: there is none (with the nearest name), or both places have one.
    """
    names = available(folder)
    if name not in names:
        raise ContractError(f"no {folder.removesuffix('s')} {name!r}; {nearest(name, names)}")
    found = [path for place in _places(folder) if (path := place / f"{name}.yaml").is_file()]
    if len(found) > 1:
        raise ContractError(
            f"{found[1]} has the name of a {folder.removesuffix('s')} that posestream brings; rename it"
        )
    return found[0]


def check_config(kind: type[Described], data: Any, where: str) -> Described:
    """Validate a description that was read from `where`.

    Raises:
        ContractError: a field is wrong; with the first such field and the reason.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        found = f", found {first['input']!r}" if field else ""
        raise ContractError(f"{where}: {field + ': ' if field else ''}{reason}{found}") from None


def _places(folder: str) -> list[Path]:
    return [CONFIGS / folder, cache_home() / folder]


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{path.name}: cannot be read: {one_line(error)}") from None
