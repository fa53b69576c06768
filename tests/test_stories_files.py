"""Stories from files: every format, and what is said of a damaged file."""

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from story_files import FOX, HEN, OWL, STORIES, lines_of, many, mistake, read, write

from configurator import UserError
from tinystories.stories import files
from tinystories.stories.catalog import open_source
from tinystories.stories.cleaning import clean_story, digest


def test_text_files_hold_stories_between_separators(tmp_path):
    path = write(tmp_path / "a.txt", "\n<|endoftext|>\n".join(STORIES) + "\n")
    assert read(path) == STORIES


def test_a_separator_may_be_anywhere(tmp_path):
    path = write(tmp_path / "a.txt", f"<|endoftext|>{FOX}<|endoftext|>\n{OWL}\n<|endoftext|>\n\n")
    assert read(path) == [FOX, OWL]


def test_only_the_line_break_at_the_separator_is_removed(tmp_path):
    odd = "\n  Tab\there,  two blanks. \n\n\n“Curly” \n"
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n{odd}\n<|endoftext|>\n{OWL}\n")
    assert read(path) == [FOX, odd, OWL]


def test_windows_line_breaks_and_byte_order_mark(tmp_path):
    text = f"\ufeff{FOX}\r\n<|endoftext|>\r\n{OWL}\r\n"
    assert read(write(tmp_path / "a.txt", text)) == [FOX, OWL]


def test_empty_stories_are_yielded_to_be_counted(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n\n<|endoftext|>\n{OWL}\n")
    assert read(path) == [FOX, "", OWL]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.lists(st.text("ab é猫\n", min_size=1), min_size=2))
def test_stories_do_not_depend_on_how_a_file_is_cut_into_pieces(size, texts):
    joined = "<|endoftext|>".join(["x", *texts, "x"])
    pieces = [joined[i : i + size] for i in range(0, len(joined), size)]
    path = Path("a.txt")
    assert list(files.split_stories(pieces, path)) == list(files.split_stories([joined], path))


def test_a_character_may_lie_across_two_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 7)
    path = write(tmp_path / "a.txt", "猫はねこ。\n<|endoftext|>\nÉl dijo: «¡Año!».\n")
    assert read(path) == ["猫はねこ。", "Él dijo: «¡Año!»."]


def test_jsonl(tmp_path):
    assert read(write(tmp_path / "a.jsonl", lines_of(STORIES))) == STORIES


def test_json_list(tmp_path):
    rows = [{"story": text} for text in STORIES]
    assert read(write(tmp_path / "a.json", json.dumps(rows, indent=2))) == STORIES


def test_csv_with_line_breaks_inside_a_cell(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "story"], *enumerate(STORIES)])
    assert read(str(tmp_path / "a.csv")) == STORIES


def test_parquet_in_a_folder_with_odd_letters(tmp_path):
    path = tmp_path / "my [best] tales *" / "a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"id": [1, 2, 3], "text": STORIES})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    assert read(str(path)) == STORIES


def test_the_column_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES, "tale"))
    assert read(path, column="tale") == STORIES


def test_the_separator_inside_a_json_text_is_text(tmp_path):
    text = f"{FOX} <|endoftext|> {OWL}"
    assert read(write(tmp_path / "a.jsonl", lines_of([text, HEN]))) == [text, HEN]


def test_a_glob_takes_files_in_sorted_order(tmp_path):
    for name, text in zip("cab", [HEN, FOX, OWL], strict=True):
        write(tmp_path / "tales" / f"{name}.txt", text)
    assert read(str(tmp_path / "tales" / "*.txt")) == [FOX, OWL, HEN]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("fox tales.txt", "fox_tales"), ("tales/*.txt", "tales"), ("tales/part-[0-9]*.txt", "part")],
)
def test_the_short_name_follows_from_the_path(tmp_path, pattern, name):
    write(tmp_path / "fox tales.txt", f"{FOX}<|endoftext|>{OWL}")
    write(tmp_path / "tales" / "part-1.txt", f"{FOX}<|endoftext|>{OWL}")
    source = open_source(str(tmp_path / pattern))
    assert source.name == name
    assert source.revision is None and not source.instruct


