"""Stories from files: every format, and what is said of a damaged file."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from story_files import FOX, HEN, OWL, STORIES, lines_of, many, mistake, read, write

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
    assert read(path, text_field="tale") == STORIES


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
    assert "write a line <|endoftext|> between stories" in mistake(path)


def test_an_endless_story_is_refused_before_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_CHARS", 10_000)
    monkeypatch.setattr(files, "CHUNK", 1_000)
    assert "without a line <|endoftext|>" in mistake(write(tmp_path / "a.txt", FOX * 200))


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
    assert "no column saga; name one with --text_field, there are: id, tale" in mistake(
        str(path), text_field="saga"
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
