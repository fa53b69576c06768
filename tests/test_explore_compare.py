"""explore.py --compare: equal amounts of several datasets, against counts by hand; its mistakes."""

import pickle
import re
import shutil

import numpy as np
import pytest
from conftest import command, complaint, contents, forked, sign
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

import explore
from configurator import UserError, parse
from explore import Settings
from tinystories import comparefigures, figures, storystats
from tinystories.dataset import read_meta, write_meta
from tinystories.stories import storybook
from tinystories.storystats import columns, compare
from tinystories.tokenizer import Tokenizer

FOX = 'A fox named Tom sat. "I am tired," he said.\n\nThen Tom ran home.'
HEN = "The hen saw a bird. It was red."


# Numbers --------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=5))
def test_ngrams_are_counted_as_by_hand_and_end_with_their_story(stories):
    texts = [" ".join(words) for words in stories]
    words, owners = storystats.encode(texts, {}, 10**6)
    for n in (1, 2, 3, 4):
        expected = {tuple(s[i : i + n]) for s in stories for i in range(len(s) - n + 1)}
        assert len(storystats.ngrams(words, owners, n)) == len(expected)


def test_shapes_are_counted_as_by_hand():
    words, paragraphs, speaking, spoken = storystats.shapes([FOX, HEN])
    assert words == 22 / 5
    assert paragraphs == 1.5
    assert speaking == 0.5
    assert spoken == 3 / 22


@pytest.mark.parametrize("speech", ['"Hi there," he said.', "“Hi there,” he said.", "«Hi there»."])
def test_dialogue_is_what_is_in_quotation_marks(speech):
    assert storystats.shapes([speech])[2:] == (1, 2 / len(re.findall(r"\w+", speech)))


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return list(storybook.stories(400))


def test_more_stories_of_a_kind_look_the_same(stories):
    """Numbers that grow with the text are those of equal amounts."""
    few, many = compare({"few": stories[:100], "many": stories[100:]}).portraits.values()
    for n in storystats.NGRAMS:
        assert few.distinct[n] == pytest.approx(many.distinct[n], rel=0.1)
    assert few.near_duplicates == pytest.approx(many.near_duplicates, abs=0.05)
    for share in (few.shared["many"], many.shared["few"], many.shared["many"]):
        assert share == pytest.approx(few.shared["few"], abs=0.05)


def test_amounts_are_those_of_the_smallest(stories):
    comparison = compare({"one": [FOX], "many": stories})
    assert (comparison.words, comparison.stories) == (14, 1)
    assert comparison.portraits["one"].distinct[1] == 13 * 1e6 / 14  # Tom is in it twice
    assert len(comparison.portraits["many"].words.lengths) == 1


def test_stories_told_with_other_names_are_near_duplicates(stories):
    retold = [re.sub(r"(?<=[a-z,] )[A-Z][a-z]+", "Ottilie", story) for story in stories[:50]]
    portraits = compare({"told": stories[:100], "retold": stories[:50] + retold}).portraits
    assert portraits["told"].near_duplicates < 0.1
    assert portraits["retold"].near_duplicates == 1


def test_ngrams_are_shared_with_a_dataset_of_the_same_kind_only(stories):
    other = [story.upper().replace("E", "X").lower() for story in stories[200:]]
    shared = compare({"a": stories[:200], "b": other}).portraits["a"].shared
    assert shared["a"] > 0.3 > 0.2 > shared["b"]


# The command ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def other_ids(dataset, tmp_path_factory):
    """The stories of `dataset` in another vocabulary."""
    folder = tmp_path_factory.mktemp("other") / "other_ids"
    options = f"--source=storybook --max_stories=400 --val_fraction=0.05 --dataset={folder}"
    forked("prepare.py", *options.split(), "--tokenizer=bpe", "--vocab_size=500")
    return folder


@pytest.mark.slow
def test_the_vocabulary_does_not_matter(dataset, other_ids, tmp_path):
    plot = tmp_path / "page.png"
    done = command("explore.py", f"--compare={dataset},{other_ids}", f"--plot={plot}")
    assert done.stdout == (tmp_path / "page.txt").read_text(encoding="utf-8")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["small", "other_ids"]
    cells = [line.split()[-2:] for line in lines[1 : lines.index("")] if line.startswith("  ")]
    own, other = zip(*cells[:-2], strict=True)
    assert own == other and own[0] == str(read_meta(dataset)["splits"]["train"]["stories"])
    last = f"plots: {plot}; this text: {tmp_path}/page.txt; time: "
    assert last in " ".join(done.stderr.split())
    assert imread(plot).shape[1] == figures.WIDTH * figures.DPI
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.png", "page.txt"]


