"""The packet: one frame of one stream and everything known about it.

Packets and instances are never changed in place, since several stages may hold the same object at once.
`Packet.replace`, `Instances.replace` and `Instances.rows` make changed copies that share the arrays.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

# The fields with a fixed meaning: dtype, and the shape after the first axis (a name stands for any size).
FIELDS: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "boxes": (np.float32, (4,)),  # x0, y0, x1, y1 in px of the frame
    "scores": (np.float32, ()),  # of the detection, 0..1
    "labels": (np.object_, ()),  # class names, str
    "track_ids": (np.int64, ()),  # unique within a stream
    "rois": (np.float32, (5,)),  # rotated boxes: centre x, centre y, width, height in px, angle in rad
    "keypoints": (np.float32, ("K", 2)),  # px of the frame; NaN where the model gave none
    "keypoint_scores": (np.float32, ("K",)),  # as the model gives them
    "keypoints_3d": (np.float32, ("K", 3)),  # metres
    "embeddings": (np.float32, ("D",)),
}


class Instances:
    """The animals and persons of one frame: named arrays that share their first axis, one row an instance.

    A field that no operator has provided is absent: then `instances.get("track_ids")` is None, and
    `instances.track_ids` raises an error that lists the fields that exist.
    """

    __slots__ = ("_fields", "_rows", "skeleton")

    def __init__(self, *, skeleton: str | None = None, **fields: np.ndarray):
        """Keep `fields` (name=array) without copying; `skeleton` names the skeleton of the K keypoints."""
        self._fields = fields
        self.skeleton = skeleton
        self._rows = len(next(iter(fields.values()))) if fields else 0
        for name, array in fields.items():
            if len(array) != self._rows:
                sizes = {key: len(value) for key, value in fields.items()}
                raise ValueError(f"instances.{name} has {len(array)} rows, all fields must agree: {sizes}")

    @classmethod
    def empty(cls, *names: str) -> Instances:
        """No rows in the named fields, by default `boxes` and `scores`; unknown sizes become 0."""
        fields: dict[str, np.ndarray] = {}
        for name in names or ("boxes", "scores"):
            dtype, shape = FIELDS[name]
            fields[name] = np.empty((0, *(d if isinstance(d, int) else 0 for d in shape)), dtype)
        return cls(skeleton=None, **fields)

    def validate(self) -> Instances:
        """Check dtypes and shapes of all known fields; for data from files and Kafka, not for hot loops.

        Raises:
            ValueError: with the field, the expected shape and the shape found.
        """
        sizes: dict[str, int] = {}
        for name, array in self._fields.items():
            dtype, shape = FIELDS.get(name, (None, None))
            if dtype is None or shape is None:
                continue
            want = tuple(sizes.setdefault(d, n) if isinstance(d, str) else d
                         for d, n in zip(shape, array.shape[1:], strict=False))  # fmt: skip
            if array.shape[1:] != want or array.ndim != 1 + len(shape) or array.dtype != dtype:
                names = ", ".join(["N", *(str(d) for d in shape)])
                raise ValueError(
                    f"instances.{name} must be {np.dtype(dtype).name} ({names}) with {sizes}, "
                    f"found {array.dtype} {array.shape}"
                )
        return self

    def replace(self, *, skeleton: str | None = None, **fields: np.ndarray) -> Instances:
        """A copy with these fields added or replaced."""
        return Instances(skeleton=skeleton or self.skeleton, **{**self._fields, **fields})

    def without(self, *names: str) -> Instances:
        """A copy without these fields."""
        kept = {name: array for name, array in self._fields.items() if name not in names}
        return Instances(skeleton=self.skeleton, **kept)

    def rows(self, index: np.ndarray | slice | list[int]) -> Instances:
        """The rows that `index` selects (mask, indices or slice), in its order."""
        return Instances(skeleton=self.skeleton, **{name: a[index] for name, a in self._fields.items()})

    def __len__(self) -> int:
        """The number of rows, N."""
        return self._rows

    def __bool__(self) -> bool:
        return self._rows > 0

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The fields by name, in the order in which they were provided."""
        return dict(self._fields)

    def get(self, name: str) -> np.ndarray | None:
        """The field, or None if no operator has provided it."""
        return self._fields.get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __getitem__(self, name: str) -> np.ndarray:
        return self._fields[name]

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(
                f"no field {name!r} was provided; there are {sorted(self._fields)}"
            ) from None

    def __reduce__(self) -> Any:
        return (_instances, (self.skeleton, self._fields))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}{tuple(array.shape)}" for name, array in self._fields.items())
        return f"Instances({shapes})"


def _instances(skeleton: str | None, fields: dict[str, np.ndarray]) -> Instances:
    return Instances(skeleton=skeleton, **fields)


class Picture(Protocol):
    """A frame in the format of its decoder; operators that know the format may use it directly."""

    @property
    def rgb(self) -> np.ndarray:
        """The frame as RGB (H, W, 3) uint8; converted once."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Packet:
    """One frame of one stream.

    `instances` is None if no detector has run on this frame, and has 0 rows if a detector has found nothing:
    these are different results.
    """

    stream: str  # camera or file
    seq: int  # frame number in its stream, from 0; gaps are dropped frames
    pts_ns: int  # time on the stream's own clock
    captured_ns: int  # UNIX time of capture, or of entering the graph if the camera does not tell
    size: tuple[int, int]  # width, height in px
    picture: np.ndarray | Picture | None = None  # RGB (H, W, 3) uint8, or a decoder's format
    instances: Instances | None = None
    arrived_ns: int = 0  # UNIX time at which it entered the graph; 0: as captured_ns
    run: str = ""  # the run that captured it, if another one
    epoch: int = 0  # grows when state of the stream was lost; track ids of different epochs are unrelated
    moment_ns: int | None = None  # after `sync`: one UNIX time for the frames of all cameras

    @property
    def image(self) -> np.ndarray | None:
        """The frame, RGB (H, W, 3) uint8; the first access converts it, so access it only if you need it."""
        picture = self.picture
        return picture if picture is None or isinstance(picture, np.ndarray) else picture.rgb

    @property
    def entered_ns(self) -> int:
        """UNIX time at which it entered the graph, by this machine's clock; ages count from here."""
        return self.arrived_ns or self.captured_ns

    def replace(self, **changes: Any) -> Packet:
        """A copy with these attributes replaced."""
        # Takes a third of the time of dataclasses.replace; every stage calls it for every packet.
        return Packet(**{**{name: getattr(self, name) for name in Packet.__slots__}, **changes})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened to a stream, in its place between two packets; no edge ever drops it.

    Kinds, with their details: `lost` (the source gives no more frames: reason), `back` (it gives frames
    again: reason, away_s), `changed` (another size or codec from here on: before, after), `jumped` (the clock
    of the source: by_s), `moved` (this worker has taken over the stream from another one), `ended` (a stream
    of another run has ended: frames; without this event, the `End` that follows only means that this worker
    stops reading the stream).
    """

    stream: str
    kind: str
    at_ns: int  # UNIX time
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    resets: bool = (
        False  # frames before and after do not belong together: operators forget the stream's state
    )
    run: str = ""  # the run to which it happened, if another one


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The end of a stream; it travels through the graph after the last packet of the stream."""

    stream: str
    frames: int  # how many packets the source gave
    run: str = ""  # the run whose stream has ended, if another one


Item = Packet | Event | End
# What a worker finds in its inbox: the monotonic ns at which it was queued, and the item. A stage that joins
# several inputs finds a tuple with one packet of each.
Taken = tuple[int, Item | tuple[Packet, ...]]
