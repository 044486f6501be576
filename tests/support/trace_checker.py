"""Check a file against Google's Trace Event Format, more strictly than its viewers do."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Event = dict[str, Any]
REQUIRED = {
    "X": {"name", "cat", "ts", "dur"}, "B": {"name", "ts"}, "E": {"ts"}, "M": {"name", "args"},
    "b": {"name", "cat", "id", "ts"}, "e": {"name", "cat", "id", "ts"}, "C": {"name", "ts", "args"},
    "s": {"name", "cat", "id", "ts"}, "t": {"name", "cat", "id", "ts"}, "f": {"name", "cat", "id", "ts"},
}  # fmt: skip
META = {
    "process_name": "name",
    "thread_name": "name",
    "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}


class TraceError(Exception):
    """An event that violates the format."""


class Trace:
    """A trace that has been read and checked."""

    def __init__(self, path: Path):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        self.events: list[Event] = json.loads(raw)["traceEvents"]
        for event in self.events:
            _check_event(event)
        self.processes, self.lanes = self._named()
        self.spans = self._nested()
        self.flows = self._flows()
        self.frames = self._paired()

    def of(self, phase: str) -> list[Event]:
        return [event for event in self.events if event["ph"] == phase]

    def lane(self, event: Event) -> str:
        """The name of an event's lane."""
        return self.lanes[event["pid"], event["tid"]]

    def _named(self) -> tuple[dict[int, str], dict[tuple[int, int], str]]:
        processes, lanes = {}, {}
        for event in self.of("M"):
            if event["name"] == "process_name":
                processes[event["pid"]] = event["args"]["name"]
            elif event["name"] == "thread_name":
                lanes[event["pid"], event["tid"]] = event["args"]["name"]
        for event in self.events:
            if event["pid"] not in processes:
                raise TraceError(f"process {event['pid']} has no name: {event}")
            if event["ph"] not in "MC" and (event["pid"], event["tid"]) not in lanes:
                raise TraceError(f"lane {event['tid']} of process {event['pid']} has no name: {event}")
        if len({tid for _, tid in lanes}) != len(lanes):  # Perfetto would mix up their names
            raise TraceError(f"two lanes have one number: {lanes}")
        if len(set(processes.values())) != len(processes):
            raise TraceError(f"two processes have one name: {processes}")
        return processes, lanes

    def _nested(self) -> dict[tuple[int, int], list[tuple[int, int, Event]]]:
        """The spans of each lane, (begin, end, event) in ns, in order of begin, outer spans first."""
        spans: dict[tuple[int, int], list[tuple[int, int, Event]]] = defaultdict(list)
        begun: dict[tuple[int, int], list[Event]] = defaultdict(list)
        for event in sorted(self.events, key=lambda event: event.get("ts", 0)):
            lane = event["pid"], event["tid"]
            if event["ph"] == "X":
                spans[lane].append((_ns(event["ts"]), _ns(event["ts"]) + _ns(event["dur"]), event))
            elif event["ph"] == "B":
                begun[lane].append(event)
            elif event["ph"] == "E":
                if not begun[lane]:
                    raise TraceError(f"E without B: {event}")
                start = begun[lane].pop()
                spans[lane].append((_ns(start["ts"]), _ns(event["ts"]), start))
        if any(begun.values()):
            raise TraceError(f"B without E: {[events for events in begun.values() if events]}")
        for lane in spans.values():
            lane.sort(key=lambda span: (span[0], -span[1]))
            around: list[tuple[int, int, Event]] = []
            for span in lane:
                while around and around[-1][1] <= span[0]:
                    around.pop()
                if around and span[1] > around[-1][1]:
                    raise TraceError(f"two spans of a lane overlap: {around[-1]} and {span}")
                around.append(span)
        return spans

    def _flows(self) -> dict[Any, list[tuple[Event, Event]]]:
        """The steps of each arrow: the event, and the span to which it binds."""
        steps: dict[Any, list[Event]] = defaultdict(list)
        for event in self.events:
            if event["ph"] in "stf":
                steps[event["cat"], event["name"], event["id"]].append(event)
        flows = {}
        for key, events in steps.items():
            events.sort(key=lambda event: event["ts"])
            phases = "".join(event["ph"] for event in events)
            if len(phases) < 2 or phases != "s" + "t" * (len(phases) - 2) + "f":
                raise TraceError(f"flow {key} goes {phases}, expected one s, any t, one f")
            if events[-1].get("bp") != "e":
                raise TraceError(f"flow {key} ends at the next span, not at the one around it")
            flows[key] = [(event, self._around(event)) for event in events]
        return flows

    def _around(self, event: Event) -> Event:
        """The innermost span around an event."""
        at = _ns(event["ts"])
        found = [span for span in self.spans[event["pid"], event["tid"]] if span[0] <= at <= span[1]]
        if not found:
            raise TraceError(f"no span around {event}")
        return found[-1][2]

    def _paired(self) -> dict[Any, tuple[Event, Event]]:
        """The spans outside of lanes: (b, e)."""
        pairs: dict[Any, list[Event]] = defaultdict(list)
        for event in self.events:
            if event["ph"] in "be":
                pairs[event["pid"], event["cat"], event["id"]].append(event)
        for key, events in pairs.items():
            if [event["ph"] for event in events] != ["b", "e"] or events[0]["name"] != events[1]["name"]:
                raise TraceError(f"{key} is no pair of b and e: {events}")
            if events[1]["ts"] < events[0]["ts"]:
                raise TraceError(f"{key} ends before it begins: {events}")
        return {key: (begin, end) for key, (begin, end) in pairs.items()}


def _check_event(event: Event) -> None:
    phase = event.get("ph")
    if phase not in REQUIRED:
        raise TraceError(f"no such phase: {event}")
    if missing := REQUIRED[phase] - event.keys():
        raise TraceError(f"{missing} is missing: {event}")
    for key in ("pid", "tid"):
        if type(event.get(key)) is not int or event[key] < 0:
            raise TraceError(f"{key} is no whole number: {event}")
    for key in ("ts", "dur"):
        value = event.get(key, 0)
        if type(value) not in (int, float) or not 0 <= value < 1e15:
            raise TraceError(f"{key} is no time: {event}")
    for key in ("name", "cat"):
        if key in event and (type(event[key]) is not str or not event[key]):
            raise TraceError(f"{key} is no name: {event}")
    if phase == "M" and (event["name"] not in META or META[event["name"]] not in event["args"]):
        raise TraceError(f"unknown metadata: {event}")
    if phase == "C" and not all(type(value) in (int, float) for value in event["args"].values()):
        raise TraceError(f"a counter that is no number: {event}")
    if type(event.get("args", {})) is not dict:
        raise TraceError(f"args are no object: {event}")


def _ns(us: float) -> int:
    return round(us * 1000)
