"""Stories from files and from the storybook, and what cleaning does to a story."""

import csv
import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configurator import UserError
from tinystories.stories import catalog as corpus
from tinystories.stories.catalog import RULES, clean_story, digest, open_source

ROOT = Path(__file__).parent.parent
FOX = "Once a fox went up a hill. She wanted to look at the moon, and it was round."
OWL = 'An owl sat in a tree. "Who are you?" he asked. The fox said that she was a fox.'
HEN = "The hen had a red hat.\n\nEach day she put it on. She was a very proud hen!"
STORIES = [FOX, OWL, HEN]


def write(path: Path, text: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def many(count: int) -> list[str]:
    return [
        f"Fox number {n} went up the hill. The moon was round, and she was glad."
        for n in range(count)
    ]


def lines_of(texts: list[str], column: str = "text") -> str:
    return "".join(json.dumps({"id": n, column: text}) + "\n" for n, text in enumerate(texts))


def read(source: str, **more) -> list[str]:
    """All stories of a source, as if none went to validation."""
    return list(open_source(source, val_source=source, **more).stories("train"))


def mistake(*args, **more) -> str:
    """What the user is told, which fits on one line."""
    with pytest.raises(UserError) as caught:
        source = open_source(*args, **more)
        for split in source.readers:
            list(source.stories(split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files of one's own -------------------------------------------------------------------------


def test_text_files_hold_stories_between_separators(tmp_path):
    path = write(tmp_path / "a.txt", "\n<|endoftext|>\n".join(STORIES) + "\n")
    assert read(path) == STORIES


def test_a_separator_may_end_the_file_begin_it_or_stand_in_a_line(tmp_path):
    path = write(tmp_path / "a.txt", f"<|endoftext|>{FOX}<|endoftext|>\n{OWL}\n<|endoftext|>\n\n")
    assert read(path) == [FOX, OWL]


def test_nothing_of_a_story_is_touched_but_the_line_break_at_the_separator(tmp_path):
    odd = "\n  Tab\there,  two blanks. \n\n\n“Curly” \n"
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n{odd}\n<|endoftext|>\n{OWL}\n")
    assert read(path) == [FOX, odd, OWL]


def test_windows_line_breaks_and_byte_order_mark(tmp_path):
    text = f"\ufeff{FOX}\r\n<|endoftext|>\r\n{OWL}\r\n"
    assert read(write(tmp_path / "a.txt", text)) == [FOX, OWL]


def test_empty_stories_are_handed_on_to_be_counted(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n\n<|endoftext|>\n{OWL}\n")
    assert read(path) == [FOX, "", OWL]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.lists(st.text("ab é猫\n", min_size=1), min_size=2))
def test_stories_do_not_depend_on_how_a_file_is_cut_into_pieces(size, texts):
    joined = "<|endoftext|>".join(["x", *texts, "x"])
    pieces = [joined[i : i + size] for i in range(0, len(joined), size)]
    path = Path("a.txt")
    assert list(corpus._split_stories(pieces, path)) == list(corpus._split_stories([joined], path))


def test_a_character_may_lie_across_two_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 7)
    path = write(tmp_path / "a.txt", "猫はねこ。\n<|endoftext|>\nÉl dijo: «¡Año!».\n")
    assert read(path) == ["猫はねこ。", "Él dijo: «¡Año!»."]


def test_jsonl(tmp_path):
    assert read(write(tmp_path / "a.jsonl", lines_of(STORIES))) == STORIES


def test_json_list(tmp_path):
    rows = [{"story": text} for text in STORIES]
    assert read(write(tmp_path / "a.json", json.dumps(rows, indent=2))) == STORIES


def test_csv_with_line_breaks_inside_a_cell(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "story"], *enumerate(STORIES)])
    assert read(str(tmp_path / "a.csv")) == STORIES


