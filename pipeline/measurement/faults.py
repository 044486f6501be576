"""Faults in the closed sum: packets that a stage swallowed, repeated, invented or reordered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline.measurement.ledger import Ledger

NAMED = 3  # faults in one line; the run table has all of them

Kind = Literal["swallowed", "repeated", "invented", "reordered"]

_FOUND: dict[Kind, str] = {
    "swallowed": "took {packets} of {stream} that it neither gave on nor dropped",
    "repeated": "gave {packets} of {stream} twice",
    "invented": "gave {packets} of {stream} more than it took",
    "reordered": "gave {packets} of {stream} after later ones",
}
_REMEDY: dict[Kind, str] = {
    "swallowed": "give every packet on or call self.drop(packet, reason); an operator that keeps packets for "
    "later calls says holds_packets = True",
    "repeated": "give every packet once",
    "invented": "give only packets that came in, with their stream and seq",
    "reordered": "keep the order of each stream; an operator that needs all packets of a stream says "
    "per_stream = True",
}


class Fault(NamedTuple):
    """Packets of one stream that one stage (or edge) has not accounted for."""

    stage: str
    stream: str  # "" for the streams that a run has forgotten
    kind: Kind
    packets: int

    @property
    def found(self) -> str:
        """What happened, in one line."""
        packets = f"{self.packets} packet{'' if self.packets == 1 else 's'}"
        found = _FOUND[self.kind].format(packets=packets, stream=self.stream or "forgotten streams")
        return f"{self.stage} {found}"

    @property
    def remedy(self) -> str:
        """What the operator must do instead."""
        return _REMEDY[self.kind]


def name_some(faults: Sequence[Fault]) -> str:
    """The first faults in one line, and how many more there are."""
    named = [fault.found for fault in faults[:NAMED]]
    if more := len(faults) - len(named):
        named.append(f"and {more} more fault{'' if more == 1 else 's'}")
    return ", ".join(named)


def faults_of(places: Mapping[str, Ledger], producers: Mapping[str, Iterable[str]]) -> list[Fault]:
    """The faults at these places (stages and edges, by name).

    Packets that one stage repeats or reorders reach the stages after it in the same order. So only what a
    place adds to the disorder of its producers is its own fault.
    """
    faults: list[Fault] = []
    for place, ledger in places.items():
        before = [places[name] for name in producers.get(place, ()) if name in places]
        repeated = _own(ledger.repeated, [one.repeated for one in before])
        reordered = _own(ledger.reordered, [one.reordered for one in before])
        balance = ledger.balance()
        balance.subtract(ledger.repeated - repeated)  # these came in repeated
        found: dict[Kind, Counter[str]] = {
            "swallowed": +balance, "invented": -balance, "repeated": repeated, "reordered": reordered
        }  # fmt: skip
        for kind, packets in found.items():
            faults += [Fault(place, stream, kind, n) for stream, n in sorted(packets.items())]
    return faults


def _own(found: Counter[str], before: list[Counter[str]]) -> Counter[str]:
    came_in: Counter[str] = Counter()
    for one in before:
        came_in |= one
    return found - came_in
