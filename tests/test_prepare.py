"""prepare.py from the outside: what it writes, keeps, drops, counts, and leaves alone."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, command, complaint

import prepare as prepare_script
from configurator import UserError
from tinystories.stories import storybook
from tinystories.stories.cleaning import RULES
from tinystories.stories.files import SEPARATOR
from tinystories.tokenizer import Tokenizer

pytestmark = pytest.mark.slow
needs_gpt2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)

STORY = "{} the {} went to the river and sat down on a warm stone. The sun came out at last."
NAMES = ["Ann", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kit", "Lu"]
STORIES = [STORY.format(name, kind) for name in NAMES for kind in ("fox", "hen", "owl", "toad")]


def write(path, stories) -> str:
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return str(path)


def stories_in(folder, split: str) -> list[str]:
    """The stories of a .bin, decoded."""
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
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
    assert "dropped from train: 6 of 28 stories" in done.stdout
    assert "dropped from val: 1 of 10 stories" in done.stdout
    for rule in cleaning["train"]:
        (what,) = re.findall(r"(?:dropped,? )?(.*)", RULES[rule])[:1]
        assert f"\n        1  {what}\n" in done.stdout
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


def test_what_is_printed_fits_80_columns_and_ends_with_the_next_command(tmp_path):
    texts = [*STORIES, STORIES[0], "Too short.", f"{STORIES[0]}  “Yes,”   she\tsaid…", "cut of"] * 9
    source = write(tmp_path / "all.txt", texts)
    folder = tmp_path / "a dataset"
    for expected in ("prepared in ", "is already prepared"):
        done = prepare(folder, source, "--val_fraction=0.3")
        assert expected in done.stdout
        lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
        assert len(lines) > 5 and max(map(len, lines)) <= 80
        assert done.stdout.splitlines()[-1].strip() == f"python train.py --dataset='{folder}'"


@pytest.mark.parametrize(
    ("dataset", "commands"),
    [
        ("storybook_bpe1024", ["python train.py config/storybook_1m.py"]),
        (
            "tinystories",
            [f"python train.py config/tinystories_{name}.py" for name in ("30m", "speedrun")],
        ),
        ("mine", ["python train.py --dataset=mine"]),
    ],
)
def test_the_next_command_has_the_config_that_fits(dataset, commands):
    assert prepare_script.training_commands(dataset) == commands


def test_one_text_is_prepared_as_it_is(tmp_path):
    text = "".join(f"def f{n}():\n    return  'x' # {n}\n\n\n" for n in range(500))
    source = write(tmp_path / "code.py", [text])
    done = prepare(tmp_path / "data", source, "--separator=none", "--val_fraction=0.1")
    (train,), (val,) = (stories_in(tmp_path / "data", split) for split in ("train", "val"))
    assert train + val == text and 0.09 < len(val) / len(text) < 0.11
    assert "train.bin  1 story, " in done.stdout and "without cleaning" in done.stdout


def test_a_separator_may_be_written_with_escapes(tmp_path):
    source = str(tmp_path / "mine.txt")
    (tmp_path / "mine.txt").write_text("\n\n".join(STORIES))
    prepare(tmp_path / "data", source, r"--separator=\n\n", "--val_fraction=0.3")
    train, val = (stories_in(tmp_path / "data", split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(STORIES)


def test_nanogpt_finds_the_vocabulary_beside_the_ids(tmp_path):
    source = write(tmp_path / "all.txt", STORIES)
    prepare(tmp_path / "data", source, "--val_fraction=0.3")
    saved = pickle.loads((tmp_path / "data" / "meta.pkl").read_bytes())
    assert saved["vocab_size"] == meta(tmp_path / "data")["tokenizer"]["vocab_size"]


@needs_gpt2
def test_beside_ids_of_gpt2_there_is_no_meta_pkl(tmp_path):
    source = write(tmp_path / "all.txt", STORIES)
    folder = tmp_path / "data"
    command("prepare.py", f"--source={source}", f"--dataset={folder}", "--val_fraction=0.3")
    assert not (folder / "meta.pkl").exists()
    options = ("--overwrite=True", "--vocab_size=300", "--val_fraction=0.3")
    done = command("prepare.py", f"--source={source}", f"--dataset={folder}", *options)
    assert (folder / "meta.pkl").exists()
    assert "the 300 tokens of GPT-2's that the stories use most" in done.stdout


def test_a_dataset_of_a_version_with_fewer_settings_is_recognized(tmp_path):
    source = str(tmp_path / "a.jsonl")
    lines = [json.dumps({"tale": story}) + "\n" for story in STORIES]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    prepare(tmp_path / "data", source, "--column=tale", "--val_fraction=0.3")
    written = meta(tmp_path / "data")
    del written["settings"]["separator"], written["settings"]["column"]
    written["settings"]["text_field"] = "tale"
    (tmp_path / "data" / "meta.json").write_text(json.dumps(written))
    again = prepare(tmp_path / "data", source, "--text_field=tale", "--val_fraction=0.3")
    assert "already prepared" in again.stdout


def test_a_source_whose_name_is_no_text_is_recognized(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    source = write(tmp_path / name, STORIES)
    prepare(tmp_path / "data", source, "--val_fraction=0.3")
    again = prepare(tmp_path / "data", source, "--val_fraction=0.3")
    assert "already prepared" in again.stdout


def test_what_cannot_be_removed_is_named(tmp_path):
    source, partial = write(tmp_path / "a.txt", STORIES), tmp_path / ".data.partial"
    partial.write_text("a file in its place")
    line = complaint("prepare.py", f"--source={source}", f"--dataset={tmp_path / 'data'}")
    assert line.endswith(f"cannot remove {partial}, which an earlier command left; remove it")


def test_a_file_without_its_setting_is_answered_with_the_command():
    with pytest.raises(UserError, match=r"python prepare.py --source='my tales.txt'$"):
        prepare_script.Settings.bare_argument("my tales.txt")


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
    few, many = (peak_memory(tmp_path / str(n), n) for n in (10_000, 50_000))
    # 40,000 stories are 20 MB of text; only their digests and some buffers may grow.
    assert many - few < 15e6
