"""prepare.py from the outside: what it writes, keeps, drops, counts, and leaves alone."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, command, complaint

from tinystories.stories import storybook
from tinystories.stories.files import SEPARATOR
from tinystories.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

STORY = "{} the {} went to the river and sat down on a warm stone. The sun came out at last."
NAMES = ["Ann", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kit", "Lu"]
STORIES = [STORY.format(name, kind) for name in NAMES for kind in ("fox", "hen", "owl", "toad")]


def write(path, stories) -> str:
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return str(path)


def stories_in(folder, split: str) -> list[str]:
    """The stories of a .bin, decoded."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    ids = np.fromfile(folder / f"{split}.bin", "<u2")
    ends = np.flatnonzero(ids == tokenizer.end_of_text)
    assert ends[-1] == len(ids) - 1, "every story is followed by end of text"
    return [tokenizer.decode(part[part != tokenizer.end_of_text]) for part in np.split(ids, ends)][
        :-1
    ]


def meta(folder) -> dict:
    return json.loads((folder / "meta.json").read_text())


def prepare(folder, source, *options, **kwargs):
    return command(
        *("prepare.py", f"--dataset={folder}", f"--source={source}"),
        *("--tokenizer=bpe", "--vocab_size=300", *options),
        **kwargs,
    )


def test_what_goes_in_comes_out_story_by_story(tmp_path):
    folder = tmp_path / "data"
    source = write(tmp_path / "train.txt", STORIES[:40])
    prepare(folder, source, f"--val_source={write(tmp_path / 'val.txt', STORIES[40:])}")
    assert stories_in(folder, "train") == STORIES[:40]
    assert stories_in(folder, "val") == STORIES[40:]
    splits = meta(folder)["splits"]
    assert splits["train"]["stories"] == 40
    assert splits["val"]["bytes"] == sum(len(story) for story in STORIES[40:])
    assert splits["val"]["tokens"] == (folder / "val.bin").stat().st_size / 2


def test_every_rule_that_applied_is_counted_printed_and_recorded(tmp_path):
    faulty = [
        *STORIES[:20],
        STORIES[3],
        STORIES[45],
        "",
        "Too short.",
        "went home with the fox, and there they ate a big pot of soup all night long.",
        "Once there was a fox who had a pot of soup, and the pot was so big that the",
        "Once there was a fox.  It sat   on a stone and waited for the sun to come out.",
        "Once there was a fox. â€œI am hungry,â€\u009d said the fox, and it ate the whole pot.",
    ]
    source = write(tmp_path / "train.txt", faulty)
    val = write(tmp_path / "val.txt", [*STORIES[40:], "  ", "and then"])
    done = prepare(tmp_path / "data", source, f"--val_source={val}")
    cleaning = meta(tmp_path / "data")["cleaning"]
    assert cleaning["train"] == {
        **{"mojibake": 1, "punctuation": 1, "spaces": 1, "empty": 1, "short": 1},
        **{"starts_midway": 1, "ends_midway": 1, "duplicate": 1, "in_validation": 1},
    }
    assert cleaning["val"] == {"empty": 1}  # validation is repaired and otherwise left alone
    for rule in cleaning["train"]:
        assert re.search(rf"train +1  {rule}: ", done.stdout)
    kept = stories_in(tmp_path / "data", "train")
    assert kept[:20] == STORIES[:20] and len(kept) == 22
    assert '"I am hungry," said the fox' in kept[-1]


def test_without_cleaning_the_text_stays_as_it_is(tmp_path):
    odd = ["too  short", *STORIES[:9], STORIES[0], "a smart — “quote”"]
    source = write(tmp_path / "train.txt", odd)
    val = write(tmp_path / "val.txt", STORIES[40:])
    prepare(tmp_path / "data", source, f"--val_source={val}", "--clean=False")
    assert stories_in(tmp_path / "data", "train") == odd


def test_max_stories_limits_the_training_stories_that_are_kept(tmp_path):
    source = write(tmp_path / "train.txt", ["", *STORIES[:40]])
    val = write(tmp_path / "val.txt", STORIES[40:])
    prepare(tmp_path / "data", source, f"--val_source={val}", "--max_stories=7")
    assert stories_in(tmp_path / "data", "train") == STORIES[:7]


def test_a_story_stays_in_its_split_when_others_are_added(tmp_path):
    sides = []
    for count in (30, 48):
        folder = tmp_path / str(count)
        source = write(tmp_path / "all.txt", STORIES[:count])
        prepare(folder, source, "--val_fraction=0.3")
        sides.append((set(stories_in(folder, "train")), set(stories_in(folder, "val"))))
    for few, more in zip(*sides, strict=True):
        assert few and few < more
    assert not sides[1][0] & sides[1][1]


def test_what_is_prepared_is_left_as_it_is_and_other_settings_need_overwrite(tmp_path):
    folder = tmp_path / "data"
    source = write(tmp_path / "all.txt", STORIES)
    prepare(folder, source, "--val_fraction=0.3")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    again = prepare(folder, source, "--val_fraction=0.3")
    assert "already prepared" in again.stdout
    assert "--overwrite=True" in complaint(
        *("prepare.py", f"--dataset={folder}", f"--source={source}", "--tokenizer=bpe")
    )
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert after == before
    prepare(folder, source, "--val_fraction=0.5", "--overwrite=True")
    assert meta(folder)["settings"]["val_fraction"] == 0.5
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_vocabulary_that_the_stories_do_not_fill_says_its_real_size(tmp_path):
    source = write(tmp_path / "all.txt", STORIES)
    done = prepare(tmp_path / "data", source, "--val_fraction=0.3", "--vocab_size=5000")
    size = meta(tmp_path / "data")["tokenizer"]["vocab_size"]
    assert 257 < size < 5000
    assert f"only {size:,} tokens, fewer than vocab_size=5000" in done.stdout


def test_interrupted_it_leaves_no_half_made_dataset(tmp_path):
    folder = tmp_path / "data"
    program = (
        "import os, signal, threading, configurator, prepare\n"
        # A job in the background ignores Ctrl-C unless it asks for it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        f"s = prepare.Settings(source='storybook', dataset='{folder}', tokenizer='bpe')\n"
        "configurator.start(prepare.main, s)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == 130
    assert list(tmp_path.iterdir()) == []


def peak_memory(folder, stories: int) -> int:
    """Bytes of memory at the peak of preparing a file of so many stories."""
    folder.mkdir()
    (day,) = storybook.stories(1)
    day = day[: day.rindex(".", 0, 500) + 1]
    with open(folder / "mine.txt", "w", encoding="utf-8") as file:
        for number in range(stories):
            file.write(f"Day {' '.join(str(number))}: {day}{SEPARATOR}")  # few words
    program = (
        "import resource, sys, configurator, prepare\n"
        "prepare.main(configurator.parse(prepare.Settings, sys.argv[1:]).settings)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    options = f"--source={folder / 'mine.txt'} --dataset={folder / 'data'} --tokenizer=bpe"
    done = subprocess.run(
        [sys.executable, "-c", program, *options.split()],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return 1024 * int(done.stdout.split()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes only on Linux")
def test_five_times_the_stories_take_hardly_more_memory(tmp_path):
    few, many = (peak_memory(tmp_path / str(n), n) for n in (20_000, 100_000))
    # 80,000 stories are 40 MB of text; only their digests and some buffers may grow.
    assert many - few < 15e6