def test_parquet_in_a_folder_with_odd_letters(tmp_path):
    path = tmp_path / "my [best] tales *" / "a.parquet"
    path.parent.mkdir()
    table = pyarrow.table({"id": [1, 2, 3], "text": STORIES})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    assert read(str(path)) == STORIES


def test_the_column_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES, "tale"))
    assert read(path, text_field="tale") == STORIES


def test_the_separator_inside_a_json_text_is_text(tmp_path):
    text = f"{FOX} <|endoftext|> {OWL}"
    assert read(write(tmp_path / "a.jsonl", lines_of([text, HEN]))) == [text, HEN]


def test_a_glob_takes_files_in_sorted_order(tmp_path):
    for name, text in zip("cab", [HEN, FOX, OWL], strict=True):
        write(tmp_path / "tales" / f"{name}.txt", text)
    assert read(str(tmp_path / "tales" / "*.txt")) == [FOX, OWL, HEN]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("fox tales.txt", "fox_tales"), ("tales/*.txt", "tales"), ("tales/part-[0-9]*.txt", "part")],
)
def test_the_short_name_follows_from_the_path(tmp_path, pattern, name):
    write(tmp_path / "fox tales.txt", f"{FOX}<|endoftext|>{OWL}")
    write(tmp_path / "tales" / "part-1.txt", f"{FOX}<|endoftext|>{OWL}")
    source = open_source(str(tmp_path / pattern))
    assert source.name == name
    assert source.revision is None and not source.instruct


def test_a_long_file_is_streamed(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}\n<|endoftext|>\n" * 400_000)  # 37 MB
    code = (
        "import sys, tracemalloc; from tinystories.stories.catalog import open_source;"
        "source = open_source(sys.argv[1], val_source=sys.argv[1]); tracemalloc.start();"
        "next(source.stories('train'));"
        "print(tracemalloc.get_traced_memory()[1])"
    )
    peak = int(subprocess.check_output([sys.executable, "-c", code, path], cwd=ROOT))
    assert peak < 10e6


# --- train and validation -----------------------------------------------------------------------


def test_every_story_is_either_train_or_validation(tmp_path):
    texts = many(2000)
    source = open_source(write(tmp_path / "a.jsonl", lines_of(texts)), val_fraction=0.1)
    train, val = list(source.stories("train")), list(source.stories("val"))
    assert sorted(train + val) == sorted(texts)
    assert 150 < len(val) < 250
    assert list(source.stories("val")) == val  # a second time, the same


def test_the_split_stands_still_when_stories_are_added(tmp_path):
    before = open_source(write(tmp_path / "a.jsonl", lines_of(many(1000))))
    after = open_source(write(tmp_path / "b.jsonl", lines_of([HEN, *many(2000)])))
    val = set(before.stories("val"))
    assert val < set(after.stories("val"))
    assert not val & set(after.stories("train"))


def test_validation_can_come_from_files_of_its_own(tmp_path):
    train = write(tmp_path / "a.txt", f"{FOX}<|endoftext|>{OWL}")
    val = write(tmp_path / "b.jsonl", lines_of([HEN]))
    source = open_source(train, val_source=val)
    assert list(source.stories("train")) == [FOX, OWL]
    assert list(source.stories("val")) == [HEN]


def test_the_storybook_is_split_like_any_other():
    source = open_source("storybook", count=300, val_fraction=0.2)
    train, val = list(source.stories("train")), list(source.stories("val"))
    assert len(train) + len(val) == 300
    assert val and not set(train) & set(val)
    assert source.name == "storybook"


def test_a_source_can_be_sent_to_a_worker_process(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}<|endoftext|>{OWL}")
    source = pickle.loads(pickle.dumps(open_source(path, val_source=path)))
    assert list(source.stories("train")) == [FOX, OWL]


