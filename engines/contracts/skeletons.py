"""Skeletons: the K keypoints of an instance, described in `configs/skeletons`."""

from __future__ import annotations

import functools
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.contracts.config_files import available, read_config
from engines.errors import ContractError, nearest

Side = Literal["left", "right", "centre"]


class Skeleton(BaseModel):
    """K keypoints: their names, limbs, left/right pairs, and how exactly annotators place each (sigmas)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    keypoints: tuple[str, ...] = Field(min_length=1)
    pairs: tuple[tuple[str, str], ...] = Field(description="left and right, as the person or animal has them")
    limbs: tuple[tuple[str, str], ...]
    sigmas: tuple[float, ...] = Field(
        description="one a keypoint: its standard deviation in OKS, as a fraction of sqrt(area)"
    )
    subsets: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="by the name of another skeleton: the keypoints here that form it, in its order",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Skeleton:
        if len(set(self.keypoints)) < len(self.keypoints):
            raise ValueError("keypoints: a name occurs twice")
        if len(self.sigmas) != len(self.keypoints) or min(self.sigmas) <= 0:
            raise ValueError(
                f"sigmas: expected {len(self.keypoints)} positive numbers, found {len(self.sigmas)}"
            )
        mirrored = [name for pair in self.pairs for name in pair]
        if len(set(mirrored)) < len(mirrored):
            raise ValueError("pairs: a keypoint occurs in two")
        used = {"pairs": mirrored, "limbs": [name for limb in self.limbs for name in limb], **self.subsets}
        for where, names in used.items():
            for name in names:
                if name not in self.keypoints:
                    raise ValueError(
                        f"{where}: no keypoint {name!r}; {nearest(str(name), list(self.keypoints))}"
                    )
        return self

    @cached_property
    def limb_indices(self) -> np.ndarray:
        """(L, 2) int64: the two keypoints of each limb."""
        return np.array([[self.keypoints.index(name) for name in limb] for limb in self.limbs]).reshape(-1, 2)

    @cached_property
    def mirror(self) -> np.ndarray:
        """(K,) int64: the keypoint that each becomes when the image is mirrored; unpaired ones stay."""
        partner = dict(self.pairs) | {right: left for left, right in self.pairs}
        return np.array([self.keypoints.index(partner.get(name, name)) for name in self.keypoints])

    @cached_property
    def sides(self) -> tuple[Side, ...]:
        """The side of each keypoint."""
        side: dict[str, Side] = {}
        for left, right in self.pairs:
            side[left], side[right] = "left", "right"
        return tuple(side.get(name, "centre") for name in self.keypoints)

    def maps_onto(self, other: str) -> bool:
        """Whether this skeleton contains all keypoints of the other."""
        return other == self.name or other in self.subsets

    def indices_for(self, other: str) -> np.ndarray:
        """(K of the other,) int64: `keypoints[:, skeleton.indices_for("coco17")]` are keypoints of coco17.

        Raises:
            ContractError: this skeleton has no mapping onto the other.
        """
        if not self.maps_onto(other):
            known = ", ".join([self.name, *self.subsets])
            raise ContractError(f"skeleton {self.name} does not map onto {other!r}, only onto: {known}")
        names = self.subsets.get(other, self.keypoints)
        return np.array([self.keypoints.index(name) for name in names])


def available_skeletons() -> list[str]:
    """The names of all skeletons, sorted."""
    return available("skeletons")


@functools.cache
def load_skeleton(name: str) -> Skeleton:
    """The skeleton `configs/skeletons/NAME.yaml`.

    Raises:
        ContractError: no such skeleton (with the nearest name), or an invalid one (with the reason).
    """
    skeleton = read_config(Skeleton, "skeletons", name)
    for other, names in skeleton.subsets.items():
        expected = len(load_skeleton(other).keypoints)
        if len(names) != expected:
            raise ContractError(
                f"{name}.yaml: subsets.{other}: expected {expected} names, found {len(names)}"
            )
    return skeleton
