"""Sample clips: short videos under a free licence, fetched like weights; in `configs/clips/NAME.yaml`."""

from __future__ import annotations

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.contract import CONFIGS, Asset, nearest
from engines.errors import ContractError


class Clip(BaseModel):
    """A sample video, with what one must know to show it to others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    title: str
    licence: str
    homepage: str
    asset: Asset


def available_clips() -> list[str]:
    """The names of all sample clips, sorted."""
    return sorted(path.stem for path in (CONFIGS / "clips").glob("*.yaml"))


def load_clip(name: str) -> Clip:
    """The clip `configs/clips/NAME.yaml`; its file is fetched with `engines.assets.fetch(clip.asset)`.

    Raises:
        ContractError: no such clip (with the nearest name), or an invalid file (with field and reason).
    """
    path = CONFIGS / "clips" / f"{name}.yaml"
    if not path.is_file():
        raise ContractError(f"no clip {name!r}; {nearest(name, available_clips())}")
    try:
        return Clip.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "clip"
        raise ContractError(f"{path.name}: {field}: {first['msg']}, found {first['input']!r}") from None