@pytest.mark.slow
def test_the_page_is_in_data(dataset, other_ids, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    monkeypatch.setattr(explore, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    explore.main(Settings(compare=f"{dataset}, {other_ids}", sample=20))
    made = contents(tmp_path / "data")
    assert made.keys() == {"compare.png", "compare.txt"}
    assert b"Near-duplicates in 20 stories of each" in made["compare.txt"]


def test_long_stories_are_cut_and_text_is_bounded(dataset, monkeypatch):
    monkeypatch.setattr(explore, "LONGEST_STORY", 50)
    monkeypatch.setattr(explore, "MOST_TEXT", 1000)
    data = explore.open_stories(str(dataset))
    split = explore.read_split(data.train, data.tokenizer.end_of_text)
    found = explore.compared_stories(split, data.tokenizer, 10_000, "decoding")
    assert [len(story) for story in found] == [50] * 20
    assert found == explore.compared_stories(split, data.tokenizer, 10_000, "decoding")


def test_stories_without_names_and_datasets_with_long_names_are_plotted(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    names = [f"a_very_long_name_{i}_of_a_dataset" for i in range(explore.MOST_COMPARED)]
    names += [f"{letter}/a_very_long_name_that_two_folders_have" for letter in "ab"]
    comparison = compare({name: ["the hen"] for name in names})
    (shared,) = {tuple(list(rows.values())[-1]) for rows in columns(comparison).values()}
    assert len(shared) == len(names)  # no two have one label
    comparison = compare({name: ["the hen"] for name in names[: explore.MOST_COMPARED]})
    comparefigures.plot_comparison(comparison, tmp_path / "page.png")
    assert imread(tmp_path / "page.png").std() > 0.1


# Mistakes -------------------------------------------------------------------------------------


def with_ids(data, folder, ids) -> None:
    """A copy of a dataset whose training file has other ids."""
    shutil.copytree(data, folder)
    np.asarray(ids, "<u2").tofile(folder / "train.bin")
    meta = read_meta(folder)
    meta["splits"]["train"]["tokens"] = len(ids)
    write_meta(folder, meta)
    sign(folder)


@pytest.fixture(scope="module")
def places(dataset, tmp_path_factory):
    """Datasets by name, some of which cannot be compared."""
    folder = tmp_path_factory.mktemp("places")
    tokenizer = Tokenizer.load(dataset / "vocabulary.json")
    with_ids(dataset, folder / "empty", [tokenizer.end_of_text] * 9)
    with_ids(dataset, folder / "wordless", tokenizer.encode_stories(["12!", "34?"]))
    (folder / "characters").mkdir()
    characters = {"vocab_size": 2, "stoi": {"a": 0, "b": 1}, "itos": {0: "a", 1: "b"}}
    (folder / "characters/meta.pkl").write_bytes(pickle.dumps(characters))
    for split in ("train", "val"):
        np.zeros(100, "<u2").tofile(folder / "characters" / f"{split}.bin")
    return {path.name: path for path in folder.iterdir()} | {"a": dataset}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--compare={a}", "compare is '{a}'; name 2 to 7 datasets, separated by commas"),
        ("--compare=,", "compare is ','; name 2 to 7 datasets, separated by commas"),
        ("--compare=a,b,c,d,e,f,g,h", "compare is 'a,b,c,d,e,f,g,h'; name 2 to 7 datasets"),
        ("--compare={a},{a} --dataset={a}", "give either dataset or compare"),
        ("--compare={a},{a}/../small", "compare has {a} twice"),
        ("--compare={a},{a}/no", "{a}/no is missing; prepare it with: python prepare.py"),
        ("--compare={a},tinystoris", "data/tinystoris is missing; did you mean tinystories?"),
        ("--compare={a},{empty}", "{empty}/train.bin holds no story that ends"),
        ("--compare={a},{wordless}", "the stories of wordless have no words to compare"),
        ("--compare={a},{characters}", "{characters} is one text in characters"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(places, tmp_path, monkeypatch, options, line):
    (tmp_path / "data/tinystories").mkdir(parents=True)
    monkeypatch.setattr(explore, "ROOT", tmp_path)
    with pytest.raises(UserError) as refused:
        explore.main(parse(Settings, options.format(**places).split()).settings)
    assert str(refused.value).startswith(line.format(**places))
    assert contents(tmp_path) == {}


@pytest.mark.slow
def test_one_name_is_refused_by_the_command(dataset):
    line = complaint("explore.py", f"--compare={dataset}", run=forked)
    assert line.startswith("explore.py: compare is ")


def test_a_page_replaces_only_an_earlier_page(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("Dear diary")
    settings = Settings(compare=f"{dataset},no", plot=str(tmp_path / "notes.png"))
    with pytest.raises(UserError, match=r"notes.txt is no summary of explore.py"):
        explore.main(settings)
