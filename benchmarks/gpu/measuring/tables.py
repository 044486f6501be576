"""The tables of bench.py: whole graphs by number of streams, and the pose model by batch size."""

from __future__ import annotations

import harness

from measuring.isolation import Row

TARGET = 0.85  # share of the lower bound
PACED_P95_MS = 100.0
STREAMS = ("streams", "frames/s", "p50 ms", "p95", "p99", "GPU", "NVDEC", "to GPU", "to host", "decode alone",
           "engines alone", "of bound", "")  # fmt: skip
POSES = ("pose model by", "batch", "alone crops/s", "p50 ms", "graph crops/s", "of alone", "")


def show(rows: list[Row], size: tuple[int, int]) -> None:
    """Print both tables; `size` is that of the frames, px."""
    streams = [row for row in rows if row["kind"] in ("streams", "paced")]
    target = f"target {TARGET:.0%} of the bound; paced: p95 {PACED_P95_MS:.0f} ms"
    harness.show(f"{size[0]}x{size[1]} H.264; {target}", STREAMS, [stream_cells(row) for row in streams])
    poses = [row for row in rows if row["kind"] == "alone" and row["model"] == "pose"]
    graph = {(row["backend"], row.get("persons")): row for row in rows if row["kind"] == "graph"}
    harness.show("crops/s", POSES, [
        pose_cells(row, graph.get((row["backend"], row.get("batch")), {})) for row in poses
    ])  # fmt: skip
    for row in rows:
        if row["kind"] in ("plan", "backend", "decode", "graph") and "why" in row:
            print(
                f"  {' '.join(str(row[k]) for k in ('kind', 'backend', 'model') if k in row)}: {row['why']}"
            )


def stream_cells(row: Row) -> list[str]:
    """The cells of a row of the first table."""
    more = f" paced: {row['graph']}" if row["kind"] == "paced" else f" {row.get('backend', '')}"
    name = f"{row.get('streams', '')}{more}".strip()
    share = {key: f"{row[key]:.0%}" for key in ("gpu", "nvdec", "of_bound") if key in row}
    number = {key: f"{row[key]:.0f}" for key in
              ("fps", "age_p50_ms", "age_p95_ms", "age_p99_ms", "to_device_bytes", "to_host_bytes",
               "decode_alone_fps", "engines_alone_fps") if key in row}  # fmt: skip
    known = share | number
    names = ("fps", "age_p50_ms", "age_p95_ms", "age_p99_ms", "gpu", "nvdec", "to_device_bytes",
             "to_host_bytes", "decode_alone_fps", "engines_alone_fps", "of_bound")  # fmt: skip
    why = row.get("why", f"{row['dropped']:.1%} dropped" if row.get("dropped") else "")
    return [name, *(known.get(name, "") for name in names), why]


def pose_cells(row: Row, graph: Row) -> list[str]:
    """The cells of a row of the second table."""
    if "batch" not in row:
        return [row["backend"], "", "", "", "", "", row["why"]]
    rate, through = row["items_per_s"], graph.get("detections_per_s")
    in_graph = ["", ""] if through is None else [f"{through:.0f}", f"{through / rate:.0%}"]
    return [row["backend"], str(row["batch"]), f"{rate:.0f}", f"{row['p50_ms']:.2f}", *in_graph, ""]
