"""Items/s of each model alone, by backend, threads and batch size.

    python benchmarks/models.py [MODEL …] [--threads 1,2] [--batch 1,4,16] [--backend NAME …] [--seconds 2]
                                [--json FILE]

Without MODEL it takes all models whose weights are on this machine; MODEL is a name, or an .onnx file that
posestream exported. It takes all backends that are installed and run the model's file. It measures as
`posestream engine bench` does, each line in a new process, because memory left over from the last one would
count. No pipeline can be faster than these figures; other tables quote them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any, NamedTuple

import harness

from engines.assets.model_files import find_model
from engines.assets.store import is_cached, locate
from engines.contracts.contract import available_models, load_contract
from engines.errors import AssetError, EngineError
from engines.loading.engine_choice import BACKENDS, engine_choices, runs_file
from engines.verification.bench import bench_model

COLUMNS = ("model", "input", "backend", "threads", "batch", "items/s", "p50 ms", "p99 ms", "MB", "GPU MB")


class Case(NamedTuple):
    """One line of the table."""

    model: str  # a name or a file
    backend: str
    threads: int
    batch: int
    seconds: float


def main() -> None:
    parser = harness.parser(__doc__ or "")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: all on this machine")
    parser.add_argument("--threads", type=numbers, default=sorted({1, os.cpu_count() or 1}),
                        help="default: 1 and all cores")  # fmt: skip
    parser.add_argument("--batch", type=numbers, default=[1, 4, 16], help="default: 1,4,16")
    parser.add_argument("--backend", choices=BACKENDS[1:], action="append", help="only this one; repeatable")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line; default: 2")
    given = parser.parse_args()
    models = given.models or [name for name in available_models() if is_cached(load_contract(name).asset)]
    if not models:
        sys.exit("no model is on this machine; fetch one: posestream models pull MODEL")
    cases = [
        Case(model, backend, threads, batch, given.seconds)
        for model in models
        for backend in backends(model)
        if given.backend is None or backend in given.backend
        for threads in given.threads
        for batch in given.batch
    ]
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        print(f"{number + 1} of {len(cases)}: {case.model}, {case.backend}, threads {case.threads}, "
              f"batch {case.batch}", file=sys.stderr, flush=True)  # fmt: skip
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            rows.append(process.submit(measure, case).result())
    harness.show(f"{given.seconds:g} s each", COLUMNS, [cells(row) for row in rows])
    harness.write(given.json, harness.result(rows, seconds=given.seconds))


def numbers(text: str) -> list[int]:
    """The numbers of a list like 1,4,16."""
    found = [int(word) for word in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers of at least 1, as in 1,4,16")
    return found


def backends(model: str) -> Iterator[str]:
    """The installed backends that run the model's file, fastest first; PyTorch for a checkpoint."""
    contract, path = find_model(model)
    try:
        yield from (choice.backend for choice in engine_choices(contract, path))
    except EngineError as error:  # for instance a checkpoint that was not exported
        print(error, file=sys.stderr)
    if path is None and find_spec("torch"):
        try:
            if runs_file("torch", locate(contract.asset)):
                yield "torch"
        except AssetError:
            return


def measure(case: Case) -> dict[str, Any]:
    """A row of the document; runs in a process of its own."""
    contract, path = find_model(case.model)
    row: dict[str, Any] = {
        "model": contract.name, "task": contract.task, "input": "x".join(map(str, contract.input.size)),
        "backend": case.backend, "threads": case.threads, "batch": case.batch,
    }  # fmt: skip
    try:
        bench = bench_model(
            contract,
            path=path,
            backend=case.backend,
            threads=case.threads,
            batches=[case.batch],
            seconds=case.seconds,
        )
    except EngineError as error:
        return row | {"failed": str(error)}
    return row | {"file": bench.file, "load_s": bench.load_s} | vars(bench.rows[0])


def cells(row: dict[str, Any]) -> list[str]:
    """The row of the table."""
    first = [str(row[name]) for name in ("model", "input", "backend", "threads", "batch")]
    if "failed" in row:
        return [*first, row["failed"], "", "", "", ""]
    memory = ["" if row[name] is None else f"{row[name]:.0f}" for name in ("memory_mb", "gpu_mb")]
    return [*first, *(f"{row[name]:.1f}" for name in ("items_per_s", "p50_ms", "p99_ms")), *memory]


if __name__ == "__main__":
    main()
