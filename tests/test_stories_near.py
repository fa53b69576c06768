"""--near_duplicates and --select: which stories are dropped, which stay, and how it is counted."""

import json
import random
import re

import pytest
from conftest import complaint, forked

import prepare
from configurator import UserError, parse
from tinystories.dataset import open_dataset
from tinystories.stories import near, storybook
from tinystories.stories.cleaning import RULES
from tinystories.stories.select import select

NEW_NAMES = ("Zora", "Quentin", "Ottilie", "Bartholomew")
RULE = "=" * 20


def other_names(story: str) -> str:
    """The story with new names, one for each."""
    names = sorted(set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", story)))
    for name, new in zip(names, NEW_NAMES, strict=False):
        story = re.sub(rf"\b{name}\b", new, story)
    return story


def other_order(story: str) -> str:
    """The story with its sentences shuffled."""
    sentences = re.split(r"(?<=[.!?])\s+", story)
    random.Random(story).shuffle(sentences)
    return " ".join(sentences)


def shorter(story: str) -> str:
    """The story without one of its paragraphs, the longest excepted."""
    paragraphs = story.split("\n\n")
    paragraphs.remove(sorted(paragraphs, key=len)[-2])
    return "\n\n".join(paragraphs)


def find(folder, stories, first_train=0, threshold=0.8) -> dict[int, near.Copy]:
    path = folder / "stories.jsonl"
    path.write_text("".join(json.dumps(story) + "\n" for story in stories))
    return near.near_duplicates(near.StoryFiles([path]), len(stories), first_train, threshold)


@pytest.fixture(scope="module")
def different(tmp_path_factory) -> list[str]:
    """150 storybook stories of three paragraphs or more, without near-duplicates."""
    texts = [text for text in storybook.stories(400) if text.count("\n\n") > 1]
    copies = find(tmp_path_factory.mktemp("different"), texts, threshold=0.5)
    return [text for n, text in enumerate(texts) if n not in copies][:150]


@pytest.mark.parametrize("change", [other_names, other_order, shorter])
def test_copies_with_a_change_are_found(change, different, tmp_path):
    copies = find(tmp_path, different + [change(story) for story in different])
    count = len(different)
    right = [n for n in range(count) if copies.get(count + n, (None,))[0] == n]
    assert len(right) >= 0.95 * count
    assert not copies.keys() & set(range(count))


@pytest.mark.parametrize(("name", "new"), [("Маша", "Катя"), ("Éloïse", "Ágnes"), ("Anna", "Mia")])
def test_names_of_any_alphabet_count_as_one(name, new):
    story = f"{name} лю́бит кота. Once {name} went to the big lake to see a fish jump."
    assert near.grams(story) == near.grams(story.replace(name, new))


def test_several_processes_find_the_same(different, tmp_path, monkeypatch):
    texts = different[:60] + [other_order(other_names(story)) for story in different[:60]]
    alone = find(tmp_path, texts, first_train=30)
    monkeypatch.setattr(near, "SINGLE_PROCESS", 0)
    monkeypatch.setattr(near, "COMPARED_AT_ONCE", 7)
    monkeypatch.setattr(near.os, "cpu_count", lambda: 2)
    assert len(alone) == 60 and find(tmp_path, texts, first_train=30) == alone


def test_stories_that_share_an_opening_are_kept(different, tmp_path):
    opening = (
        "Once upon a time, in a small house by the sea, there lived a girl who loved to sing. "
    )
    assert not find(tmp_path, [opening + story for story in different])


def test_a_story_is_compared_with_kept_ones_so_a_chain_is_not_dropped_whole(tmp_path):
    sentences = [" ".join(f"{letter}{n}" for n in range(10)) for letter in "abcdefghijklm"]
    chain = [". ".join(sentences[n : n + 10]) for n in range(4)]  # each has 0.9 of the one before
    assert find(tmp_path, chain, threshold=0.85).keys() == {1, 3}
    assert find(tmp_path, chain, threshold=0.6).keys() == {1, 2, 3}


def test_validation_is_kept_and_comes_before_training(different, tmp_path):
    story, other = different[:2]
    texts = [
        story,
        other_names(story),
        other,
        other_order(other),
        other_names(other),
        shorter(story),
    ]
    assert {n: copy.kept for n, copy in find(tmp_path, texts, 2).items()} == {3: 2, 4: 2, 5: 0}
    # None of 40 copies is left, though each meets only some of the others.
    copies = find(tmp_path, [story, *[other_order(story) + f" {n}." for n in range(40)]], 1)
    assert {copy.kept for copy in copies.values()} == {0} and len(copies) == 40


def test_texts_without_words_are_no_copies(tmp_path):
    assert not find(tmp_path, ["!", "", "?!", "A fox.", "🦊"])


def test_an_index_finds_what_comparing_all_texts_finds(different, monkeypatch):
    monkeypatch.setattr(near, "BLOCK", 7)
    kept = different[:60]
    index = near.Index(kept.__getitem__)
    for story in kept:
        assert index.find(story, 0.8) is None
        index.add(story)
    for number, story in enumerate(kept):
        for change in (other_names, other_order, shorter):
            changed = change(story)
            similarity = near.containment(near.grams(story), near.grams(changed))
            assert index.find(changed, 0.8) == (number, similarity)
    assert all(index.find(story, 0.8) is None for story in [*different[60:], "", "?!"])


def test_the_order_of_a_source_does_not_change_what_is_near_validation(different, tmp_path):
    val = different[:30]
    train = [change(story) for story in val for change in (other_names, shorter)] + different[30:]
    dropped = []
    for seed in range(3):
        random.Random(seed).shuffle(train)
        copies = find(tmp_path, val + train, 30)
        dropped.append({train[n - 30]: val[copy.kept] for n, copy in copies.items()})
    assert dropped[0] == dropped[1] == dropped[2] and len(dropped[0]) == 60


@pytest.fixture(scope="module")
def prepared(different, tmp_path_factory):
    """A dataset of two files with copies of each other and of validation: the folder, its output,
    and how many stories it read.
    """
    folder = tmp_path_factory.mktemp("prepared")
    parts = (
        different[:100] + [other_names(story) for story in different[:20]],
        [shorter(story) for story in different[:30]] + different[100:],
    )
    for name, texts in zip("ab", parts, strict=True):
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(texts))
    done = forked("prepare.py", *options(folder), "--near_duplicates=0.8")
    return folder, done.stdout, sum(map(len, parts))


