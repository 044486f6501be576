"""What of the GPU path has run, where and when: a table from the results in benchmarks/results/gpu/.

    python benchmarks/gpu/status.py [--write]

--write puts the table into docs/gpu.md, which is where readers look for it. Results of dry runs, and results
from machines without a GPU, do not count.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import figures
import first
import trt

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu", ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- made by benchmarks/gpu/status.py --write -->", "<!-- end -->"
TESTS, BENCH = "tests marked `gpu`", "the fastest backend"
# By command: the names of its parts, which are those in its JSON.
PARTS = {
    "first": [name for name, *_ in first.PARTS],
    "figures": list(figures.PARTS),
    "trt": list(trt.PARTS),
    "test": [TESTS],
    "bench": [BENCH],
}
COMMANDS = {"test": "run_tests"}
NEVER = "never run"


def main() -> int:
    if sys.argv[1:] not in ([], ["--write"]):
        print((__doc__ or "").strip())
        return 2
    text = table(results(RESULTS))
    if sys.argv[1:]:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text, end="")
    return 0


def results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The kind and the content of each result that was measured on a GPU, the oldest first."""
    found = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = path.stem.rpartition("-")[2]
        if kind in PARTS and document["machine"].get("gpus") and not document.get("dry_run"):
            found.append((kind, document))
    return sorted(found, key=lambda item: item[1]["at"])


def table(documents: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """The table in Markdown: for each part the newest run on each kind of GPU."""
    runs: dict[tuple[str, str], dict[str, str]] = {}
    for kind, document in documents:
        machine = document["machine"]
        where = machine["gpus"][0]
        on = f"{where}, driver {machine.get('driver', '?')}, {document['at'][:10]}"
        commit = f", commit {machine['commit'][:7]}" if machine.get("commit") else ""
        for name, state, why in parts_of(kind, document):
            text = f"{state}: {on}{commit}" + (f" ({why})" if why else "")
            runs.setdefault((kind, name), {})[where] = text.replace("|", "/")
    lines = ["| command | part | last run |", "|---|---|---|"]
    for kind, names in PARTS.items():
        for name in names:
            last = "; ".join(runs.get((kind, name), {}).values()) or NEVER
            lines.append(f"| `{COMMANDS.get(kind, kind)}.py` | {name} | {last} |")
    return "\n".join(lines) + "\n"


def parts_of(kind: str, document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The name of each part in a result, how it ended, and a note."""
    rows = document["rows"]
    if kind == "test":
        counts = {name: sum(row[name] for row in rows) for name in ("passed", "failed", "skipped")}
        state = "failed" if counts["failed"] else "ok" if counts["passed"] else "not run"
        yield TESTS, state, ", ".join(f"{count} {name}" for name, count in counts.items())
    elif kind == "bench":
        ran = [row for row in rows if row["kind"] == "streams" and "fps" in row]
        backend = next((row["backend"] for row in rows if row["kind"] == "backend"), "no backend")
        yield BENCH, "ok" if ran else "failed", backend
    else:
        for row in rows:
            yield row["part"], row["state"], row["why"]


def page_with(page: str, text: str) -> str:
    """The page with the table between its two marks.

    Raises:
        ValueError: the page lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
