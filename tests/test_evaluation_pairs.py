"""The texts in prompts/: well written, and without a hint that gives the right answer away."""

import json
import math
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from configurator import UserError
from tinystories.evaluation.generation import read_prompts
from tinystories.evaluation.pairs import MinimalPair, read_pairs

PAIRS, PROMPTS = read_pairs(), read_prompts()
GROUPS = ["grammar", "facts", "recall", "context", "feeling", "form"]
GOOD = {
    "group": "facts",
    "kind": "animal",
    "beginning": "The cow said,",
    "right": ' "Moo!"',
    "wrong": ' "Quack!"',
}


def tokens(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return re.findall(r"[a-z']+|[^\sa-z']", text.lower())


def words(text: str) -> list[str]:
    return [token.strip("'") for token in tokens(text) if token.strip("'").isalpha()]


def sentences(text: str) -> int:
    """Sentences that have ended; one in quotes that goes on with "said Mom" has not."""
    return len(re.findall(r'[.!?]"?(?= ["A-Z]|$)', text))


def biased(score, without: str = "") -> list[str]:
    """The groups in which a score, higher for the better guess, finds out what is right.

    A group `without` is not asked.

    Guessing among n pairs wins half of them; 19 times in 20 the fraction of wins is within
    1.96 sqrt(1/4 / n) of one half. A draw counts as half a win.

    Args:
        score: gives a number for (pair, continuation, the other continuation).
    """
    found = []
    for group in [*GROUPS, "all"]:
        pairs = [pair for pair in PAIRS if group in (pair.group, "all") and pair.group != without]
        if not pairs:
            continue
        leads = [score(p, p.right, p.wrong) - score(p, p.wrong, p.right) for p in pairs]
        wins = sum((lead > 0) + (lead == 0) / 2 for lead in leads)
        if abs(wins / len(pairs) - 0.5) > 1.96 * math.sqrt(0.25 / len(pairs)):
            found.append(f"{group}: {wins:.0f} of {len(pairs)}")
    return found


# what is there -----------------------------------------------------------------------------


def test_there_are_enough_texts_of_every_group():
    counts = Counter(pair.group for pair in PAIRS)
    assert sorted(counts) == sorted(GROUPS)
    assert len(PAIRS) >= 600
    assert min(counts.values()) >= 100
    assert max(counts.values()) < 1.3 * min(counts.values())
    assert len(PROMPTS) >= 44


def test_no_text_is_there_twice():
    whole = [pair.beginning + pair.right for pair in PAIRS]
    assert len(set(whole)) == len(whole)
    assert len(set(PROMPTS)) == len(PROMPTS)


def is_tidy(text: str) -> bool:
    """Whether a text is in plain letters, single blanks, and starts like a sentence."""
    starts_well = re.match('"?[A-Z]', text) is not None
    return starts_well and text.isascii() and text.isprintable() and "  " not in text


def test_pairs_are_tidy():
    for pair in PAIRS:
        for continuation in (pair.right, pair.wrong):
            text = pair.beginning + continuation
            assert is_tidy(text), text
            assert continuation[0] == " ", text
            assert re.search(r'[.!?]"?$', text), text
            assert text.count('"') % 2 == 0, text


def test_prompts_are_tidy_and_short():
    for text in PROMPTS:
        assert is_tidy(text), text
        assert 5 <= len(text.split()) <= 60, text


def test_the_sentence_that_decides_is_one_to_six_back():
    distances = Counter(pair.distance for pair in PAIRS if pair.group == "context")
    assert sorted(distances) == [1, 2, 3, 4, 5, 6]
    assert min(distances.values()) >= 20
    for pair in PAIRS:
        if pair.group == "context":
            assert pair.distance <= sentences(pair.beginning), pair
        else:
            assert pair.distance is None, pair


# no hint -----------------------------------------------------------------------------------


def test_what_is_right_in_one_twin_is_wrong_in_the_other():
    for one, other in zip(PAIRS[::2], PAIRS[1::2], strict=True):
        assert (one.group, one.kind) == (other.group, other.kind), other
        assert (one.right, one.wrong) == (other.wrong, other.right), other
        assert tokens(one.beginning)[-2:] == tokens(other.beginning)[-2:], other


def test_the_right_one_is_as_often_the_longer_as_the_shorter():
    assert not biased(lambda pair, continuation, other: len(continuation))


def test_repeating_words_of_the_prompt_does_not_help():
    def repeated(pair, continuation, other):
        prompt = set(words(pair.beginning))
        return sum(word in prompt for word in words(continuation)) / len(words(continuation))

    assert not biased(repeated, without="recall")


def test_in_recall_one_answer_was_mentioned_or_both_were_in_another_order():
    for pair in PAIRS:
        if pair.group == "recall":
            prompt, right, wrong = (
                set(words(text)) for text in (pair.beginning, pair.right, pair.wrong)
            )
            if pair.kind == "order":
                assert right == wrong, pair
            else:
                assert right <= prompt and not (wrong - right) & prompt, pair


def test_the_answer_named_last_is_right_as_often_as_the_one_named_first():
    def latest(pair, continuation, other):
        prompt = words(pair.beginning)
        own = set(words(continuation)) - set(words(other))
        return max((place for place, word in enumerate(prompt) if word in own), default=-1)

    assert not biased(latest, without="recall")


@cache
def counts(train: Path) -> tuple[Counter, Counter]:
    """How often each word or mark, and each two in a row, stand in real stories."""
    read = tokens(train.read_text(encoding="utf-8").replace("<|endoftext|>", ""))
    return Counter(read), Counter(pairwise(read))


@pytest.mark.parametrize("model", ["unigram", "bigram"])
def test_word_counts_of_real_stories_do_not_tell_what_is_right(tinystories, model):
    """The unigram counts every word once more than it was seen, the bigram backs off to it."""
    single, double = counts(tinystories / "train.txt")
    size = single.total() + len(single) + 1

    def per_byte(pair, continuation, other):
        total, last = 0.0, tokens(pair.beginning)[-1]
        for token in tokens(continuation):
            p = (single[token] + 1) / size
            if model == "bigram":
                p = (double[last, token] + p) / (single[last] + 1)
            total, last = total + math.log(p), token
        return total / len(continuation.encode())

    assert not biased(per_byte)


def test_words_are_those_of_real_stories(tinystories):
    single, _ = counts(tinystories / "train.txt")
    known = Counter()
    for token, count in single.items():
        known[token.strip("'")] += count
    ours = {word for pair in PAIRS for word in words(pair.beginning + pair.right)}
    ours |= {word for prompt in PROMPTS for word in words(prompt)}
    assert not {word for word in ours if known[word] < 5}


# user-provided files ------------------------------------------------------------------------


def write(path: Path, *lines: str | dict) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def refusal(read, path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_order_of_the_fields_means_nothing(tmp_path):
    path = write(tmp_path / "pairs.jsonl", GOOD, dict(reversed(GOOD.items())))
    assert read_pairs(path) == [MinimalPair(**GOOD)] * 2


def test_a_distance_is_read_and_empty_lines_are_not(tmp_path):
    path = write(tmp_path / "pairs.jsonl", "", GOOD | {"distance": 3}, "", "")
    assert read_pairs(path) == [MinimalPair(**GOOD, distance=3)]


@pytest.mark.parametrize(
    "line",
    [
        "The cow said, Moo!",
        '["The cow said,"]',
        "[" * 100_000,
        {"group": "facts", "kind": "animal"},
        GOOD | {"right": 5},
        GOOD | {"wrong": " "},
        GOOD | {"distance": 0},
        GOOD | {"distance": "2"},
        GOOD | {"right": "\ud83d"},
        GOOD | {"rigth": ""},
    ],
)
def test_a_line_that_is_no_pair_is_named(tmp_path, line):
    path = write(tmp_path / "pairs.jsonl", GOOD, "", line)
    message = refusal(read_pairs, path)
    assert message.startswith(f"{path}, line 3: not a JSON object with the texts group, kind, beg")


@pytest.mark.parametrize(
    "line, message",
    [
        (GOOD | {"wrong": GOOD["right"]}, "right and wrong are the same"),
        (GOOD | {"beginning": "The cow said, "}, "the beginning ends with a space; start the"),
    ],
)
def test_a_pair_that_decides_nothing_is_named(tmp_path, line, message):
    path = write(tmp_path / "pairs.jsonl", GOOD, "", line)
    assert refusal(read_pairs, path).startswith(f"{path}, line 3: {message}")


def test_prompts_may_come_from_any_text_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffA hen saw\r\n\r\n  Ein Bär saß \r\n".encode())
    assert read_prompts(path) == ["A hen saw", "Ein Bär saß"]


@pytest.mark.parametrize("read, what", [(read_pairs, "minimal pair"), (read_prompts, "prompt")])
def test_files_that_cannot_be_read_are_refused(tmp_path, read, what):
    missing, empty, foreign = (tmp_path / name for name in ("missing", "empty", "foreign"))
    empty.write_text("\n \n")
    foreign.write_bytes("Ein Bär".encode("latin-1"))
    assert refusal(read, missing) == f"cannot read {missing}: No such file or directory"
    assert refusal(read, empty) == f"{empty} contains no {what}"
    assert refusal(read, foreign) == f"{foreign} is not UTF-8 text"
