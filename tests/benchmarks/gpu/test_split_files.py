"""Large files are split and joined again, or the error says what is wrong."""

import pytest
from packing import split_files


@pytest.fixture
def split_folder(tmp_path):
    (tmp_path / "large.whl").write_bytes(bytes(range(250)))
    (tmp_path / "small.whl").write_bytes(b"small")
    assert split_files.split(tmp_path, 100) == ["large.whl"]
    return tmp_path


def test_a_joined_file_is_the_one_that_was_split(split_folder, tmp_path):
    assert not (split_folder / "large.whl").exists()
    assert [len((split_folder / f"large.whl.part00{n}").read_bytes()) for n in range(3)] == [100, 100, 50]
    assert (split_folder / "small.whl").exists()
    out = tmp_path / "out"
    for _ in range(2):  # the second time it is there
        assert split_files.join(split_folder, out) == [out / "large.whl"]
        assert (out / "large.whl").read_bytes() == bytes(range(250))


def test_a_second_split_keeps_the_first(split_folder):
    (split_folder / "another.whl").write_bytes(b"x" * 101)
    split_files.split(split_folder, 100)
    assert {path.name for path in split_files.join(split_folder, split_folder)} == {
        "large.whl",
        "another.whl",
    }


def test_missing_parts_are_named(split_folder):
    (split_folder / "large.whl.part001").unlink()
    with pytest.raises(split_files.PartsError, match=r"large.whl: 1 of 3 parts are missing in .*part001"):
        split_files.join(split_folder, split_folder)


def test_damaged_parts_are_refused(split_folder):
    (split_folder / "large.whl.part001").write_bytes(b"y" * 100)
    with pytest.raises(split_files.PartsError, match=r"have SHA-256 .*, expected .*; copy them again"):
        split_files.join(split_folder, split_folder)
    assert not (split_folder / "large.whl").exists()
