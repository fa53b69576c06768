"""What the measures of told stories say, by examples that can be counted by hand."""

import math

import pytest

from tinystories.evaluation import diversity, generation
from tinystories.evaluation.diversity import words


def test_words_are_runs_of_letters_and_digits_in_lower_case():
    text = "It’s 3 o'clock, said Zoë-Ann; 'Go!'"
    assert words(text) == ["it's", "3", "o'clock", "said", "zoë", "ann", "go"]


def test_the_vocabulary_of_texts_is_all_their_words():
    texts = ["The cat sat.", 'A cat said,"Hi!"\n\nThe end']
    assert diversity.vocabulary(texts) == {"the", "cat", "sat", "a", "said", "hi", "end"}


def test_distinct_counts_different_ngrams_over_all_stories():
    stories = [words("a cat and a dog"), words("a cat")]
    assert diversity.distinct(stories, 1) == 4 / 7
    assert diversity.distinct(stories, 2) == 4 / 5  # "a cat" twice; none across stories
    assert diversity.distinct(stories, 3) == 1


def test_a_story_that_goes_in_circles_repeats_its_4grams():
    assert diversity.seq_rep_n(words("on and on and on and on")) == 1 - 2 / 4
    assert diversity.seq_rep_n(words("the cat sat on the mat")) == 0


def test_what_is_too_short_to_measure_has_no_measure():
    assert diversity.distinct([words("one two")], 3) is None
    assert diversity.seq_rep_n(words("one two three")) is None
    assert diversity.oov_rate([[]], {"one"}) is None
    assert diversity.self_bleu([[words("one")], [words("two")]]) == (None, 0)


def test_bleu_of_a_story_with_itself_is_1_and_with_a_stranger_0():
    story = words("the cat sat on the mat")
    assert diversity.bleu(story, story) == pytest.approx(1)
    assert diversity.bleu(story, words("dogs run")) == 0
    assert diversity.bleu([], story) == 0


def test_bleu_is_the_mean_of_ngram_precisions():
    story, reference = words("the cat sat on the mat"), words("the cat lay on the rug")
    # 4 of 6 words, (the cat, on the) 2 of 5 pairs, no triple of 4, no quadruple of 3; one is
    # added to both counts of each but the first.
    expected = (4 / 6 * 3 / 6 * 1 / 5 * 1 / 4) ** (1 / 4)
    assert diversity.bleu(story, reference) == pytest.approx(expected)


def test_bleu_counts_a_word_as_often_as_the_reference_has_it():
    story, reference = words("the the the the"), words("the cat and the")
    assert diversity.bleu(story, reference) == pytest.approx(
        (2 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25
    )


def test_a_shorter_story_pays_for_it():
    whole = words("a b c d e f g h")
    assert diversity.bleu(whole[:4], whole) == pytest.approx(math.exp(1 - 8 / 4))
    assert diversity.bleu(whole, whole[:4]) < 1


def test_self_bleu_compares_stories_within_their_group_only():
    one, other = words("the cat sat on the mat"), words("dogs run")
    assert diversity.self_bleu([[one, one], [other, other]]) == (pytest.approx(1), 4)
    mean, pairs = diversity.self_bleu([[one, other]])
    assert (mean, pairs) == (0, 2)


def test_self_bleu_of_many_stories_is_taken_over_a_sample():
    groups = [[words(f"the {animal} sat on {i}") for i in range(20)] for animal in ("cat", "dog")]
    assert diversity.self_bleu(groups, pairs=50)[1] == 50
    assert diversity.self_bleu(groups, pairs=50) == diversity.self_bleu(groups, pairs=50)


def test_unknown_words_are_counted_each_time_they_occur():
    stories = [words("the blorp saw the cat"), words("blorp")]
    assert diversity.oov_rate(stories, {"the", "saw", "cat"}) == 2 / 6


def test_many_stories_for_one_prompt_fit_into_memory():
    mean, pairs = diversity.self_bleu([[["a", "b"]] * 50_000], pairs=10)
    assert (mean, pairs) == (1.0, 10)


def test_the_first_sentence_of_a_long_text_is_found_in_its_time():
    text = "猫" * 1_000_000  # no sentence ends
    assert generation._without_first_sentence(text) == text
    assert generation._without_first_sentence('"Hi!" A cat. Two.') == "A cat. Two."
