"""Files that are written whole, and read only when they are what they should be."""

import os
from pathlib import Path

import pytest

from configurator import UserError
from tinystories.files import (
    LARGEST,
    atomic_write,
    only_writer,
    read_json,
    read_whole,
    replace_folder,
    sha256_of,
    write_json,
)


def test_a_folder_takes_its_place_whole(tmp_path):
    old, built = tmp_path / "stories", tmp_path / ".stories.partial"
    for folder, text in ((old, "old"), (built, "new")):
        folder.mkdir()
        (folder / "meta.json").write_text(text)
    replace_folder(built, old)
    assert (old / "meta.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["stories"]


def test_json_is_read_back_as_it_was_written(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Öxi", "count": 3})
    assert read_json(tmp_path / "a.json", bool, "") == {"name": "Öxi", "count": 3}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b"\xff", b"{}", b'{"a": []}', b"[" * 100_000]
)
def test_json_of_another_shape_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_json(path, lambda value: value["a"]["b"] > 0, "do it again")
    assert str(refused.value) == f"{path} is damaged or not of this version; do it again"


def test_a_folder_in_the_place_of_a_json_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*a\.json: it is not a file"):
        read_json(tmp_path / "a.json", bool, "")


def test_a_write_that_is_refused_leaves_the_old_file_and_no_other(tmp_path):
    atomic_write(tmp_path / "a", b"old")
    (tmp_path / "a.tmp").mkdir()  # nothing can be written there
    with pytest.raises(UserError, match=r"cannot write .*a: "):
        atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_the_checksum_of_several_files_is_that_of_their_bytes_in_a_row(tmp_path):
    for name, data in (("a", b"12"), ("b", b"3"), ("c", b"123")):
        (tmp_path / name).write_bytes(data)
    assert sha256_of(tmp_path / "a", tmp_path / "b") == sha256_of(tmp_path / "c")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "endless"])
def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.touch()
        os.truncate(path, LARGEST + 1)
    else:
        path.symlink_to("a" if kind == "loop" else "/dev/zero")
    with pytest.raises(UserError, match=rf"cannot read {path}: "):
        read_whole(path)


def test_the_root_folder_is_not_written():
    with pytest.raises(UserError, match=r"^/ cannot be written"), only_writer(Path("/")):
        pass
