"""What texts share with training stories: compared with brute force, and planted copies."""

import random

import numpy as np
import pytest

from configurator import UserError
from tinystories.dataset import TokenFile
from tinystories.evaluation import copies
from tinystories.evaluation.copies import Match
from tinystories.evaluation.diversity import words
from tinystories.stories import storybook
from tinystories.tokenizer import STORY_PATTERN, Tokenizer

BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
NO_MATCH = Match(copied_words=0, copied_text="", rouge_l=0.0, nearest_story="")


def train_bin(folder, stories):
    """A dataset folder with these training stories, one token per byte."""
    BYTES.encode_stories(stories).astype("<u2").tofile(folder / "train.bin")
    return folder


def training_stories(folder, tokenizer=BYTES):
    """The stories of a dataset's train.bin."""
    return TokenFile(folder / "train.bin", tokenizer.vocab_size, block_size=1).stories(tokenizer)


def nearest(texts, folder):
    return copies.nearest(texts, folder, BYTES)


def real_stories(tinystories, name, count):
    text = (tinystories / f"{name}.txt").read_text(encoding="utf-8")
    return [story.strip() for story in text.split("<|endoftext|>", count)[:count]]


# Brute force --------------------------------------------------------------------------------


def longest_run(text, stories):
    text, stories = words(text), "\n".join(f" {' '.join(words(story))} " for story in stories)
    length = 0
    while any(
        f" {' '.join(text[start : start + length + 1])} " in stories
        for start in range(len(text) - length)
    ):
        length += 1
    return length


def common_subsequence(a, b):
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            longer = diagonal + 1 if word == other else max(row[j], row[j - 1])
            diagonal, row[j] = row[j], longer
    return row[-1]


def rouge_l(text, story):
    text, story = words(text), words(story)
    return 2 * common_subsequence(text, story) / max(1, len(text) + len(story))


def check(matches, texts, stories):
    """Every match is what brute force finds."""
    for match, text in zip(matches, texts, strict=True):
        assert match.copied_words == longest_run(text, stories)
        assert longest_run(match.copied_text, stories) == match.copied_words
        rouge = [rouge_l(text, story) for story in stories]
        assert match.rouge_l == max(rouge)
        assert match.nearest_story == (stories[rouge.index(max(rouge))] if max(rouge) else "")


@pytest.fixture(scope="module")
def stories():
    """Twenty training stories and three others."""
    generated = list(storybook.stories(23))
    return generated[:20], generated[20:]


def texts_from(train, others):
    """Texts that copy much or little, in order or not."""
    scrambled = train[3].split()
    random.Random(0).shuffle(scrambled)
    return [
        others[0],
        train[0],
        train[1][100:400].upper(),
        train[2][-150:] + train[1][:150],
        " ".join(scrambled),
        " ".join(train[4:6]) + others[1],  # longer than any story
        "the the the the",
        "",
    ]


def test_agrees_with_brute_force(stories, tmp_path):
    train, others = stories
    texts = texts_from(train, others)
    check(nearest(texts, train_bin(tmp_path, train)), texts, train)


def test_agrees_with_brute_force_on_real_stories(tinystories, tmp_path):
    real = real_stories(tinystories, "train", 15)
    texts = texts_from(real[:12], real[12:])
    check(nearest(texts, train_bin(tmp_path, real[:12])), texts, real[:12])


