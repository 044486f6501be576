"""Large files are cut and come together again, or it is said what is wrong."""

import pytest
import split_files


@pytest.fixture
def cut(tmp_path):
    (tmp_path / "large.whl").write_bytes(bytes(range(250)))
    (tmp_path / "small.whl").write_bytes(b"small")
    assert split_files.cut(tmp_path, 100) == ["large.whl"]
    return tmp_path


def test_what_was_cut_comes_together(cut, tmp_path):
    assert not (cut / "large.whl").exists()
    assert [len((cut / f"large.whl.part00{n}").read_bytes()) for n in range(3)] == [100, 100, 50]
    assert (cut / "small.whl").exists()
    out = tmp_path / "out"
    for _ in range(2):  # the second time it is there
        assert split_files.join(cut, out) == [out / "large.whl"]
        assert (out / "large.whl").read_bytes() == bytes(range(250))


def test_a_second_cut_keeps_the_first(cut):
    (cut / "another.whl").write_bytes(b"x" * 101)
    split_files.cut(cut, 100)
    assert {path.name for path in split_files.join(cut, cut)} == {"large.whl", "another.whl"}


def test_missing_parts_are_named(cut):
    (cut / "large.whl.part001").unlink()
    with pytest.raises(split_files.PartsError, match=r"large.whl: 1 of 3 parts are missing in .*part001"):
        split_files.join(cut, cut)


def test_damaged_parts_are_not_taken(cut):
    (cut / "large.whl.part001").write_bytes(b"y" * 100)
    with pytest.raises(split_files.PartsError, match=r"make SHA-256 .*, expected .*; bring them anew"):
        split_files.join(cut, cut)
    assert not (cut / "large.whl").exists()
