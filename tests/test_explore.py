"""explore.py: its statistics of a dataset against counts by hand, its files, its mistakes."""

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, command, complaint, sign
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

import explore
from configurator import UserError, parse
from explore import Settings, compute_stats, coverage, read_split, windows_by_stories
from tinystories import figures, tokenizer
from tinystories.dataset import TokenFile, read_meta, write_meta
from tinystories.stories import storybook
from tinystories.storystats import count_words

gpt2_available = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)

TRAIN = (
    "Once upon a time, a cat named Tom sat. Tom saw the sun.",
    "Once upon a time, Lily and Tom ran.",
    "The cat didn’t run, but Lily did! “Yes,” said Tom.",
)
VAL = ("The sun saw Lily.", "A cat ran.")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Three stories to train on and two to validate on, in bytes: 256 ids and end of text."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, stories in (("train", TRAIN), ("val", VAL)):
        text = "\n<|endoftext|>\n".join(stories)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    sources = f"--source={folder}/train.txt", f"--val_source={folder}/val.txt"
    bpe = "--tokenizer=bpe", "--vocab_size=257", "--clean=False"
    command("prepare.py", *sources, *bpe, f"--dataset={folder}/data")
    return folder / "data"


@pytest.fixture(scope="session")
def stats(tiny):
    return compute_stats(Settings(dataset=str(tiny)))


def split_of(folder, ids: list[int], end_of_text: int = 9) -> explore.Split:
    """What explore.py reads from a .bin of these ids; 9 is the end of text."""
    np.asarray(ids, dtype="<u2").tofile(folder / "train.bin")
    return read_split(TokenFile(folder / "train.bin", 10, block_size=1), end_of_text)


# Tokens -------------------------------------------------------------------------------------


def test_stories_and_bytes_are_those_of_the_metadata(stats, tiny):
    expected = read_meta(tiny)["splits"]
    for name, split in (("train", stats.train), ("val", stats.val)):
        assert len(split.stories) == expected[name]["stories"]
        assert len(split.ids) == expected[name]["tokens"]
        assert split.counts @ stats.data.tokenizer.byte_lengths() == expected[name]["bytes"]


def test_a_story_is_as_long_as_its_tokens_without_end_of_text(stats):
    assert stats.train.lengths.tolist() == [len(story.encode()) for story in TRAIN]


def test_a_large_file_is_read_in_chunks_with_the_same_result(tmp_path, monkeypatch):
    ids = np.random.default_rng(0).integers(0, 10, size=100).tolist()
    whole = split_of(tmp_path, ids)
    monkeypatch.setattr("tinystories.dataset.CHUNK", 7)
    chunks = split_of(tmp_path, ids)
    assert chunks.counts.tolist() == whole.counts.tolist() == np.bincount(ids).tolist()
    assert chunks.ends.tolist() == whole.ends.tolist() == np.flatnonzero(np.equal(ids, 9)).tolist()


@pytest.mark.parametrize(
    ("ids", "stories"),
    [
        ([1, 2, 9, 3, 9], [[0, 2], [3, 4]]),  # as prepare.py writes them
        ([9, 1, 2, 9, 3], [[1, 3], [4, 5]]),  # end of text before stories
        ([1, 9, 9, 2, 9], [[0, 1], [3, 4]]),  # nothing between two
    ],
)
def test_a_story_is_what_is_between_two_ends_of_text(tmp_path, ids, stories):
    assert split_of(tmp_path, ids).stories.tolist() == stories


def test_coverage_counts_the_most_frequent_ids_first():
    assert coverage(np.array([1, 0, 6, 3])).tolist() == [0.6, 0.9, 1.0]


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 70))
def test_windows_are_counted_as_by_hand(is_end, block_size):
    story = np.cumsum([0, *is_end[:-1]])  # the story that each token belongs to
    expected = [0] * explore.MAX_STORIES_PER_WINDOW
    for start in range(len(story) - block_size + 1):
        held = len(set(story[start : start + block_size]))
        expected[min(held, explore.MAX_STORIES_PER_WINDOW) - 1] += 1
    counted = windows_by_stories(np.flatnonzero(is_end), len(is_end), block_size)
    assert counted.tolist() == expected


