"""Descriptions in `configs/`: found by name, read and checked, with errors that say what would be right."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engines.errors import ContractError

# Beside the package, in a checkout as after installation.
CONFIGS = Path(__file__).resolve().parent.parent / "configs"

Described = TypeVar("Described", bound=BaseModel)


def available(folder: str) -> list[str]:
    """The names of all descriptions in a folder of `configs/`, sorted."""
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def read_config(kind: type[Described], folder: str, name: str) -> Described:
    """The description `configs/FOLDER/NAME.yaml`.

    Raises:
        ContractError: there is none (with the nearest name), or it is invalid (with field and reason).
    """
    names = available(folder)
    if name not in names:
        raise ContractError(f"no {folder.removesuffix('s')} {name!r}; {nearest(name, names)}")
    path = CONFIGS / folder / f"{name}.yaml"
    return check_config(kind, yaml.safe_load(path.read_text(encoding="utf-8")), path.name)


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