def test_agrees_where_words_repeat_many_times(tmp_path):
    rng = random.Random(1)
    babble = [" ".join(rng.choices("abcd", k=rng.randint(1, 140))) for _ in range(36)]
    texts = [*babble[:12], *(" ".join("ab" * (k // 2)) for k in (62, 64, 126, 128))]
    check(nearest(texts, train_bin(tmp_path, babble[12:])), texts, babble[12:])


# Speed settings do not change results -------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3000])
def test_chunk_boundaries_change_nothing(stories, tmp_path, monkeypatch, tokens):
    folder, texts = train_bin(tmp_path, stories[0]), texts_from(*stories)
    whole = nearest(texts, folder), copies.leak(texts, folder, BYTES)
    for name in ("FIRST_CHUNK", "LARGEST_CHUNK"):
        monkeypatch.setattr(copies, name, tokens)
    assert (nearest(texts, folder), copies.leak(texts, folder, BYTES)) == whole


def test_how_much_is_compared_at_a_time_changes_nothing(stories, tmp_path, monkeypatch):
    folder, texts = train_bin(tmp_path, stories[0]), texts_from(*stories)
    whole = nearest(texts, folder), copies.leak(texts, folder, BYTES)
    for name in ("MATCH_BATCH", "WORD_CACHE_SIZE"):
        monkeypatch.setattr(copies, name, 3)
    assert (nearest(texts, folder), copies.leak(texts, folder, BYTES)) == whole


def test_two_processes_find_what_one_finds(stories, tmp_path, monkeypatch):
    train, others = stories
    twice = [version for story in train for version in (story, story.upper())]
    folder, texts = train_bin(tmp_path, twice), texts_from(train, others)
    one = nearest(texts, folder)
    sizes = {"SINGLE_PROCESS_TOKENS": 0, "MAX_WORKERS": 2, "FIRST_CHUNK": 1, "LARGEST_CHUNK": 1}
    for name, value in sizes.items():
        monkeypatch.setattr(copies, name, value)
    assert nearest(texts, folder) == one


def test_a_hash_that_is_the_same_for_all_ngrams_changes_nothing(stories, tmp_path, monkeypatch):
    train, _ = stories
    folder, texts = train_bin(tmp_path, train[:5]), [" ".join(reversed(train[0].split())), train[2]]
    whole = nearest(texts, folder), copies.leak(texts, folder, BYTES)
    ngram_hashes = copies._ngram_hashes
    monkeypatch.setattr(
        copies,
        "_ngram_hashes",
        lambda words: ((n, next_n, 0 * hashes) for n, next_n, hashes in ngram_hashes(words)),
    )
    assert (nearest(texts, folder), copies.leak(texts, folder, BYTES)) == whole


def test_progress_counts_all_tokens(stories, dataset):
    tokens = (dataset / "train.bin").stat().st_size // 2
    read = []
    copies.nearest(["a fox"], dataset, Tokenizer.load(dataset / "vocabulary.json"), read.append)
    assert sum(read) == tokens


# Copies -------------------------------------------------------------------------------------


def test_a_copied_passage_is_found_with_its_length_and_its_story(stories, tmp_path):
    train, _ = stories
    passage = " ".join(train[9].split()[30:55])
    [match] = nearest([f"Quux zorp {passage} florble."], train_bin(tmp_path, train))
    assert match.copied_words == len(words(passage))
    assert match.copied_text == passage
    assert passage in " ".join(match.nearest_story.split())


def test_a_training_story_is_its_own_nearest_story(dataset):
    tokenizer = Tokenizer.load(dataset / "vocabulary.json")
    own = next(training_stories(dataset, tokenizer))
    [match] = copies.nearest([own], dataset, tokenizer)
    assert match == Match(len(words(own)), " ".join(own.split()), 1.0, own)


def test_an_ngram_ends_where_the_story_ends(tmp_path):
    folder = train_bin(tmp_path, ["one two three", "four five six"])
    [match] = nearest(["two three four five six"], folder)
    assert (match.copied_words, match.copied_text) == (3, "four five six")


def test_an_ngram_does_not_cross_two_texts(tmp_path):
    folder = train_bin(tmp_path, ["one two three four"])
    assert [match.copied_words for match in nearest(["one two", "three four"], folder)] == [2, 2]


def test_case_punctuation_and_kind_of_apostrophe_are_ignored(tmp_path):
    story = "“Don't stop,” said Zoé. She ran…\n\nFast!"
    [match] = nearest(["don’t STOP said -- ZOÉ: 'she' ran fast"], train_bin(tmp_path, [story]))
    assert (match.copied_words, match.rouge_l) == (7, 1.0)


def test_a_word_with_an_apostrophe_is_another_word(tmp_path):
    [match] = nearest(["were its shell"], train_bin(tmp_path, ["we're it's she'll"]))
    assert match == NO_MATCH


def test_rouge_l_counts_words_in_the_same_order(tmp_path):
    folder = train_bin(tmp_path, ["the dog likes my cat", "my cat saw the dog", "a dog"])
    [match] = nearest(["My cat likes the dog."], folder)
    assert match == Match(2, "the dog.", 0.8, "my cat saw the dog")


@pytest.mark.parametrize("text", ["", " \n", "?!", "zorp quux"])
def test_a_text_that_shares_no_word_has_no_nearest_story(tmp_path, text):
    assert nearest([text], train_bin(tmp_path, ["A fox.", "", "A dog."])) == [NO_MATCH]


def test_no_texts_no_matches(tmp_path):
    folder = train_bin(tmp_path, ["A fox."])
    assert nearest([], folder) == []
    assert set(leak([], folder).values()) == {0}


# Leaks --------------------------------------------------------------------------------------


def leak(texts, folder):
    return copies.leak(texts, folder, BYTES)


def sentence(*numbers):
    return " ".join(f"word{number}" for number in numbers) + "."


def test_leaks_are_counted(tmp_path):
    long = sentence(*range(100, 160))
    folder = train_bin(tmp_path, ["A fox ran.", long, sentence(*range(200, 230))])
    texts = [
        "a FOX ran",  # whole
        "A fox ran.",  # whole and beginning
        "A fox ran",
        long[:100] + " and another end",  # beginning
        "Start. " + sentence(*range(210, 223)) + " End.",  # 13 words in a row
        "Start. " + sentence(*range(210, 222)) + " End.",  # of 12: no leak
        sentence(*range(300, 400)),
        "",
    ]
    assert leak(texts, folder) == {"stories": 8, "whole": 3, "prefix": 2, "ngram": 1}


def test_no_leak_if_nothing_is_shared(tmp_path):
    folder = train_bin(tmp_path, ["", sentence(*range(50))])
    assert leak(["", "A fox.", sentence(*range(50, 100))], folder) == {
        **{"stories": 3, "whole": 0},
        **{"prefix": 0, "ngram": 0},
    }


def ngrams_of_13(story):
    story = words(story)
    return {tuple(story[k : k + 13]) for k in range(len(story) - 12)}


def test_leaks_agree_with_brute_force(tinystories, tmp_path):
    train, val = real_stories(tinystories, "train", 3000), real_stories(tinystories, "valid", 500)
    val += [train[7], train[8] + " More.", train[9].upper()]
    known = set().union(*map(ngrams_of_13, train))
    wholes = {tuple(words(story)) for story in train}
    beginnings = {story[:100] for story in train}
    assert leak(val, train_bin(tmp_path, train)) == {
        "stories": len(val),
        "whole": sum(tuple(words(story)) in wholes for story in val),
        "prefix": sum(story[:100] in beginnings for story in val),
        "ngram": sum(not known.isdisjoint(ngrams_of_13(story)) for story in val),
    }


# Reading ------------------------------------------------------------------------------------


def test_the_stories_of_a_bin_are_read_back(tmp_path):
    stories = ["One.", "", "Zoé’s 🦊\n\nran.", "  The end. "]
    train_bin(tmp_path, stories)
    assert list(training_stories(tmp_path)) == stories


def test_a_last_story_without_end_of_text_is_a_story(tmp_path):
    np.frombuffer(b"O\0n\0e\0\0\1T\0w\0o\0", dtype="<u2").tofile(tmp_path / "train.bin")
    assert list(training_stories(tmp_path)) == ["One", "Two"]
    assert nearest(["two"], tmp_path)[0].nearest_story == "Two"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.bin is missing"):
        nearest(["a fox"], tmp_path)


def test_ids_of_another_vocabulary_are_refused(tmp_path):
    np.array([65, 300, 256], dtype="<u2").tofile(tmp_path / "train.bin")
    with pytest.raises(UserError, match="id 300 at position 1, outside"):
        nearest(["a fox"], tmp_path)