# Words --------------------------------------------------------------------------------------


def test_words_are_counted_in_lower_case(stats):
    assert stats.sample.lengths.tolist() == [13, 8, 10]
    assert stats.sample.words["tom"] == 4
    assert stats.sample.words["the"] == 2
    assert stats.sample.words["didn’t"] == 1
    assert stats.sample.words.total() == 31
    title, unit, rates = next(stats.sample.rates())
    assert (title, unit) == ("Most frequent words", "per 1,000 words")
    assert next(iter(rates.items())) == ("tom", pytest.approx(4000 / 31))


def test_openings_are_the_first_four_words(stats):
    assert stats.sample.openings == {"Once upon a time": 2, "The cat didn’t run": 1}
    title, unit, rates = list(stats.sample.rates())[2]
    assert (title, unit) == ("Openings", "per 100 stories")
    assert next(iter(rates.items())) == ("Once upon a time", pytest.approx(200 / 3))


def test_names_are_counted_once_per_story(stats):
    assert stats.sample.names == {"Tom": 3, "Lily": 2}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A girl named Anna met Élodie.", {"Anna", "Élodie"}),
        ("Anna ran. Ben ran.", set()),  # at the beginning of sentences
        ("He said, “Hello” and I agreed.", set()),
        ("A dog named Spot sat on a spot.", set()),  # capitalized in only half of the cases
        ("Then Spot ran, and Spot sat, and Spot saw the spot.", {"Spot"}),
    ],
)
def test_a_name_is_mostly_capitalized_inside_sentences(text, names):
    assert set(count_words([text]).names) == names


