"""What people read on a screen of 80 columns."""

import io
import shlex

import pytest

from tinystories.terminal import (
    WordWrap,
    command_text,
    counted,
    duration,
    progress,
    right_aligned,
    sections_table,
    short_count,
    time_taken,
    wrapped,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (850, "850"),
        (8500, "8.50K"),
        (999_999, "1.00M"),
        (614e6, "614M"),
        (1.234e9, "1.23B"),
    ],
)
def test_counts_stay_short(count, text):
    assert short_count(count) == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Once a fox ran home.", ["Once a fox", "ran home."]),
        ("여우가 언덕에 갔다", ["여우가", "언덕에", "갔다"]),  # two columns each
        ("狐狸走上了山。月亮", ["狐狸走上了", "山。月亮"]),
        ("cafe\u0301 cafe\u0301 a", ["cafe\u0301 cafe\u0301", "a"]),
    ],
)
def test_streamed_text_breaks_where_the_screen_ends(capsys, text, lines):
    out = WordWrap()
    out.width = 10
    for piece in text[:-1]:
        out.write(piece)
    out.write(text[-1], last=True)
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (45, "45s"), (59.7, "1m00s"), (725, "12m05s"), (12000, "3h20m")],
)
def test_times_stay_short(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.043, "0.043 s"), (2.4, "2.4 s"), (45, "45 s"), (59.9, "60 s"), (725, "12.1 min")],
)
def test_times_in_sentences_have_the_unit_that_fits(seconds, text):
    assert time_taken(seconds) == text
    assert time_taken(12000) == "3.33 h"


def test_a_noun_agrees_with_its_count():
    assert [counted(count, "run") for count in (0, 1, 2000)] == ["0 runs", "1 run", "2,000 runs"]
    assert counted(2, "story", "stories") == "2 stories"


def test_text_is_broken_at_spaces_and_a_path_never():
    path = "/a-long/" + 90 * "x"
    lines = wrapped(20 * "some words " + path).splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines[1].startswith("  some") or lines[1].startswith("  words")
    assert lines[-1].strip() == path


def test_a_long_command_can_be_copied_into_a_shell():
    words = ["python", "sweep.py", "--name=my first", *(f"--setting_{i}=1e-3" for i in range(9))]
    text = command_text(*words)
    assert max(map(len, text.splitlines())) <= 80
    assert shlex.split(text.replace("\\\n", "")) == words
    assert command_text("python", "train.py") == "  python train.py"


@pytest.mark.parametrize(
    ("total", "text"), [(4, "reading:  50%|"), (None, "reading: 2 stories [00:00]")]
)
def test_a_bar_says_what_it_counts_and_of_how_many(total, text, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    bar = progress(None, "reading", "stories", total=total, file=screen, ncols=60)
    bar.update(2)
    bar.refresh()
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith(text)
    assert ("2/4 stories [00:00<00:00]" in last) == bool(total)
    assert len(last.rstrip()) <= 60
    bar.close()


def test_rows_are_aligned_to_the_right_and_may_be_short():
    assert right_aligned([["rate", "loss"], ["0.001", "2.5"], ["3"]]) == [
        " rate  loss",
        "0.001   2.5",
        "    3",
    ]


def test_a_table_has_a_column_per_name_and_a_row_per_label_of_each_section():
    a = {"Loss": {"nats": "1.5", "bits": "0.9"}}
    b = {"Loss": {"nats": "1.4"}, "Pairs": {"all": "50 %"}}
    assert sections_table({"a": a, "b": b}).splitlines() == [
        " " * 29 + "a".rjust(17) + "b".rjust(17),
        "Loss",
        "  nats".ljust(29) + "1.5".rjust(17) + "1.4".rjust(17),
        "  bits".ljust(29) + "0.9".rjust(17),
        "Pairs",
        "  all".ljust(29) + " " * 17 + "50 %".rjust(17),
    ]


def test_columns_that_do_not_fit_the_screen_come_below():
    columns = {f"a-long-run-name-{i}": {"Loss": {"nats": str(i)}} for i in range(5)}
    lines = sections_table(columns).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines.count("Loss") == 3


def test_a_long_name_is_cut_at_its_front():
    first = sections_table({"a/" + "x" * 100: {"Run": {"steps": "1"}}}).splitlines()[0]
    assert first.strip() == "..." + "x" * 46
    assert len(first) <= 80


def test_more_columns_than_fit_are_printed_below_each_other():
    columns = {f"run{i}": {"Run": {"steps": str(i)}} for i in range(5)}
    lines = sections_table(columns).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines if "run" in line] == [
        ["run0", "run1", "run2"],
        ["run3", "run4"],
    ]
    assert "4" in lines[-1]


def test_a_row_that_all_columns_next_to_each_other_lack_is_left_out():
    columns = {name: {"Run": {"steps": "1"}} for name in "abc"} | {"d": {"Text": {"stories": "2"}}}
    below = sections_table(columns).split("\n\n")[1]
    assert [line.split() for line in below.splitlines()] == [["d"], ["Text"], ["stories", "2"]]
