"""Against the original BlazePose: the last release of MediaPipe with its Python solution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from contests.contest import CORES, Contest, Side, count, decode_ms, model_ms, ours, shares
from contests.environment import peer_python, side_by_side
from engines.contracts.contract import load_contract
from operators.graphs.graph_files import load_graph

NAME = "mediapipe"
PEER = "mediapipe==0.10.21"
GRAPH, DETECTOR, LANDMARKS = "human-lite", "blazepose-detector", "blazepose-full"
PROGRAM = "mediapipe_video.py"
IN_TURN = {1: 1.7, 4: 2.0}  # streams: target
SIDE_BY_SIDE = {4: 1.25}


def mediapipe_python() -> Path:
    """The interpreter of an environment with MediaPipe."""
    return peer_python(PEER.replace("==", "-"), PEER)


def contest(clips: Sequence[Path], loops: int) -> Contest:
    """Both track one person in each clip, and look for a new one by their own rules."""
    python, streams = mediapipe_python(), len(clips)
    graph = load_graph(GRAPH, {"pose.max_instances": 1, "decode.loop": loops})
    every = graph.node("detect").options["every"]
    sides = [
        ours(graph, clips),
        Side(
            "mediapipe",
            "as shipped: clip after clip, 1 process, threads as its graph chooses",
            partial(side_by_side, python, PROGRAM, [[loops, *clips]]),
            IN_TURN.get(streams),
        ),
    ]
    if (processes := min(streams, CORES)) > 1:
        runs = [[loops, *share] for share in shares(clips, processes)]
        sides.append(
            Side(
                "mediapipe side by side",
                f"its best: {count(processes, 'process')} that divide the clips, threads as above",
                partial(side_by_side, python, PROGRAM, runs),
                SIDE_BY_SIDE.get(streams),
            )
        )

    def alone() -> dict[str, float]:
        return {
            "decode": decode_ms(graph, clips),
            "detector": model_ms(load_contract(DETECTOR)),
            "landmarks": model_ms(load_contract(LANDMARKS)),
        }

    return Contest(
        NAME, sides, alone, lambda persons: {"decode": 1, "detector": 1 / every, "landmarks": persons},
        notes=[f"both track one person a clip; ours also looks for others on every {every}th frame"],
    )  # fmt: skip