def test_the_sample_is_evenly_spaced_from_the_first_story_to_the_last(dataset):
    few = compute_stats(Settings(dataset=str(dataset), sample=3)).sample
    full = compute_stats(Settings(dataset=str(dataset))).sample
    last = len(full.lengths) - 1
    assert few.lengths.tolist() == full.lengths[[0, last // 2, last]].tolist()


# Vocabularies -------------------------------------------------------------------------------


def test_bytes_per_token_are_measured_on_validation_stories(stats):
    size = sum(len(story.encode()) for story in VAL)
    assert stats.dataset_bytes == pytest.approx(size / (size + len(VAL)))
    assert stats.bytes_by_vocab_size == {
        257: stats.dataset_bytes
    }  # the stories are too few for 512


def test_the_first_tokens_of_a_large_vocabulary_are_the_small_one():
    stories = list(storybook.stories(300))
    large = tokenizer.train_bpe(stories, 1024)
    small = tokenizer.train_bpe(stories, 512)
    by_size = explore.bytes_by_vocab_size(large, stories)
    assert by_size[512] == explore.bytes_per_token(small, stories)
    assert 1 > by_size[257] > 0.99
    assert by_size[1024] > by_size[512] > by_size[257]


# The command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_a_summary_and_plots_a_page(dataset, tmp_path):
    plot = tmp_path / "page.png"
    done = command("explore.py", f"--dataset={dataset}", f"--plot={plot}")
    assert done.stdout == (tmp_path / "page.txt").read_text(encoding="utf-8")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert str(plot) in done.stderr
    next_command = done.stderr.partition("train on it:\n")[2].replace("\\\n", "")
    assert shlex.split(next_command) == ["python", "train.py", f"--dataset={dataset}"]
    page = imread(plot)
    assert page.shape[1] == figures.WIDTH * figures.DPI
    assert page.std() > 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.png", "page.txt"]


@pytest.fixture
def copied(tiny, tmp_path, monkeypatch):
    """A copy of the tiny dataset, to be changed; plots of low resolution are faster."""
    monkeypatch.setattr(figures, "DPI", 30)
    return shutil.copytree(tiny, tmp_path / "data")


def test_the_plot_is_in_the_folder_of_the_dataset(copied):
    explore.main(Settings(dataset=str(copied)))
    assert imread(copied / "explore.png").std() > 0
    assert "Once upon a time 66.7" in (copied / "explore.txt").read_text(encoding="utf-8")


def test_what_cleaning_changed_is_in_the_summary(copied):
    meta = read_meta(copied)
    meta["cleaning"]["train"] = {"duplicate": 7}
    write_meta(copied, meta)
    summary = explore.summary(compute_stats(Settings(dataset=str(copied))))
    assert "  train         7  dropped, the same text came before" in summary


@gpt2_available
def test_a_folder_without_meta_json_is_assumed_to_be_gpt2(tmp_path, capsys):
    for split, stories in (("train", TRAIN), ("val", VAL)):
        tokenizer.gpt2().encode_stories(stories).astype("<u2").tofile(tmp_path / f"{split}.bin")
    stats = compute_stats(Settings(dataset=str(tmp_path)))
    assert stats.sample.names == {"Tom": 3, "Lily": 2}
    assert explore.summary(stats).endswith("Cleaning: unknown (not in meta.json)")
    assert "assuming GPT-2 token ids" in capsys.readouterr().err


def test_windows_longer_than_the_data_are_left_out(copied):
    settings = Settings(dataset=str(copied), block_sizes="8,1000000")
    summary = explore.summary(compute_stats(settings))
    assert "\n       8 " in summary
    assert "1,000,000" not in summary


# Mistakes -----------------------------------------------------------------------------------


def refusal(*argv) -> str:
    """The one line with which explore.py refuses a command line."""
    with pytest.raises(UserError) as refused:
        explore.main(parse(Settings, list(argv)).settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_missing_dataset_is_one_line_that_says_what_to_do(tmp_path):
    line = complaint("explore.py", f"--dataset={tmp_path}/no")
    assert line.startswith(
        f"explore.py: {tmp_path}/no is missing; prepare it with: python prepare.py"
    )


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--dataset=", "dataset is empty"),
        ("--sample=0", "sample is 0; it must be >= 1"),
        ("--block_sizes=", "block_sizes is ''; write it as 128,256,512"),
        ("--block_sizes=128,0", "block_sizes is '128,0'"),
        ("--block_sizes=small", "block_sizes is 'small'"),
        ("--plot=page.jpg", "plot is 'page.jpg'; name a .png file"),
        ("--plot=no/such/page.png", "plot is 'no/such/page.png'; name a .png file in a folder"),
    ],
)
def test_a_wrong_value_is_named(option, line):
    assert refusal(option).startswith(line)


def test_an_id_outside_the_vocabulary_is_named_with_its_position(copied):
    ids = np.fromfile(copied / "val.bin", "<u2")
    ids[3] = 300
    ids.tofile(copied / "val.bin")
    sign(copied)
    line = refusal(f"--dataset={copied}")
    assert "val.bin holds the id 300 at position 3, outside the vocabulary of 257" in line


@pytest.mark.parametrize("ids", [[5] * 50, [256] * 50])
def test_a_file_without_a_story_is_named(copied, ids):
    meta = read_meta(copied)
    meta["splits"]["val"]["tokens"] = 50
    write_meta(copied, meta)
    np.asarray(ids, "<u2").tofile(copied / "val.bin")
    sign(copied)
    assert "val.bin holds no story that ends" in refusal(f"--dataset={copied}")


def test_a_tokenizer_of_another_dataset_is_refused(copied, dataset):
    shutil.copy(dataset / "vocabulary.json", copied)
    assert "is not the one that meta.json describes" in refusal(f"--dataset={copied}")


def test_help_and_mistakes_need_no_slow_import():
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "explore.py", "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "--block_sizes=128,256,512,1024" in shown.stdout
    assert not {"matplotlib", "numpy", "tiktoken"} & {
        line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()
    }


@pytest.mark.parametrize("name", ["notes.png", "notes.txt"])
def test_a_page_replaces_only_an_earlier_page(tiny, tmp_path, name):
    (tmp_path / name).write_text("Dear diary")
    settings = Settings(dataset=str(tiny), plot=str(tmp_path / "notes.png"))
    with pytest.raises(UserError, match=rf"{name} is no .*; name another --plot"):
        explore.main(settings)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    for _ in range(2):
        explore.main(settings)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.png", "notes.txt"}
