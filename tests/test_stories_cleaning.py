"""Cleaning: what is repaired, what is dropped, and what stays as it is."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from story_files import FOX, HEN, OWL, STORIES, many, read

from tinystories.stories.cleaning import RULES, clean_story, digest

# Cleaning: repaired -------------------------------------------------------------------------


def test_a_healthy_story_comes_back_as_it_is():
    for story in STORIES:
        assert clean_story(story) == (story, ())


GARBLED = {  # how UTF-8 looks when it was read as Windows-1252, or as Latin-1
    "She said, â€œLetâ€™s go!â€\x9d and ran.": 'She said, "Let\'s go!" and ran.',
    "â€œHi!â€ said the fox.": '"Hi!" said the fox.',  # the last byte of the quote was lost
    "â€œHi!â€\n\nâ€œGo!â€": '"Hi!"\n\n"Go!"',
    "He called it â€œoldâ€, and wept.": 'He called it "old", and wept.',
    "It was big â€“ very big â€¦": "It was big - very big ...",
    "They sat in a cafÃ© and ate.": "They sat in a café and ate.",
    "I donâ\x80\x99t know.": "I don't know.",
    "A smile ðŸ˜€ for you.": "A smile 😀 for you.",
}


@pytest.mark.parametrize("garbled", GARBLED)
def test_mojibake_is_repaired(garbled):
    story, rules = clean_story(f"{FOX} {garbled}", repair_only=True)
    assert story == f"{FOX} {GARBLED[garbled]}"
    assert "mojibake" in rules


MARKS = {
    "“Hi,” he said. ‘It’s me.’": "\"Hi,\" he said. 'It's me.'",
    "«Hi», he said…": '"Hi", he said...',
    "A gift – a car.": "A gift - a car.",
    "A gift—a car.": "A gift - a car.",
    "“But I—” he said.": '"But I-" he said.',
    "Pages 3–5.": "Pages 3-5.",
    "A\u200b soft\xad ly hidden sign.": "A soft ly hidden sign.",
}


@pytest.mark.parametrize("curly", MARKS)
def test_marks_are_plain_where_the_letters_are(curly):
    assert clean_story(f"{FOX} {curly}") == (f"{FOX} {MARKS[curly]}", ("punctuation",))


def test_a_cafe_does_not_keep_marks_curly():
    story = f"{FOX} {OWL} {HEN} {FOX} They met in a café. “Hi!”"
    assert clean_story(story)[0] == story.replace("“", '"').replace("”", '"')


SPACES = {
    "Two  blanks.": "Two blanks.",
    "A\ttab and a no-break\xa0space.": "A tab and a no-break space.",
    "Blanks at the end. \nOf a line.": "Blanks at the end.\nOf a line.",
    "At the start.\n  Of a line.": "At the start.\nOf a line.",
    "Windows.\r\n\r\nBreaks.": "Windows.\n\nBreaks.",
    "Far.\n\n \n\nApart.": "Far.\n\nApart.",
    "At the end. \n": "At the end.",
}


@pytest.mark.parametrize("untidy", SPACES)
def test_spaces_are_made_regular(untidy):
    assert clean_story(f"{FOX} {untidy}") == (f"{FOX} {SPACES[untidy]}", ("spaces",))


HEALTHY = [
    "José tenía un sueño: volar. «¿Por qué no?», dijo mamá. —¡Vamos! —gritó él—. Y volaron juntos…",
    "“¿Dónde está mi osito?”, preguntó Inés. “Aquí”, dijo papá. ¡Qué alegría sintió la niña!",
    "从前有一只小猫。“你好！”小狗说。“你想和我一起玩吗？”他们一起在花园里玩了一整天，非常开心。",
    "　むかしむかし、小さな猫がいました。「こんにちは！」と犬が言いました。二人は友だちです。",
    "Жил-был лис. «Куда ты идёшь?» — спросила сова. Лис ответил: «На гору, смотреть на луну!»",
    "Es war einmal ein Bär. „Das macht Spaß“, sagte er. „Fuß“ und „Süß“ hießen Freunde. „Ja!“",
    "« Où vas-tu ? » demanda l’âne. « À l’école », répondit Zoë. «CAFÉ», lisait-on à Noël. Fin",
    "كان يا ما كان ثعلب صغير يحب القمر. قال البوم: «من أنت؟» فأجاب الثعلب: «أنا صديقك»۔",
    "एक समय की बात है, एक छोटी लोमड़ी थी। वह चाँद को देखना चाहती थी। वह बहुत खुश हुई।",
    "กาลครั้งหนึ่งมีสุนัขจิ้งจอกตัวหนึ่ง มันชอบดูพระจันทร์ และมันก็มีความสุขมาก",
]


@pytest.mark.parametrize("story", HEALTHY)
def test_stories_in_other_languages_pass_untouched(story):
    assert clean_story(story) == (story, ())


def test_letters_and_emoji_of_a_healthy_story_stay():
    story = f"{FOX} Zoë ate a crème brûlée in the café. 😀 It was naïve. What a day! ❤️"
    assert clean_story(story) == (story, ())


# Cleaning: dropped --------------------------------------------------------------------------

FAULTY = {
    "": "empty",
    " \n ": "empty",
    "A fox. The end.": "short",
    f"{FOX} It was \ufffd.": "unrepairable",
    f"{FOX} It was \x00 big.": "unrepairable",
    f"{FOX} It was ï¿½.": "unrepairable",
    f"{FOX} I donâ€t know.": "unrepairable",
    f"u don't have to go. {FOX}": "starts_midway",
    f". {FOX}": "starts_midway",
    f'", he said. {FOX}': "starts_midway",
    f"...and went. {FOX}": "starts_midway",
    f"Spot. Spot saw a car. {FOX}": "starts_midway",
    f"{FOX} Then she": "ends_midway",
    f"{FOX} She said:": "ends_midway",
    f'{FOX} She said, "The owl': "ends_midway",
    f"{FOX} That was at the end": "ends_midway",
    "从前有一只小猫。小狗说你好。他们一起在花园里玩了一整天，非常": "ends_midway",
}


@pytest.mark.parametrize("text", FAULTY)
def test_a_faulty_story_is_dropped_by_one_rule(text):
    assert clean_story(text) == (None, (FAULTY[text],))


SOUND = [
    f'"Look!" said the hen. {FOX}',
    f"'Mum?' said the hen. {FOX}",
    f"3 hens went out. {FOX}",
    f"Mr. Fox went out. {FOX}",
    f"(This is true.) {FOX}",
    f'{FOX} "I see it."',
    f"{FOX} (It was round.)",
    f"{FOX}\n\nThe End",
    f"{FOX} THE END",
]


@pytest.mark.parametrize("story", SOUND)
def test_a_sound_beginning_or_ending_is_kept(story):
    assert clean_story(story) == (story, ())


def test_validation_is_only_repaired():
    assert clean_story("spot saw a  car and", repair_only=True) == (
        "spot saw a car and",
        ("spaces",),
    )
    assert clean_story(" \n", repair_only=True) == (None, ("empty",))


# Cleaning: instruct records -----------------------------------------------------------------

HEADERS = [
    "Words: fox, moon, look\nStory: ",
    "summary: no\nFeatures: Dialogue\nSummary: A fox looks\nRandom sentence: it is\nStory: ",
    "Summary: A fox looks at\nWords: hill\nSummary: A fox sees the moon.\nStory: ",
    "Story: ",
]


@pytest.mark.parametrize("headers", HEADERS)
def test_header_lines_stay_and_are_not_judged(headers):
    story, rules = clean_story(f"{headers}\n\n{FOX}", records=True)
    assert story == f"{headers.rstrip()}\n\n{FOX}"
    assert rules == ("spaces",)  # the space after "Story:"


def test_the_story_of_a_record_is_judged():
    headers = "Words: fox, moon, look\nSummary: A fox looks at the moon and sees that it is round."
    assert clean_story(f"{headers}\nStory: \n\n{FOX} Then she", records=True)[1] == ("ends_midway",)
    assert clean_story(f"{headers}\nStory: \n\nA fox.", records=True)[1] == ("short",)
    assert clean_story(f"{headers}\nStory: \n", records=True)[1] == ("empty",)
    assert clean_story(headers, records=True)[1] == ("empty",)


def test_header_lines_are_repaired():
    story, rules = clean_story(f"Summary: Itâ€™s a fox.\nStory:\n\n{FOX}", records=True)
    assert story == f"Summary: It's a fox.\nStory:\n\n{FOX}"
    assert rules == ("mojibake", "punctuation")


# Cleaning: as a whole -----------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aB é“”’—–… \t\n\r\xa0\u200b.!?,«猫。\0\ufffd😀"), max_size=200))
def test_what_was_cleaned_stays_as_it_is(text):
    story, rules = clean_story(text, repair_only=True)
    assert set(rules) <= set(RULES)
    if story is not None:
        again, rules = clean_story(story, repair_only=True)
        assert again == story and rules == ()


def test_the_digest_distinguishes_texts_and_is_the_same_everywhere():
    assert len({digest(text) for text in many(10_000)}) == 10_000
    code = "from tinystories.stories.cleaning import digest; print(digest('Once upon a time.'))"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)
    assert int(out) == digest("Once upon a time.") < 2**64


# Real stories -------------------------------------------------------------------------------


def clean_all(path: Path) -> tuple[list[str], Counter]:
    stories, counts = [], Counter()
    for text in read(str(path)):
        story, rules = clean_story(text)
        counts.update(rules)
        if story is not None:
            stories.append(story)
    return stories, counts


def test_real_stories_with_faults_come_out_in_plain_letters(tinystories):
    stories, counts = clean_all(tinystories / "raw_defects.txt")
    assert all(story.isascii() for story in stories)
    assert counts["mojibake"] == 83 and counts["unrepairable"] == 0
    assert counts["starts_midway"] == 1 and counts["ends_midway"] == 3
    assert counts["empty"] == 2 and counts["short"] == 1
    assert len(stories) - len(set(map(digest, stories))) == 2  # duplicates


def test_hardly_any_real_story_is_dropped(tinystories):
    stories, counts = clean_all(tinystories / "train.txt")
    dropped = counts.total() - counts["punctuation"] - counts["spaces"]
    assert dropped == counts["ends_midway"] + counts["starts_midway"] == 51
    assert len(stories) == 14_821


def test_real_instruct_records_are_kept(tinystories):
    for headers in json.loads((tinystories / "instruct_headers.json").read_text()):
        story, _ = clean_story(f"{headers}\n\n{FOX}", records=True)
        assert story.endswith(f"\nStory:\n\n{FOX}")
