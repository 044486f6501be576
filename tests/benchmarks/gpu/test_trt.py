"""TensorRT's wheels are distributed over parts of limited size, and joined again in any order."""

import pytest
import trt
from packing import split_files

LIMIT = 3 * trt.MIB


@pytest.fixture
def parts(tmp_path):
    work = tmp_path / "parts" / "wheels"
    work.mkdir(parents=True)
    for name, size in (("large.whl", 7.5), ("bindings.whl", 1), ("onnxslim.whl", 0.2)):
        (work / name).write_bytes(bytes(range(256)) * round(size * trt.MIB / 256))
    return trt.distribute(work, work.parent, LIMIT)


def test_the_parts_are_small_enough_and_joined_in_any_order(parts, tmp_path, capsys):
    assert len(parts) > 3
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= LIMIT for part in parts)
    into = tmp_path / "into"
    assert trt.join(parts[-1], into) == 0
    assert "missing: parts.json" in capsys.readouterr().out
    for part in parts[:-1]:
        trt.join(part, into)
    assert "complete" in capsys.readouterr().out
    (large,) = split_files.join(into, into / "joined")
    assert large.read_bytes() == bytes(range(256)) * round(7.5 * trt.MIB / 256)
    assert {path.name for path in into.glob("*.whl")} == {"bindings.whl", "onnxslim.whl"}


def test_missing_parts_are_named(parts, tmp_path, capsys):
    for part in parts[:-1]:
        trt.join(part, tmp_path / "into")
    assert "missing: large.whl.part003" in capsys.readouterr().out
    with pytest.raises(split_files.PartsError, match="1 of 4 parts are missing"):
        trt.install(tmp_path / "into")
    with pytest.raises(split_files.PartsError, match="is empty; join the parts first"):
        trt.install(tmp_path / "nothing")
