"""Estimate keypoints several times, by several models or looks at an instance, and make them one pose."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

from pydantic import Field

from engines.estimators.ensemble import Ensemble, Look
from engines.estimators.topdown import CODECS, TopDown
from engines.loading.load import load_engine
from operators.estimation.model_options import Device, RunsOn, Threads, contract_for, count_halved, model_for
from operators.estimation.top_down_poses import BoxedPoses
from pipeline.errors import OptionError
from pipeline.operator import Operator, Ports, RunInfo
from pipeline.packet import Packet

LOOKS_MAX = 8
AUGMENTATIONS = ("flip", "rotations", "scales")

Models = Annotated[list[str], Field(min_length=1, description="top-down pose models of one skeleton")]
Flip = Annotated[bool, Field(description="look at the mirrored crop too")]
Angle = Annotated[float, Field(gt=0, le=90)]
Rotations = Annotated[
    tuple[Angle, ...], Field(description="degrees; look at crops turned by each, to both sides")
]
Scale = Annotated[float, Field(ge=0.5, le=2)]
Scales = Annotated[tuple[Scale, ...], Field(description="look at crops of so many times the size")]
Deviation = Annotated[
    float,
    Field(gt=0, description="an outlier is further from the rest, in COCO's deviations"),
]
MaxInstances = Annotated[int | None, Field(ge=1, description="a frame: the best by their boxes' scores")]


class Fuse(Operator):
    """Run several pose models, or one on augmented crops, on every instance, and fuse what they give.

    needs     image   uint8   (H, W, 3) RGB
              boxes   float32 (N, 4)  x0, y0, x1, y1 in px of the frame
              scores  float32 (N,)    for `max_instances`
    provides  keypoints        float32 (N, K, 2)  px of the frame; NaN where no model gave one
              keypoint_scores  float32 (N, K)     mean of the models' own, an outlier's counting as 0

    Each model takes the plain crop and, one at a time, the augmented ones: at most 8 in all. A keypoint is
    the mean of all that found it, by their scores, without those far from the rest (`ensemble.fuse`).
    """

    needs = ("image", "boxes")
    provides = ("keypoints", "keypoint_scores")
    batch_max = 4

    def __init__(
        self,
        models: Models,
        flip: Flip = False,
        rotations: Rotations = (),
        scales: Scales = (),
        max_deviation: Deviation = 1.0,
        max_instances: MaxInstances = None,
        backend: RunsOn = "auto",
        threads: Threads = None,
        device: Device = None,
    ):
        self.models, self.looks, self.max_deviation = models, looks(flip, rotations, scales), max_deviation
        self.max_instances = max_instances
        self.backend, self.threads, self.device = backend, threads, device

    @classmethod
    def ports(cls, options: dict[str, Any]) -> Ports:
        """Check that the models fit each other.

        Raises:
            OptionError: a model is unknown or not top-down, skeletons differ, or there is nothing to fuse, or
                more than 8 looks.
        """
        skeletons: dict[str | None, str] = {}
        for model in options["models"]:
            contract = contract_for("pose", model, option="models")
            if contract.codec.kind not in CODECS:
                raise OptionError(
                    "models", f"{model} looks where its last pose says; expected top-down models"
                )
            skeletons[contract.skeleton] = model
        if len(skeletons) > 1:
            found = ", ".join(f"{model} gives {skeleton}" for skeleton, model in skeletons.items())
            raise OptionError("models", f"{found}; expected models of one skeleton")
        count = len(looks(**{name: options[name] for name in AUGMENTATIONS if name in options}))
        if count > LOOKS_MAX:
            raise OptionError(
                "rotations", f"{count} looks at every instance, at most {LOOKS_MAX}; name fewer"
            )
        if count * len(options["models"]) == 1:
            raise OptionError("models", "one pose needs no fusing; name several, set flip, or use op: pose")
        needs = {*cls.needs, "scores"} if options.get("max_instances") else {*cls.needs}
        return Ports(frozenset(needs), frozenset(cls.provides))

    def open(self, run: RunInfo) -> None:
        """Load the models."""
        threads = self.threads or run.cores
        found = [model_for("pose", model, option="models") for model in self.models]
        models = [
            TopDown(
                contract,
                load_engine(contract, threads=threads, path=path, backend=self.backend, device=self.device),
            )
            for contract, path in found
        ]
        self.poses = BoxedPoses(Ensemble(models, self.looks, self.max_deviation), self.max_instances)

    def process(self, packets: list[Packet]) -> list[Packet]:
        """Find the poses of a batch."""
        results = self.poses.process(packets)
        count_halved(self, self.poses.estimator.halved)
        return results

    def close(self) -> None:
        """Free the models' memory."""
        if poses := self.__dict__.pop("poses", None):
            poses.close()


def looks(
    flip: bool = False, rotations: tuple[float, ...] = (), scales: tuple[float, ...] = ()
) -> list[Look]:
    """The plain look, then one for each augmentation."""
    turned = chain.from_iterable((Look(degrees=angle), Look(degrees=-angle)) for angle in rotations)
    return [
        Look(),
        *([Look(mirrored=True)] if flip else []),
        *turned,
        *(Look(scale=scale) for scale in scales),
    ]
