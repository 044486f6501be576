"""The host's cost is measured with the whole graph, and each frame has its persons."""

import json

import pytest

torch = pytest.importorskip("torch")

import host  # noqa: E402

import operators.detect  # noqa: E402
import operators.pose  # noqa: E402
from engines.kernels import crop, nms  # noqa: E402

pytestmark = pytest.mark.slow


def test_every_frame_has_its_persons(monkeypatch, tmp_path):
    for module, name in ((operators.detect, "load_engine"), (operators.pose, "load_engine"),
                         (crop, "kernel_for"), (nms, "kernel_for")):  # fmt: skip
        monkeypatch.setattr(module, name, getattr(module, name))  # `main` replaces them; this restores them
    monkeypatch.setattr(host, "WARM_S", 0.5)
    threads = torch.get_num_threads()
    result = tmp_path / "host.json"
    options = ["--streams", "1,3", "--persons", "2", "--seconds", "0.5", "--json", str(result)]
    monkeypatch.setattr("sys.argv", ["host.py", *options])
    host.main()
    torch.set_num_threads(threads)
    rows = json.loads(result.read_text())["rows"]
    assert [row["streams"] for row in rows] == [1, 3]
    for row in rows:
        assert row["fps"] > 0
        assert row["persons_a_frame"] == pytest.approx(2, abs=0.1)
        assert min(row["detect_us"], row["track_us"], row["pose_us"]) > 0
