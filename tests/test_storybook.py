"""What a reader of the storybook relies on: sense, grammar, variety, and the same bytes always."""

import hashlib
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tinystories.stories import cast, storybook
from tinystories.stories import world as world_module
from tinystories.stories.cast import ADULTS, ANIMALS, PEOPLE, PLACES, THING_ROWS, Person, Thing
from tinystories.stories.storybook import PLOTS, make_story, stories
from tinystories.stories.world import ContradictionError, World

ROOT = Path(__file__).parents[1]
TRAITS = {name: traits for name, _, traits in THING_ROWS}


@pytest.fixture(scope="module")
def many():
    return [make_story(index) for index in range(20_000)]


@pytest.fixture(scope="module")
def generated(many):
    """Fewer of them, for the checks of their facts."""
    return many[:4000]


@pytest.fixture(scope="module")
def texts(many):
    return [story.text for story in many]


def facts_of(story, verb):
    return [fact for fact in story.facts if fact.verb == verb]


def trait_of(what):
    """The traits of a thing written as "red ball"."""
    return TRAITS[what.split(" ", 1)[1]]


def outside_quotes(text):
    return re.sub(r'"[^"]*"', '""', text)


# ---------------------------------------------------------------------- the same story always


def test_stories_yields_as_many_as_asked():
    assert len(list(stories(7))) == 7
    assert list(stories(0)) == []


def test_a_story_depends_only_on_seed_and_index():
    assert list(stories(5, seed=3)) == [make_story(index, seed=3).text for index in range(5)]
    assert list(stories(5, seed=3)) == list(stories(9, seed=3))[:5]


def test_different_seeds_give_different_stories():
    assert not set(stories(50, seed=1)) & set(stories(50, seed=2))


def test_the_global_random_state_is_neither_read_nor_changed():
    random.seed(1)
    before = random.getstate()
    first = list(stories(3))
    assert random.getstate() == before
    random.seed(2)
    assert list(stories(3)) == first


