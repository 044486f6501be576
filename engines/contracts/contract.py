"""The contract of a model: the one description of the numbers it was trained with.

A checkpoint means nothing without them, so they travel with it. `configs/models/NAME.yaml` holds one
contract. Nothing else in the project may say how large a model's input is or how its output is read.
"""

from __future__ import annotations

import functools
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engines.codecs.base import Codec, ExpectedOutput, ModelSizes
from engines.codecs.registry import AnyCodec, kinds_of
from engines.contracts.config_files import available, read_config, read_names
from engines.contracts.shapes import describe_shape, shapes_agree
from engines.contracts.skeletons import load_skeleton
from engines.errors import ContractError
from engines.images.model_input import Input

SHA256_DIGITS = 64

WantedCodec = TypeVar("WantedCodec", bound=Codec)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSource(_Strict):
    """A file by its URL (`https://…`) or its path on this machine."""

    kind: Literal["file"] = "file"
    url: str


class ArchiveSource(_Strict):
    """A member of a zip or tar archive; a member name without folders matches in any folder."""

    kind: Literal["archive"] = "archive"
    url: str
    member: str


class WheelSource(_Strict):
    """A file inside a wheel on the Python package index, as the installed pip is configured to reach it."""

    kind: Literal["wheel"] = "wheel"
    requirement: str = Field(description="with an exact version: mediapipe==0.10.21")
    member: str
    platform: str | None = Field(None, description="pip's --platform, where wheels differ by platform")
    python_version: str | None = Field(None, description="pip's --python-version, likewise")


Source = Annotated[FileSource | ArchiveSource | WheelSource, Field(discriminator="kind")]


class Asset(_Strict):
    """A file that is fetched once, verified and kept: weights or a sample clip."""

    filename: str = Field(description="its name in the cache and on a mirror")
    sha256: str | None = Field(
        pattern=r"^([0-9a-f]{64}|[0-9a-f]{8})$",
        description="all 64 digits; or the first eight where the publisher states only those; or null where "
        "it states none: then the file is never fetched, only imported",
    )
    sha256_from: Literal["official", "copy"] = Field(
        "official",
        description="copy: pinned to a copy at hand, since no official source states the checksum",
    )
    bytes: int | None = Field(None, gt=0, description="if known")
    sources: list[Source] = Field(min_length=1, description="tried in this order, after the mirror")

    @property
    def in_full(self) -> bool:
        """Whether all digits of the checksum are known."""
        return self.sha256 is not None and len(self.sha256) == SHA256_DIGITS

    def has_checksum(self, sha256: str) -> bool:
        """Whether a file with this SHA-256 can be the asset, by all digits that are known."""
        return self.sha256 is not None and sha256.startswith(self.sha256)


class Output(_Strict):
    """One output tensor; a size in `shape` that varies from run to run is -1."""

    name: str
    shape: tuple[int, ...]


class Tolerance(_Strict):
    """How far the results of an exported or compiled engine may lie from the FP32 reference."""

    keypoint_px: float = Field(
        default=0.5, gt=0, description="95th percentile of keypoint shifts, px of the input"
    )
    box_px: float = Field(
        default=1.0, gt=0, description="95th percentile of box corner shifts, px of the input"
    )
    score: float = Field(default=0.02, gt=0, description="95th percentile of score changes")


class Contract(_Strict):
    """One model: its task, its input, how its outputs are read, and where its file comes from."""

    name: str
    title: str
    task: Literal["detect", "pose", "pose_onestage"]
    architecture: str = Field(
        description="the network's family; for a checkpoint, a file in engines/architectures"
    )
    variant: str | None = Field(None, description="its size, as the family names it: m, w32, 0.3b")
    input: Input
    outputs: dict[str, Output] = Field(description="role (as the codec calls it) to tensor")
    codec: AnyCodec
    labels: list[str] | None = Field(
        None, description="class names by index, of a detector; or the name of a list in configs/labels"
    )
    skeleton: str | None = Field(None, description="of a pose model: a file in configs/skeletons")
    keypoints_3d: bool = Field(False, description="whether a pose model also gives points in metres")
    tolerance: Tolerance = Tolerance()
    licence: str
    homepage: str
    asset: Asset

    @field_validator("labels", mode="before")
    @classmethod
    def _read_labels(cls, labels: object) -> object:
        return read_names("labels", labels) if isinstance(labels, str) else labels

    @model_validator(mode="after")
    def _check_contradictions(self) -> Contract:
        if found := self.contradiction():
            raise ValueError(found)
        return self

    def contradiction(self) -> str | None:
        """The first contradiction between two parts of the contract, with both values; None if all agrees.

        Raises:
            ContractError: there is no such skeleton.
        """
        if self.task != "detect" and self.skeleton is None:
            return f"{self.name}: a pose model needs a skeleton; name one in the contract"
        if found := self.codec.contradiction(self.sizes()):
            return f"{self.name}: {found}"
        for role, (shape, reason) in self.expected_outputs().items():
            output = self.outputs.get(role)
            if output is None:
                return (
                    f"{self.name}: codec {self.codec.kind!r} reads output {role!r}, outputs has only "
                    f"{sorted(self.outputs)}; add it"
                )
            if not shapes_agree(shape, output.shape):
                return (
                    f"{self.name}: output {output.name!r} is {describe_shape(output.shape)}, but {reason} "
                    f"make {describe_shape(shape)}; correct the one that is wrong"
                )
        return None

    def expected_outputs(self) -> dict[str, ExpectedOutput]:
        """By role: the shape that follows from input, codec, skeleton and labels, and what it follows from.

        Raises:
            ContractError: there is no such skeleton.
        """
        return self.codec.expected_outputs(self.sizes())

    def sizes(self) -> ModelSizes:
        """The sizes that a codec needs from the rest of the contract.

        Raises:
            ContractError: there is no such skeleton.
        """
        keypoints = len(load_skeleton(self.skeleton).keypoints) if self.skeleton else 0
        return ModelSizes(self.input.size, len(self.labels or ()), keypoints, self.skeleton)

    def codec_as(self, wanted: type[WantedCodec], purpose: str) -> WantedCodec:
        """The codec, which must derive from `wanted`.

        Args:
            wanted: a class in `engines.codecs.base`, or that of one family.
            purpose: for the message, what the wanted codecs do: "detect".

        Raises:
            ContractError: it does not derive from `wanted`; with the kinds that do.
        """
        if isinstance(self.codec, wanted):
            return self.codec
        raise ContractError(
            f"{self.name}: codec {self.codec.kind!r} does not {purpose}; "
            f"choose a model whose codec is one of {kinds_of(wanted)}"
        )


def available_models() -> list[str]:
    """The names of all models that have a contract, the user's own included, sorted."""
    return available("models")


@functools.cache
def load_contract(name: str) -> Contract:
    """The contract `configs/models/NAME.yaml`, or the user's own, `HOME/models/NAME.yaml`.

    Raises:
        ContractError: no such model (with the nearest name), or an invalid contract (with field and reason).
    """
    return read_config(Contract, "models", name)