def test_a_long_file_is_streamed(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n" * 400_000)  # 37 MB
    code = (
        "import sys, tracemalloc; from tinystories.stories.catalog import open_source;"
        "source = open_source(sys.argv[1], val_source=sys.argv[1]); tracemalloc.start();"
        "next(source.stories('train'));"
        "print(tracemalloc.get_traced_memory()[1])"
    )
    peak = int(subprocess.check_output([sys.executable, "-c", code, path], cwd=ROOT))
    assert peak < 10e6


def test_a_half_character_from_json_does_not_stop_anything(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES) + '{"text": "A fox \\ud83d."}\n')
    (_, _, _, broken) = read(path)
    digest(broken)
    assert clean_story(f"{FOX} {broken}") == (None, ("unrepairable",))


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_text_may_be_compressed(tmp_path, ending, kind):
    texts = many(3000)
    text = lines_of(texts) if kind == "jsonl" else "\n<|endoftext|>\n".join(texts)
    path = write(tmp_path / f"tales.{kind}.{ending}", compressed(text.encode(), ending))
    assert read(path) == texts
    assert open_source(path).name == "tales"
    write(Path(path), compressed(text.encode(), ending)[:2000])
    assert f"cannot decompress {path}" in mistake(path)
    write(Path(path), b"no such compression")
    assert f"cannot decompress {path}" in mistake(path)


def compressed(data: bytes, ending: str) -> bytes:
    if ending == "zst":
        return pyarrow.compress(data, "zstd", asbytes=True)
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[ending].compress(data)


def write_arrow(path: Path, table: pyarrow.Table, new=pyarrow.ipc.new_stream) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("new", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow(tmp_path, new):
    table = pyarrow.table({"id": [1, 2, 3], "text": STORIES})
    write_arrow(tmp_path / "a.arrow", table, new)
    assert read(str(tmp_path / "a.arrow")) == STORIES
    path = write(tmp_path / "b.arrow", (tmp_path / "a.arrow").read_bytes()[:-300])
    assert f"cannot read {path}" in mistake(path, val_source=path)


def test_a_folder_of_save_to_disk(tmp_path):
    write(tmp_path / "state.json", "{}")
    for n, texts in enumerate([[FOX, OWL], [HEN]]):
        table = pyarrow.table({"text": texts})
        write_arrow(tmp_path / f"data-0000{n}-of-00002.arrow", table)
    write_arrow(tmp_path / "cache-1a2b.arrow", pyarrow.table({"indices": [0]}))  # of filter()
    assert read(str(tmp_path), val_fraction=0.1) == STORIES
    assert "no column tale; name one with --column" in mistake(str(tmp_path), column="tale")


def test_a_folder_of_save_to_disk_with_splits(tmp_path):
    write(tmp_path / "dataset_dict.json", '{"splits": ["train", "validation", "test"]}')
    for split, text in (("train", FOX), ("validation", OWL), ("test", HEN)):
        write(tmp_path / split / "state.json", "{}")
        write_arrow(tmp_path / split / "data-00000-of-00001.arrow", pyarrow.table({"text": [text]}))
    source = open_source(str(tmp_path))
    assert list(source.stories("train")) == [FOX]
    assert list(source.stories("val")) == [OWL]
    own = open_source(write(tmp_path / "own.jsonl", json.dumps(FOX)), val_source=str(tmp_path))
    assert list(own.stories("val")) == [OWL]  # its validation, where it has one
    assert "--separator goes with text files" in mistake(str(tmp_path), separator=None)


# Separators ---------------------------------------------------------------------------------


def test_stories_may_have_another_separator(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n\n{OWL}\n\n\n{FOX}\n")
    assert read(path, separator="\n\n") == [FOX, OWL, FOX]
    path = write(tmp_path / "b.txt", f"{FOX}\r\n\r\n{OWL}\r\n")
    assert read(path, separator="\n\n") == [FOX, OWL]
    assert read(path, separator="\r\n\r\n") == [FOX, OWL]
    path = write(tmp_path / "c.log", f"{FOX} ### {OWL}")
    assert read(path, separator=" ### ") == [FOX, OWL]


@pytest.mark.parametrize("name", ["book.txt", "code.py"])
def test_a_file_may_be_one_text_whose_end_is_validation(tmp_path, name):
    text = "".join(f"{n}\tA line,  with odd spaces.\r\n" for n in range(1000))
    source = open_source(write(tmp_path / name, text), separator=None, val_fraction=0.1)
    (train,), (val,) = source.stories("train"), source.stories("val")
    assert train + val == text
    assert train.endswith("\n") and abs(len(val) - 0.1 * len(text)) < 40
    assert source.one_text


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("word " * 100, "word " * 90),
        ("x" * 100, "x" * 90),
        ("a\n" + "b c " * 9, "a\n"),
        ("word " * 100 + "end\n", "word " * 91),
    ],  # not after its last line
)
def test_one_text_is_cut_at_a_line_or_a_word_where_there_is_one(tmp_path, text, train):
    path = write(tmp_path / "a.txt", text)
    source = open_source(path, separator=None, val_fraction=0.1)
    assert [*source.stories("train"), *source.stories("val")] == [train, text[len(train) :]]