def test_bytes_depend_neither_on_the_hash_seed_nor_on_the_working_directory(tmp_path):
    code = (
        "import hashlib; from tinystories.stories.storybook import stories;"
        "print(hashlib.sha256(''.join(stories(300)).encode()).hexdigest())"
    )
    here = hashlib.sha256("".join(stories(300)).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


# ------------------------------------------------------------------------------ size and variety


def test_the_world_is_large():
    assert len(PLOTS) >= 12
    assert len({person.name for person in PEOPLE}) >= 40
    assert len(TRAITS) >= 60
    assert len({place.name for place in PLACES}) >= 20


def test_every_plot_is_used_about_equally_often(generated):
    counts = Counter(story.plot for story in generated)
    assert set(counts) == {plot.__name__ for plot in PLOTS}
    assert min(counts.values()) > 0.6 * len(generated) / len(PLOTS)


def test_almost_no_story_occurs_twice(texts):
    assert len(set(texts)) > 0.99 * len(texts)


def test_the_vocabulary_is_small(texts):
    words = {word for text in texts for word in re.findall(r"[a-z']+", text.lower())}
    assert 800 < len(words) <= 1500


def test_stories_are_short_but_not_all_alike_in_length(texts):
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[0] >= 60
    assert lengths[-1] <= 300
    assert lengths[len(texts) * 9 // 10] - lengths[len(texts) // 10] > 50


def test_stories_begin_in_many_ways(texts):
    first_two = Counter(" ".join(text.split()[:2]) for text in texts)
    assert first_two["Once upon"] < 0.25 * len(texts)


# -------------------------------------------------------------------------- how a page looks


def test_text_is_plain_ascii_with_no_template_left_over(texts):
    for text in texts:
        assert text.isascii()
        assert not re.search(r"[\[\]{}|<>_]|->|\t|  |\n\n\n|(?<!\n)\n(?!\n)", text), text


def test_a_story_begins_with_a_capital_and_ends_with_a_full_stop(texts):
    for text in texts:
        assert re.match(r'"?[A-Z]', text), text
        assert re.search(r'[.!?]"?\Z', text), text


def test_every_sentence_begins_with_a_capital(texts):
    for text in texts:
        assert not re.search(r"[.!?] [a-z]", outside_quotes(text).replace('""', "")), text


def test_paragraphs_are_separated_by_an_empty_line(texts):
    assert all(text.count("\n\n") >= 2 for text in texts)


def test_articles_fit_the_word_that_follows(texts):
    for text in texts:
        assert not re.search(r"\b[Aa] (?!one\b|un?i)[aeiou]|\b[Aa]n [^aeiouAEIOUh]", text), text


def test_no_word_is_doubled(texts):
    doubled = re.compile(r"\b(?!had\b)([a-z]+) \1\b")
    assert not [text for text in texts if doubled.search(text)]


# ----------------------------------------------------------------------------------------- dialogue


def test_quotes_are_balanced_and_closed_within_their_paragraph(texts):
    for text in texts:
        for paragraph in text.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, paragraph


def test_what_is_said_begins_with_a_capital_and_ends_with_punctuation(texts):
    for text in texts:
        for line in re.findall(r'"([^"]*)"', text):
            assert re.fullmatch(r"[A-Z].*[.,!?]", line), line


def test_every_comma_before_a_closing_quote_leads_to_its_speaker(texts):
    tag = re.compile(r"(said (the )?[A-Za-z]|s?he said)")
    for text in texts:
        for after in re.findall(r',"(.{0,20})', text):
            assert tag.match(after.strip()), text


def test_questions_are_asked(generated):
    for story in generated:
        assert not re.search(r'\?" (said|called|cried|cheered)\b', story.text), story.text


def test_most_stories_hold_a_conversation(generated):
    assert all(len(facts_of(story, "speak")) >= 1 for story in generated)
    assert sum(len(facts_of(story, "speak")) >= 3 for story in generated) > 0.9 * len(generated)


def test_a_tag_in_the_text_names_someone_who_speaks(generated):
    for story in generated:
        speakers = {fact.who for fact in facts_of(story, "speak")}
        tags = re.findall(
            r'" (?:said|asked|called|cried|cheered) ([A-Z]\w+(?: [A-Z]\w+)?)', story.text
        )
        assert set(tags) <= speakers, story.text


# ----------------------------------------------------------- a world without contradictions


def test_nobody_speaks_without_being_there(generated):
    for story in generated:
        here = set()
        for fact in story.facts:
            if fact.verb == "enter":
                here.add(fact.who)
            elif fact.verb == "leave":
                here.discard(fact.who)
            elif fact.verb in ("speak", "give", "take", "act", "mend"):
                assert fact.who in here, (fact, story.text)


def test_someone_who_left_is_not_heard_in_the_text_until_they_return(generated):
    for story in generated:
        for fact in facts_of(story, "leave"):
            back = [f.at for f in facts_of(story, "enter") if f.who == fact.who and f.at > fact.at]
            away = story.text[fact.at : min(back, default=len(story.text))]
            assert not re.search(rf"(said|asked|called|cried) {fact.who}\b", away), story.text


def test_only_the_holder_gives_loses_breaks_or_eats_a_thing(generated):
    for story in generated:
        holder = {}
        for fact in story.facts:
            if fact.verb in ("give", "lose", "break", "eat"):
                assert holder[fact.what] == fact.who, (fact, story.text)
            if fact.verb in ("own", "take"):
                holder[fact.what] = fact.who
            elif fact.verb in ("give", "lose"):
                holder[fact.what] = fact.to
            elif fact.verb == "eat":
                del holder[fact.what]


def test_what_is_found_is_what_was_lost_and_where_it_was_lost(generated):
    for story in generated:
        lost = {}
        for fact in story.facts:
            if fact.verb == "lose":
                lost[fact.what] = fact.to
            elif fact.verb == "take":
                assert lost.pop(fact.what) == fact.to, (fact, story.text)
        assert not lost, story.text


def test_what_breaks_is_mended_before_the_end(generated):
    for story in generated:
        broken = [fact.what for fact in facts_of(story, "break")]
        assert broken == [fact.what for fact in facts_of(story, "mend")]


def test_a_thing_keeps_its_look_in_the_text(generated):
    for story in generated:
        for thing in story.things:
            looks = next(looks for name, looks, _ in THING_ROWS if name == thing.name)
            found = re.findall(rf"\b({'|'.join(looks)}) {thing.name}\b", story.text)
            assert set(found) <= {thing.look}, story.text


def test_nobody_is_happy_again_without_a_reason(generated):
    for story in generated:
        since = {}
        for number, fact in enumerate(story.facts):
            if fact.verb == "feel":
                between = story.facts[since.get(fact.who, 0) : number]
                assert any(f.verb not in ("feel", "speak") for f in between), story.text
                since[fact.who] = number


def test_everyone_who_was_sad_is_happy_in_the_end(generated):
    for story in generated:
        moods = {fact.who: fact.what for fact in facts_of(story, "feel")}
        assert set(moods.values()) <= {"happy"}, (moods, story.text)


def test_every_story_has_an_attempt_that_fails_for_a_reason(generated):
    for story in generated:
        attempts = facts_of(story, "attempt")
        assert attempts and all(fact.what and fact.to for fact in attempts), story.plot


def test_he_and_she_fit_the_person_they_mean(generated):
    for story in generated:
        gender = {person.name: person.he for person in story.people}
        names = "|".join(sorted(map(re.escape, gender), key=len, reverse=True))
        for name, pronoun in re.findall(
            rf"(?:^|\. |\n)({names})(?: [a-z]+)+\. (He|She) ", outside_quotes(story.text)
        ):
            assert gender[name] == pronoun.lower(), story.text


def test_a_pronoun_tag_never_opens_a_paragraph(texts):
    for text in texts:
        assert not re.search(r'\n\n(He|She) |\n\n"[^"]*" s?he (said|asked)', text), text


# ---------------------------------------------------------------------- physical and social sense


def test_only_food_is_eaten(generated):
    for story in generated:
        assert all("food" in trait_of(fact.what) for fact in facts_of(story, "eat"))


def test_only_small_things_fit_a_pocket(generated):
    for story in generated:
        if story.plot == "lost":
            assert all("small" in thing.traits for thing in story.things)


def test_only_what_floats_is_put_on_the_water(generated):
    for story in generated:
        for fact in facts_of(story, "lose"):
            if fact.to in ("on the sea", "on the pond", "on the river", "on the lake"):
                assert "floats" in trait_of(fact.what)


def test_the_wind_takes_only_light_things(generated):
    for story in generated:
        if story.plot == "stuck_high":
            assert all("light" in thing.traits for thing in story.things)


def test_only_breakable_things_break(generated):
    for story in generated:
        assert all("breaks" in trait_of(fact.what) for fact in facts_of(story, "break"))


def test_whoever_swims_after_a_thing_can_swim_and_whoever_flies_can_fly(generated):
    traits = {person.name: person.traits for person in ANIMALS + ADULTS}
    for story in generated:
        for name in re.findall(r"(\w+) swam out", story.text):
            assert name in ("He", "She") or "swims" in traits[name], story.text
        for name in re.findall(r"([A-Z]\w+(?: [A-Z]\w+)?) flew up", story.text):
            assert name in ("He", "She") or "flies" in traits[name], story.text


def test_names_in_a_story_are_not_shared(generated):
    for story in generated:
        names = [person.name for person in story.people]
        assert len(set(names)) == len(names)
        things = [thing.name for thing in story.things]
        assert len(set(things)) == len(things)


# -------------------------------------------------------------------- the world refuses nonsense


@pytest.fixture
def world():
    return World(random.Random("a test"))


TOM = Person("Tom", "boy", "he")
MIA = Person("Mia", "girl", "she")
BALL = Thing("ball", "red", frozenset({"toy"}))


def test_one_cannot_give_what_one_does_not_hold(world):
    world.scene(PLACES[0], TOM, MIA)
    world.own(TOM, BALL)
    with pytest.raises(ContradictionError, match="Mia gives the red ball of another"):
        world.give(MIA, BALL, TOM)


def test_one_cannot_speak_after_leaving(world):
    world.scene(PLACES[0], TOM)
    world.leave(TOM)
    with pytest.raises(ContradictionError, match="without being there"):
        world.speak(TOM, "Hello!")


def test_one_cannot_take_what_is_not_lost(world):
    world.scene(PLACES[0], TOM)
    world.own(TOM, BALL)
    with pytest.raises(ContradictionError, match="does not lie anywhere"):
        world.take(TOM, BALL)


def test_one_cannot_eat_or_break_a_ball(world):
    world.scene(PLACES[0], TOM)
    world.own(TOM, BALL)
    with pytest.raises(ContradictionError, match="nobody eats"):
        world.eat(TOM, BALL)
    with pytest.raises(ContradictionError, match="cannot break"):
        world.smash(TOM, BALL)


def test_a_mood_does_not_change_without_a_cause(world):
    world.scene(PLACES[0], TOM)
    world.feel("sad", TOM)
    world.speak(TOM, "Hello!")
    with pytest.raises(ContradictionError, match="for no reason"):
        world.feel("happy", TOM)


def test_the_storybook_needs_only_the_standard_library():
    modules = set()
    for module in (cast, world_module, storybook):
        source = Path(module.__file__).read_text(encoding="utf-8")
        modules |= set(re.findall(r"^(?:from|import) ([\w.]+)", source, re.M))
    ours = {"tinystories.stories.cast", "tinystories.stories.world"}
    assert {module.split(".")[0] for module in modules - ours} <= sys.stdlib_module_names
