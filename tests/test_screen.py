"""What the commands print in a terminal of 80 columns: no line breaks inside a word."""

import fcntl
import os
import pty
import re
import shutil
import struct
import tempfile
import termios
import unicodedata
from multiprocessing.connection import Connection
from pathlib import Path

import forks
import pytest
from conftest import ROOT, SMALL, make_reciter

COLUMNS = 80
TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")
COMMANDS = (  # {at} has stories.txt, the datasets d and no_meta, and the runs a, b and tale
    "prepare.py --source={at}/stories.txt --tokenizer=bpe --vocab_size=300 --dataset={at}/new",
    f"train.py --dataset={{at}}/d --out_dir={{at}}/new_run {' '.join(SMALL)} --max_iters=6",
    f"train.py --dataset={{at}}/no_meta --out_dir={{at}}/f {' '.join(SMALL[:5])} --max_iters=1 "
    "--eval_iters=1 --always_save_checkpoint=False --dtype=float16 --device=cpu",
    "sample.py --out_dir={at}/tale",
    "sample.py --out_dir={at}/tale --stream=True",
    "evaluate.py --out_dir={at}/a --nearest=True --samples_per_prompt=1 --max_chars=60",
    "evaluate.py --compare={at}/a,{at}/b --plot={at}/x.png --what=loss",
    "evaluate.py --leak=True --dataset={at}/d",
    "explore.py --dataset={at}/d --plot={at}/y.png",
    "export.py --out_dir={at}/a --to=nanogpt",
    "interpret.py --out_dir={at}/a --dataset={at}/d --stories=2",
    f"sweep.py --dataset={{at}}/d --out_dir={{at}} {' '.join(SMALL[:1] + SMALL[2:])} "
    "--n_head=2,3 --max_iters=3",
    "bench.py --what=train --vocab_size=300 --n_layer=1 --n_head=2 --n_embd=32 "
    "--block_size=16 --batch_size=2 --repeats=1 --output={at}/bench.json",
    "plan.py --check={at}/a",
    *(
        f"{name}.py --help"
        for name in (
            "prepare train sample evaluate explore interpret sweep bench compose export plan"
        ).split()
    ),
)
MISTAKES = (
    "prepare.py --source={at}/stories.txt --tokenizer=bpe --vocab_size=300 --dataset={at}/d",
    "train.py --dataset={at}/d --out_dir={at}/g --init_from={at}/a/folder/that/is/missing",
)


def in_terminal(script: str, *args: str) -> tuple[int | None, str]:
    """Run a command in a terminal of 80 columns: its status, and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    ends = [Connection(os.dup(theirs), readable=False) for _ in range(2)]
    environment = dict(os.environ) | {"TERM": "xterm"}
    how = ([str(ROOT / script), *args], str(ROOT), environment, None)
    process = forks.SERVER.Process(target=forks._run, args=(*how, *ends))
    process.start()
    os.close(theirs)
    for end in ends:
        end.close()
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    process.join()
    return process.exitcode, written.decode(errors="replace")


def width(text: str) -> int:
    """Columns that a text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return wide + sum(not unicodedata.combining(character) for character in text)


def show(written: str) -> tuple[list[str], list[str]]:
    """What a terminal shows in the end, and the lines that were too long for it at any time.

    Bars return to the start of their line with a carriage return, or go up with a control sequence.
    """
    lines, too_long, row, column = [""], [], 0, 0
    for token in TOKEN.finditer(written):
        text = token[0]
        if text == "\n":
            row, column = row + 1, 0  # a terminal gets \r\n, so the column is 0 already
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        elif token[2]:
            row -= int(token[1] or 1) if token[2] == "A" else 0
            lines[row] = lines[row][:column] if token[2] == "K" else lines[row]
        else:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
            if width(lines[row].rstrip()) > COLUMNS:
                too_long.append(lines[row])
    return [line.rstrip() for line in lines], too_long


def test_the_terminal_of_these_tests_shows_what_a_real_one_does():
    assert show("a bar\rnew\r\nnext\r\n") == (["newar", "next", ""], [])
    assert show("one\r\ntwo\x1b[A\rONE\r\n") == (["ONE", "two"], [])
    assert show(81 * "x" + "\r" + 81 * " " + "\r")[1] == [81 * "x"]
    assert show(80 * "x" + "\r\n")[1] == []


@pytest.fixture(scope="module")
def place(dataset, run):
    """A folder with a short path, since no path can be wrapped."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    stories = [
        f"Fox {i} went up the hill in the dark. “I see the moon,” she said." for i in range(400)
    ]
    text = "\n<|endoftext|>\n".join([*stories, "This one ends in the middle of"])
    (folder / "stories.txt").write_text(text, encoding="utf-8")
    (folder / "d").symlink_to(dataset)
    (folder / "no_meta").mkdir()
    for name in ("train.bin", "val.bin", "vocabulary.json"):
        (folder / "no_meta" / name).symlink_to(dataset / name)
    for name in "ab":
        shutil.copytree(run, folder / name)
    tale = " ".join(stories[:5]).encode()
    make_reciter(folder / "tale", tale, window=len(tale) + 1)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("line", (*COMMANDS, *MISTAKES))
def test_no_line_is_longer_than_the_screen(line, place):
    status, written = in_terminal(*line.format(at=place).split())
    assert status == (2 if line in MISTAKES else 0), written
    lines, too_long = show(written)
    assert not too_long
    assert not [text for text in lines if "%|" in text and "100%|" not in text]  # a bar that stays