def test_each_file_of_several_is_one_text(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.txt", f"{name}\n" * 100)
    source = open_source(str(tmp_path / "*.txt"), separator=None, val_fraction=0.1)
    assert [set(text) for text in source.stories("train")] == [{"a", "\n"}, {"b", "\n"}]
    assert [len(text) for text in source.stories("val")] == [20, 20]


def test_a_text_that_memory_does_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_TEXT", 50)
    path = write(tmp_path / "a.txt", FOX)
    assert "more than 50 characters; cut it into files" in mistake(path, separator=None)


def test_a_separator_does_not_go_with_tables(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES))
    assert "--separator goes with text files" in mistake(path, separator=None)


# How many there are -------------------------------------------------------------------------


def test_the_count_for_the_progress_bar_comes_near(tmp_path):
    texts = many(100)
    paths = [
        write(tmp_path / "a.txt", "\n<|endoftext|>\n".join(texts)),
        write(tmp_path / "a.jsonl", lines_of(texts)),
        str(tmp_path / "a.parquet"),
    ]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), paths[-1])
    for path in paths:
        source = open_source(path, val_fraction=0.2)
        assert abs(source.count("train") - 80) <= 1 and abs(source.count("val") - 20) <= 1
    assert open_source("storybook", count=200, val_fraction=0.1).count("train") == 180


# Splits by name -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "test.csv"], {"train": ["train.csv"], "val": ["test.csv"]}),
        (["a/val-0.json", "a/train-0.json", "a/test-0.json"], {"train": ["a/train-0.json"]}),
        (["b.jsonl.gz", "a.jsonl.gz"], {"train": ["a.jsonl.gz", "b.jsonl.gz"]}),
        (["data/train-0.parquet", "train.txt"], {"train": ["data/train-0.parquet"]}),
        (
            ["training/dev.csv", "strain.csv"],
            {"train": ["strain.csv"], "val": ["training/dev.csv"]},
        ),
        (["train/0.arrow", "train/1.arrow"], {"train": ["train/0.arrow", "train/1.arrow"]}),
        (["a.json", "dataset_infos.json", "README.md"], {"train": ["a.json"]}),
    ],
)
def test_splits_are_found_by_the_names_of_files(names, splits):
    found = files.find_splits(names, "owner/name")
    assert {split: found[split] for split in splits} == splits
    assert ("val" in found) == any("val" in n or "dev" in n or "test" in n for n in names)


def test_names_of_no_or_of_many_datasets_are_refused():
    with pytest.raises(UserError, match="owner/name has no training files"):
        files.find_splits(["README.md", "test.csv"], "owner/name")
    names = ["de/train-0.csv", "en/train-0.csv"]
    with pytest.raises(UserError, match="several datasets, de, en: name one, as owner/name/de"):
        files.find_splits(names, "owner/name")
    assert files.find_splits(names, "owner/name", any_folder=True) == {"train": names}


# Mistakes -----------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    assert "there is no file" in mistake(str(tmp_path / "nothing-*.txt"))


def test_a_folder_is_refused(tmp_path):
    assert "is a folder" in mistake(str(tmp_path))