def test_opening_text_needs_none_of_the_big_libraries(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}<|endoftext|>{OWL}")
    code = (
        "import sys; from tinystories.stories.catalog import clean_story, open_source;"
        "texts = list(open_source(sys.argv[1], val_source=sys.argv[1]).stories('train'));"
        "[clean_story(text) for text in texts];"
        "print({'torch', 'datasets', 'huggingface_hub', 'ftfy', 'pyarrow'} & set(sys.modules))"
    )
    out = subprocess.check_output([sys.executable, "-c", code, path], cwd=ROOT, text=True)
    assert out.strip() == "set()"


# --- mistakes -----------------------------------------------------------------------------------


def test_a_misspelt_name_gets_the_nearest():
    assert "did you mean tinystories?" in mistake("tinystorys")


def test_a_missing_file_is_named(tmp_path):
    assert "there is no file" in mistake(str(tmp_path / "nothing-*.txt"))


def test_a_folder_is_told_from_its_files(tmp_path):
    assert "is a folder" in mistake(str(tmp_path))


def test_an_unknown_ending_is_named(tmp_path):
    assert ".docx; the endings known are .txt" in mistake(write(tmp_path / "a.docx", FOX))


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path):
    text = f"{FOX}\n<|endoftext|>\n{OWL}".encode() + b"\n<|endoftext|>\nThe caf\xe9 was open."
    at = text.index(b"\xe9")
    assert f"a.txt, byte {at:,}: this is not UTF-8" in mistake(write(tmp_path / "a.txt", text))


def test_the_place_counts_all_bytes_of_a_long_file(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 100)
    text = ("猫" * 100 + "\n<|endoftext|>\n").encode() * 3 + b"\xff"
    path = write(tmp_path / "a.txt", text)
    assert f"byte {len(text) - 1:,}:" in mistake(path, val_source=path)


def test_a_text_file_without_separators_is_refused(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(STORIES))
    assert "write a line <|endoftext|> between stories" in mistake(path)


def test_an_endless_story_is_refused_before_memory_runs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "LONGEST", 10_000)
    monkeypatch.setattr(corpus, "CHUNK", 1_000)
    assert "without a line <|endoftext|>" in mistake(write(tmp_path / "a.txt", FOX * 200))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_an_empty_file_holds_no_stories(tmp_path, name):
    said = mistake(write(tmp_path / name, "\n" if name != "a.csv" else "text\n"))
    assert "holds no stories" in said


def test_a_missing_column_is_named_with_those_there(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES, "tale"))
    assert "no column text or story" in mistake(path)
    assert "there are: id, tale" in mistake(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_missing_column_is_named_in_tables_too(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    if ending == "csv":
        write(path, "id,tale\n1,x\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": [1], "tale": ["x"]}), path)
    assert "no column saga; name one with --text_field, there are: id, tale" in mistake(
        str(path), text_field="saga"
    )


def test_a_broken_json_line_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(many(5)) + '{"text": "cut of\n')
    assert "a.jsonl, line 6: this is not JSON" in mistake(path)


def test_a_cell_that_is_no_text_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES) + '{"text": ["a", "b"]}\n')
    assert "a.jsonl, line 4: a story is text" in mistake(path)


def test_too_few_stories_for_a_validation_split(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES))
    assert "no story for val; raise --val_fraction" in mistake(path, val_fraction=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_a_share_of_validation_that_leaves_nothing(tmp_path, fraction):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES))
    assert "--val_fraction lies between 0 and 1" in mistake(path, val_fraction=fraction)


def test_settings_that_do_not_go_together():
    assert "go with files of your own" in mistake("storybook", text_field="text")
    assert "--source=storybook" in mistake("tinystories", count=10)


# --- cleaning: repaired -------------------------------------------------------------------------


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


# --- cleaning: dropped --------------------------------------------------------------------------

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


# --- cleaning: instruct records -----------------------------------------------------------------

HEADERS = [
    "Words: fox, moon, look\nStory: ",
    "summary: no\nFeatures: Dialogue\nSummary: A fox looks\nRandom sentence: it is\nStory: ",
    "Summary: A fox looks at\nWords: hill\nSummary: A fox sees the moon.\nStory: ",
    "Story: ",
]