def options(folder) -> list[str]:
    sizes = "--val_fraction=0.2 --tokenizer=bpe --vocab_size=300"
    return f"--source={folder}/a.txt,{folder}/b.txt {sizes} --dataset={folder / 'data'}".split()


@pytest.mark.slow
def test_what_was_dropped_is_counted_and_kept_for_reading(prepared, different):
    folder, printed, read = prepared
    data = open_dataset(str(folder / "data"), 8)
    train, val = (list(s.stories(data.tokenizer)) for s in (data.train, data.val))
    meta = json.loads((folder / "data/meta.json").read_text())
    cleaning = meta["cleaning"]["train"]
    assert cleaning.keys() == {"near_duplicate", "near_validation"}
    assert len(train) + len(val) + sum(cleaning.values()) == read
    # In training none is near another or near validation.
    grams = [near.grams(text) for text in val + train]
    for n in range(len(val), len(grams)):
        assert max(near.containment(grams[n], other) for other in grams[:n]) < 0.8
    for part in meta["sources"]:
        assert part["train"]["kept"] == part["train"]["stories"]
    for rule in cleaning:
        text = RULES[rule].removeprefix("dropped").lstrip(", ")
        assert f"{cleaning[rule]:9}  {text}\n" in printed
    assert "near_duplicates.txt has near-duplicates to read" in printed
    assert "--clean=False" not in printed
    pairs = (folder / "data/near_duplicates.txt").read_text().split(f"{RULE} dropped, similarity ")
    assert (
        pairs[0] == f"20 of {sum(cleaning.values())} near-duplicates, the least similar first\n\n"
    )
    scores = []
    for pair in pairs[1:]:
        head, _, kept = pair.partition(f"\n\n{RULE} kept\n")
        score, _, dropped = head.partition("\n")
        assert kept.strip() in train + val and dropped not in train + val
        assert f"{near.containment(near.grams(kept), near.grams(dropped)):.3f}" == score
        scores.append(score)
    assert len(scores) == 20 and scores == sorted(scores)


@pytest.mark.slow
def test_prepared_again_it_is_recognized_and_the_pairs_go_with_overwriting(prepared):
    folder = prepared[0]
    again = forked("prepare.py", *options(folder), "--near_duplicates=0.8").stdout
    assert "already prepared" in again and "near_duplicates.txt" in again
    assert "--overwrite=True" in complaint("prepare.py", *options(folder), run=forked)
    done = forked("prepare.py", *options(folder), "--select=40", "--overwrite=True").stdout
    assert not (folder / "data/near_duplicates.txt").exists()
    assert re.search(r"train.bin +40 stories", done)
    meta = json.loads((folder / "data/meta.json").read_text())
    splits, cleaning = meta["splits"], meta["cleaning"]["train"]
    assert cleaning.keys() == {"not_selected"}
    assert 40 + splits["val"]["stories"] + cleaning["not_selected"] == prepared[2]


@pytest.mark.parametrize(
    "given, words",
    [
        ("--near_duplicates=0", "near_duplicates"),
        ("--near_duplicates=1.1", "near_duplicates"),
        ("--select=0", "select"),
        ("--separator=none --select=5", "separator=none makes one text"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        parse(prepare.Settings, given.split())


def coverage(stories: list[str]) -> int:
    """Different word 3-grams of some stories."""
    return len(set().union(*(near.grams(story, 3) for story in stories)))


def test_the_selection_covers_more_than_the_first_and_than_random_ones(different):
    # One theme 120 times, few of others behind it.
    many = [f"{other_names(different[0])} It was day {n}." for n in range(120)]
    stories = many + different[1:61]
    kept = select(stories, len(stories), 40)
    assert len(kept) == 40 and kept == select(iter(stories), len(stories), 40)
    best = coverage([stories[n] for n in kept])
    assert best > 1.5 * coverage(stories[:40])
    assert best > 1.2 * max(coverage(random.Random(s).sample(stories, 40)) for s in range(5))


def test_the_selection_is_the_greedy_one_story_by_story(different):
    stories = different[:40]
    rest = {n: near.grams(story, 3) for n, story in enumerate(stories)}
    chosen, covered = set(), set()
    while len(chosen) < 12:
        best = max(rest, key=lambda n: len(rest[n] - covered))  # the first of the best
        covered |= rest.pop(best)
        chosen.add(best)
        assert select(stories, 40, len(chosen)) == chosen, len(chosen)


def test_where_there_are_fewer_stories_all_are_selected(different):
    assert select(different[:5], 5, 9) == select(different[:5], 5, 5) == set(range(5))
    assert select(["A fox sat down."] * 5, 5, 3) == {0, 1, 2}  # those that add nothing, in order