def test_an_unknown_extension_is_named(tmp_path):
    assert ".docx; the known extensions are .txt" in mistake(write(tmp_path / "a.docx", FOX))


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path):
    text = f"{FOX}\n<|endoftext|>\n{OWL}".encode() + b"\n<|endoftext|>\nThe caf\xe9 was open."
    at = text.index(b"\xe9")
    assert f"a.txt, byte {at:,}: this is not UTF-8" in mistake(write(tmp_path / "a.txt", text))


def test_the_place_counts_all_bytes_of_a_long_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 100)
    text = ("猫" * 100 + "\n<|endoftext|>\n").encode() * 3 + b"\xff"
    path = write(tmp_path / "a.txt", text)
    assert f"byte {len(text) - 1:,}:" in mistake(path, val_source=path)


def test_a_text_file_without_separators_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(STORIES))
    said = mistake(path)
    assert "one single story, with no '<|endoftext|>' in it" in said
    assert "'\\n\\n', or --separator=none" in said


def test_an_endless_story_is_refused_before_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_CHARS", 10_000)
    monkeypatch.setattr(files, "CHUNK", 1_000)
    assert "without '<|endoftext|>'" in mistake(write(tmp_path / "a.txt", FOX * 200))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_holds_no_stories(tmp_path, name):
    said = mistake(write(tmp_path / name, "\n" if name != "a.csv" else "text\n"))
    assert "holds no stories" in said


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_may_begin_with_blank_stories(tmp_path, name):
    texts = ["", "", " ", *STORIES]
    text = lines_of(texts) if name == "a.jsonl" else "\n<|endoftext|>\n".join(texts)
    path = write(tmp_path / name, text)
    assert [text for text in read(path) if text.strip()] == STORIES


def test_one_story_between_separators_is_taken(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n \n<|endoftext|>\n")
    assert read(path) == [FOX, " "]


def test_a_file_of_blank_texts_holds_no_stories(tmp_path):
    assert "holds no stories" in mistake(write(tmp_path / "a.jsonl", lines_of([" "] * 5)))


def test_a_missing_column_is_named_with_those_there(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES, "tale"))
    assert "no column text or story" in mistake(path)
    assert "there are: id, tale" in mistake(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_missing_column_is_named_in_tables_too(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        write(path, "id,tale\n1,x\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": [1], "tale": ["x"]}), path)
    assert "no column saga; name one with --column, there are: id, tale" in mistake(
        str(path), column="saga"
    )


def test_a_broken_json_line_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(many(5)) + '{"text": "cut of\n')
    assert "a.jsonl, line 6: this is not JSON" in mistake(path)


@pytest.mark.parametrize("value", ["9" * 6000, "[" * 100_000], ids=["number", "nesting"])
def test_json_beyond_all_limits_is_named(tmp_path, value):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES) + value + "\n")
    assert "a.jsonl, line 4: this is not JSON" in mistake(path)


def test_a_path_of_an_unknown_user_is_a_missing_file():
    assert "there is no file ~nobody-here/a.txt" in mistake("~nobody-here/a.txt")


def test_a_cell_that_is_no_text_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES) + '{"text": ["a", "b"]}\n')
    assert "a.jsonl, line 4: a story is text" in mistake(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_a_story_as_long_as_a_book_is_refused_in_every_format(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "MAX_CHARS", 10_000)
    stories, path = [*STORIES, FOX * 1000, *STORIES], tmp_path / name
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": stories}), path)
    elif name == "a.csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["text"], *([story] for story in stories)])
    else:
        texts = {".txt": "<|endoftext|>".join(stories), ".jsonl": lines_of(stories)}
        write(path, texts.get(path.suffix, json.dumps(stories)))
    assert str(path) in mistake(str(path), val_source=str(path))


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_parquet_is_read_without_threads_that_could_abort_the_process_at_its_end(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"text": STORIES}), tmp_path / "a.parquet")
    code = f"""
import os, pathlib, pyarrow.parquet
from tinystories.stories import files
print(len(os.listdir("/proc/self/task")))
next(files.read_texts([pathlib.Path({str(tmp_path / "a.parquet")!r})], files.Options()))
print(len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True)
    before, after = done.stdout.split()
    assert before == after
