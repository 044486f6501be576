"""The registry of model families."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from engines.codecs.base import Codec

# One line a family: its file in this folder, and its class.
FAMILIES = (
    "blazepose_detector:BlazePoseDetectorCodec",
    "blazepose_landmarks:BlazePoseLandmarksCodec",
    "heatmap:HeatmapCodec",
    "rtmdet:RtmdetCodec",
    "simcc:SimccCodec",
    "yolo:YoloCodec",
    "yolo_pose:YoloPoseCodec",
    "yolox:YoloxCodec",
)


def _codec_class(family: str) -> type[Codec]:
    module, _, name = family.partition(":")
    codec: type[Codec] = getattr(importlib.import_module(f"engines.codecs.{module}"), name)
    return codec


CODECS = tuple(_codec_class(family) for family in FAMILIES)

# The type of `Contract.codec`: pydantic chooses the class by `kind`. Type checkers cannot follow a union that
# is computed, so they see the base class.
if TYPE_CHECKING:
    AnyCodec = Codec
else:
    AnyCodec = Annotated[Union[CODECS], Field(discriminator="kind")]  # noqa: UP007  # | takes no tuple


def kinds_of(*bases: type) -> list[str]:
    """The kinds of all families whose codec derives from one of these classes, sorted."""
    return sorted(codec.kind_name() for codec in CODECS if issubclass(codec, bases))