@pytest.mark.parametrize("headers", HEADERS)
def test_header_lines_stay_and_are_not_judged(headers):
    story, rules = clean_story(f"{headers}\n\n{FOX}", instruct=True)
    assert story == f"{headers.rstrip()}\n\n{FOX}"
    assert rules == ("spaces",)  # the blank behind "Story:"


def test_the_story_of_a_record_is_judged():
    headers = "Words: fox, moon, look\nSummary: A fox looks at the moon and sees that it is round."
    assert clean_story(f"{headers}\nStory: \n\n{FOX} Then she", instruct=True)[1] == (
        "ends_midway",
    )
    assert clean_story(f"{headers}\nStory: \n\nA fox.", instruct=True)[1] == ("short",)
    assert clean_story(f"{headers}\nStory: \n", instruct=True)[1] == ("empty",)
    assert clean_story(headers, instruct=True)[1] == ("empty",)


def test_header_lines_are_repaired():
    story, rules = clean_story(f"Summary: Itâ€™s a fox.\nStory:\n\n{FOX}", instruct=True)
    assert story == f"Summary: It's a fox.\nStory:\n\n{FOX}"
    assert rules == ("mojibake", "punctuation")


# --- cleaning: as a whole -----------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("aB é“”’—–… \t\n\r\xa0\u200b.!?,«猫。\0\ufffd😀"), max_size=200))
def test_what_was_cleaned_stays_as_it_is(text):
    story, rules = clean_story(text, repair_only=True)
    assert set(rules) <= set(RULES)
    if story is not None:
        again, rules = clean_story(story, repair_only=True)
        assert again == story and rules == ()


def test_a_half_character_from_json_does_not_stop_anything(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES) + '{"text": "A fox \\ud83d."}\n')
    (_, _, _, broken) = read(path)
    digest(broken)
    assert clean_story(f"{FOX} {broken}") == (None, ("unrepairable",))


def test_the_digest_tells_texts_apart_and_is_the_same_everywhere():
    assert len({digest(text) for text in many(10_000)}) == 10_000
    code = "from tinystories.stories.catalog import digest; print(digest('Once upon a time.'))"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)
    assert int(out) == digest("Once upon a time.") < 2**64


# --- real stories -------------------------------------------------------------------------------


@pytest.fixture
def real() -> Path:
    if "TINYSTORIES_DIR" not in os.environ:
        pytest.skip("TINYSTORIES_DIR names no folder with real stories")
    return Path(os.environ["TINYSTORIES_DIR"])


def clean_all(path: Path) -> tuple[list[str], Counter]:
    stories, counts = [], Counter()
    for text in read(str(path)):
        story, rules = clean_story(text)
        counts.update(rules)
        if story is not None:
            stories.append(story)
    return stories, counts


def test_real_stories_with_faults_come_out_in_plain_letters(real):
    stories, counts = clean_all(real / "raw_defects.txt")
    assert all(story.isascii() for story in stories)
    assert counts["mojibake"] == 83 and counts["unrepairable"] == 0
    assert counts["starts_midway"] == 1 and counts["ends_midway"] == 3
    assert counts["empty"] == 2 and counts["short"] == 1
    assert len(stories) - len(set(map(digest, stories))) == 2  # duplicates


def test_hardly_any_real_story_is_dropped(real):
    stories, counts = clean_all(real / "train.txt")
    dropped = counts.total() - counts["punctuation"] - counts["spaces"]
    assert dropped == counts["ends_midway"] + counts["starts_midway"] == 51
    assert len(stories) == 14_821


def test_real_instruct_records_are_kept(real):
    for headers in json.loads((real / "instruct_headers.json").read_text()):
        story, _ = clean_story(f"{headers}\n\n{FOX}", instruct=True)
        assert story.endswith(f"\nStory:\n\n{FOX}")
