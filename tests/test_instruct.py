"""Stories to order: records with header lines, from the storybook to the evaluation."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT, SMALL, complaint, forked
from test_prepare import stories_in

from configurator import UserError
from tinystories.dataset import read_meta, write_meta
from tinystories.evaluation.features import ends_badly, has_dialogue, has_moral
from tinystories.evaluation.instruct import Scorer
from tinystories.run import load_checkpoint
from tinystories.stories.instruct import (
    FEATURES,
    HEADERS,
    cut_for,
    has_records,
    parse,
    prompt_of,
    sentences,
    write,
)
from tinystories.stories.records import make_record, records
from tinystories.stories.storybook import stories
from tinystories.stories.words import KINDS, Lexicon, read_words, words_in

HEN = "Once there was a hen. She sat on a hill all day.\n\nThe end."
CAT = "A cat ran up a tree.\n\nIt did not come down again. Tom was sad."


# The form of a record -------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written():
    headers = {"Summary": "A hen sits: on a hill.", "Words": "sit, hen", "Features": "Twist"}
    record = parse(write(headers, HEN))
    assert record.headers == headers and list(record.headers) == list(headers)
    assert record.story == HEN and record.prompt + HEN == write(headers, HEN)
    assert (record.words, record.features, record.sentence) == (["sit", "hen"], ["Twist"], "")


def test_of_a_header_that_is_repeated_the_last_one_counts():
    record = parse(f"Summary: A dog.\nWords: hen\nSummary: A hen.\nStory:\n\n{HEN}")
    assert record.summary == "A hen."


def test_a_summary_after_the_story_is_not_of_the_story():
    assert parse(f"Words: hen\nStory: \n\n{HEN}\nSummary: A hen sits.\n").story == HEN


def test_a_header_may_go_on_in_the_next_line():
    assert parse(f"Summary: A hen\nsits.\nStory:\n{HEN}").summary == "A hen sits."


@pytest.mark.parametrize("text", [HEN, "", f"Story: {HEN}", f"Words: hen\n{HEN}", "Story:"])
def test_other_texts_are_no_records(text):
    assert parse(text) is None
    assert not has_records([text])


def test_the_published_headers_are_read(tinystories):
    for header in json.loads((tinystories / "instruct_headers.json").read_text("utf-8")):
        record = parse(f"{header}\n\n{HEN}")
        lines = [line.partition(":") for line in header.splitlines()[:-1]]
        assert list(record.headers) == list(dict.fromkeys(name for name, _, _ in lines))
        assert set(record.headers) <= set(HEADERS) and set(record.features) <= set(FEATURES)
        assert record.headers == {name: value.strip() for name, _, value in lines}
        assert len(record.words) in (0, 3) and record.story == HEN
        assert record.prompt == f"{header}\n\n"


def test_a_sentence_does_not_end_within_what_is_said():
    text = '"Stop! Come here!" said Mia. He stopped. "Why?" he asked.\n\n"I am here."'
    expected = [
        '"Stop!',
        'Come here!" said Mia.',
        "He stopped.",
        '"Why?" he asked.',
        '"I am here."',
    ]
    assert sentences(text) == expected
    assert sentences("Mrs. Bell went home. Dr. Owl did, too.")[0] == "Mrs. Bell went home."


def test_the_prompt_has_the_ids_that_training_had():
    def encode(text):  # two line breaks at the end are one id, as in GPT-2's vocabulary
        return re.findall(r"\n\n\Z|.", text, re.DOTALL)

    assert cut_for("Words: a\nStory:\n\n", encode) == "Words: a\nStory:"
    assert cut_for("Words: a\nStory:\n\n", list) == "Words: a\nStory:\n\n"


def test_a_wish_becomes_a_header():
    asked = prompt_of("cat,  moon", "moralvalue,Dialogue", " A cat. ", "It ran.")
    assert asked == (
        "Words: cat, moon\nFeatures: MoralValue, Dialogue\nSummary: A cat.\n"
        "Random sentence: It ran.\nStory:\n\n"
    )
    assert prompt_of(None, None, None, None) == ""


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ((None, "Dialogue,Magic", None, None), "no Magic; choose from Dialogue, MoralValue"),
        (("", None, None, None), "words='': give one line"),
        ((" , ", None, None, None), "give one line"),
        ((None, None, "A cat.\nA dog.", None), "give one line"),
    ],
)
def test_a_wish_that_no_record_has_is_an_error(wish, says):
    with pytest.raises(UserError, match=re.escape(says)):
        prompt_of(*wish)


# Words that bend ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(read_words())


@pytest.mark.parametrize(
    ("word", "text", "occurs"),
    [
        ("hop", "Two puppies hopped.", True),
        ("Puppy", "Two puppies hopped.", True),
        ("go", "She went home.", True),
        ("big", "The biggest one.", True),
        ("zoob", "Two zoobs.", True),  # in no list
        ("hop", "She hoped so.", False),
        ("cat", "A caterpillar.", False),
        ("full", "He was fully awake.", True),
        ("fantastic", "It was fantastically big.", True),
        ("see", "A seed fell.", False),
        ("ice cream", "They ate ice cream.", True),
        ("ice cream", "They slid on ice.", False),
    ],
)
def test_a_word_counts_in_any_form(lexicon, word, text, occurs):
    assert lexicon.occurs(word, words_in(text)) == occurs


def test_words_keep_their_combining_marks():
    assert words_in("\u2b50\ufe0fTom \ufe0f ran") == {"tom", "ran"}  # a mark of the emoji
    assert words_in("Cafe\u0301 कि ता 2 cats_dogs") == {"cafe\u0301", "कि", "ता", "cats", "dogs"}


def test_of_verbs_only_past_forms_and_those_in_ing_are_certain(lexicon):
    assert not lexicon.certain({"wishes", "matches"})["verbs"]
    assert lexicon.certain({"wished"})["verbs"] == ["wish"]


def test_a_form_of_several_words_is_certain_for_none(lexicon):
    found = lexicon.certain(words_in("She saw a frog and hugged the brave drink slowly."))
    assert found == {"verbs": ["hug"], "nouns": ["frog"], "adjectives": ["brave"]}


# The storybook's records ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    return [parse(text) for text in records(1500)]


def test_headers_come_in_all_subsets_and_orders(many):
    kinds = Counter(tuple(record.headers) for record in many)
    assert len({frozenset(kind) for kind in kinds}) == 15
    assert len(kinds) > 40


def test_what_a_header_asks_for_is_true_of_the_story(many, lexicon):
    for record in many:
        found, text = words_in(record.story), record.story
        assert all(lexicon.occurs(word, found) for word in record.words)
        assert record.sentence in text and not record.sentence[:1].islower()
        assert set(record.features) <= set(FEATURES)
        if record.features:
            assert ("Dialogue" in record.features) == has_dialogue(text) == ('"' in text)
            assert ("MoralValue" in record.features) == has_moral(text)
        names = re.findall(r"(?<=[a-z] )[A-Z]\w+", record.summary)
        assert all(name in text for name in names), record


def test_words_are_a_verb_a_noun_and_an_adjective(many):
    kinds = dict(zip(KINDS, map(set, read_words().values()), strict=True))
    entries = {kind: {entry.partition("/")[0] for entry in kinds[kind]} for kind in KINDS}
    full = [record.words for record in many if len(record.words) == 3]
    assert len(full) > 800
    for words in full:
        assert all(word in entries[kind] for word, kind in zip(words, KINDS, strict=True)), words


def test_features_differ_among_the_stories(many):
    counts = Counter(name for record in many for name in record.features)
    assert set(counts) == set(FEATURES) - {"BadEnding"}
    silent = sum('"' not in record.story for record in many)
    assert 0.4 < silent / len(many) < 0.6


def test_most_stories_with_dialogue_begin_with_it(many):
    before = [record.story.partition('"')[0] for record in many if '"' in record.story]
    early = sum(text.count(".") <= 3 for text in before)  # sentences before the first quote
    assert early > 0.75 * len(before)


def test_silent_stories_are_whole_too(many):
    for record in many:
        assert not re.search(r"[\[\]{}|<>_]|->|  ", record.prompt[:-9] + record.story), record
        assert record.story.count("\n\n") >= 2
        assert not re.search(r"\b(?!had\b)([a-z]+) \1\b", record.story), record.story


def test_a_record_depends_only_on_seed_and_index():
    code = "from tinystories.stories.records import make_record; print(make_record(7, 3))"
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code]
    there = subprocess.run(run, env=os.environ | environment, capture_output=True, check=True)
    assert there.stdout.decode().replace("\r", "") == make_record(7, 3) + "\n"
    assert list(records(9, seed=3))[7] == make_record(7, 3) != make_record(7, 4)


# Rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "story", "holds"),
    [
        (has_dialogue, 'Tom ran. "Wait for me!" cried Mia.', True),
        (has_dialogue, "“I am here,” said the fox.", True),
        (has_dialogue, 'They played a game called "Catch". It was fun.', False),
        (has_dialogue, "Mia said that she was tired.", False),
        (has_moral, f"{HEN} She learned that it is good to wait.", True),
        (has_moral, f"{HEN} The moral of the story is: wait.", True),
        (has_moral, f"{HEN} It was an important lesson.", True),
        (has_moral, f"{HEN} She wanted to learn to swim, and she learned how to do it.", False),
        (has_moral, f"They learned that hens sit. {HEN * 2}", False),  # long before the end
        (ends_badly, CAT, True),
        (ends_badly, f"{CAT} The end.", True),
        (ends_badly, f"{CAT} But then he got a hug.", False),
        (ends_badly, "The cat was gone. It rained. Mia was not happy.", True),
        (ends_badly, HEN, False),
        (ends_badly, "It rained. They couldn't find the ball. Night came.", True),
        (ends_badly, "She cried. They were never happy again.", True),
        (ends_badly, "He had no friends and was sad.", True),
    ],
)
def test_a_rule_tells_whether_a_story_has_a_feature(rule, story, holds):
    assert rule(story) == holds


def test_stories_are_held_against_their_own_header_and_those_of_others():
    texts = [
        f"Words: sit, hen\nFeatures: MoralValue\nSummary: A hen on a hill.\nStory:\n\n{HEN}",
        f"Words: run, cat\nSummary: A cat in a tree.\nRandom sentence: Tom was sad.\nStory:\n{CAT}",
    ]
    scorer = Scorer([parse(text) for text in texts])
    asked = scorer.shares([HEN, CAT])["asked"]
    shares = {name: (share["proportion"], share["chance"]) for name, share in asked.items()}
    assert shares == {
        "words": (1, 0),
        "sentence": (1, 0),
        "MoralValue": (0, 0),
        "own summary": (1, 0),
    }
    assert asked["words"]["count"] == 4
    assert scorer.shares([CAT, HEN])["asked"]["words"]["proportion"] == 0


# From the storybook to the evaluation ---------------------------------------------------------

MODEL = (*SMALL, "--max_iters=2", "--full_eval=False")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A dataset of records and a run of two steps on it."""
    base = tmp_path_factory.mktemp("instruct")
    options = "--source=storybook --instruct=True --max_stories=150 --val_fraction=0.1"
    forked("prepare.py", *options.split(), "--tokenizer=bpe", "--vocab_size=300", *data(base))
    forked("train.py", *data(base), f"--out_dir={base / 'run'}", *MODEL)
    return base


def data(base) -> tuple[str]:
    return (f"--dataset={base / 'data'}",)


def sample(run, *options, **more):
    limits = ("--max_new_tokens=20", "--num_samples=2", "--device=cpu", "--dtype=float32")
    return forked("sample.py", f"--out_dir={run}", *limits, *options, **more)


def test_the_dataset_has_records_and_says_so(told):
    meta = read_meta(told / "data")
    assert meta["settings"]["instruct"] and "records" in meta["source"]
    assert all(parse(text) for text in stories_in(told / "data", "val"))


def test_a_dataset_of_an_earlier_version_is_recognized(dataset, tmp_path):
    folder = shutil.copytree(dataset, tmp_path / "small")
    meta = read_meta(folder)
    del meta["settings"]["instruct"]
    write_meta(folder, meta)
    options = ["--source=storybook", "--max_stories=400", "--val_fraction=0.05"]
    options += ["--tokenizer=bpe", "--vocab_size=300", f"--dataset={folder}"]
    assert "already prepared" in forked("prepare.py", *options).stdout
    assert "other settings" in complaint("prepare.py", *options, "--instruct=True", run=forked)
    assert set(stories_in(folder, "val")) < set(stories(400))


def test_the_name_of_the_dataset_is_another_one_than_that_of_the_stories():
    import prepare

    given = {"tokenizer": "bpe", "vocab_size": 300, "instruct": True}
    assert prepare.Settings(source="storybook", **given).dataset == "storybook_instruct_bpe300"
    mixed = prepare.Settings(source="storybook,tinystories", **given)
    assert mixed.dataset == "storybook_instruct_tinystories_bpe300"


@pytest.mark.parametrize("source", ["tinystories_instruct", "tinystories", "mine.txt"])
def test_only_the_storybook_is_told_to_write_records(source):
    says = complaint("prepare.py", f"--source={source}", "--instruct=True", run=forked)
    assert "tinystories_instruct has its headers already" in says


def test_a_run_knows_its_headers_without_the_dataset(told, run, tmp_path):
    for name in ("best.pt", "ckpt.pt"):
        assert load_checkpoint(told / "run" / name)["headers"] is True
        assert load_checkpoint(run / name)["headers"] is False
    alone = shutil.copytree(told / "run", tmp_path / "alone")
    settings = json.loads((alone / "settings.json").read_text("utf-8"))
    (alone / "settings.json").write_text(json.dumps(settings | {"dataset": str(tmp_path / "no")}))
    wish = ("--words=cat, moon", "--features=dialogue", "--summary=A cat.", "--sentence=It ran.")
    whole = sample(alone, *wish)
    assert not re.search("Words|Summary|Story:", whole.stdout)
    assert sample(alone, *wish, "--stream=True").stdout == whole.stdout
    begun = sample(alone, *wish, "--start=One day").stdout
    assert begun.count("\nOne day") == 2


def test_a_run_without_headers_takes_no_wish(run):
    says = complaint("sample.py", f"--out_dir={run}", "--words=cat", run=forked)
    assert "without headers" in says
    says = forked("evaluate.py", f"--out_dir={run}", "--what=instruct", status=2).stderr
    assert "have no header lines" in says.splitlines()[-1] and "Traceback" not in says


def test_an_unknown_feature_is_named(told):
    says = complaint("sample.py", f"--out_dir={told / 'run'}", "--features=Magic", run=forked)
    assert "no Magic; choose from Dialogue" in says


def test_the_evaluation_has_a_part_for_them(told, run, tmp_path):
    ours = shutil.copytree(told / "run", tmp_path / "ours")
    other = shutil.copytree(run, tmp_path / "other")
    settings = ("--max_chars=60", "--samples_per_prompt=1", "--device=cpu", "--dtype=float32")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Once\n")
    compare = f"--compare={ours},{other}"
    done = forked(
        "evaluate.py",
        compare,
        f"--plot={tmp_path / 'p.png'}",
        *settings,
        f"--prompts={prompts}",
        f"--pairs={pairs(tmp_path)}",
    )
    assert re.search(r"words, of \d+ +\S+ % \[\d+-\d+\] +100 %", done.stdout)
    assert "The same for the headers of other stories" in done.stdout
    assert re.search(r"\n  after another's header +\d\.\d{4}\n", done.stdout)
    result = json.loads((ours / "evaluation.json").read_text("utf-8"))["instruct"]
    assert {"words", "Dialogue", "MoralValue", "own summary"} <= result["asked"].keys()
    real = result["validation_stories"]["asked"]
    assert all(real[name]["proportion"] == 1 for name in real if name != "own summary")
    assert real["words"]["chance"] < 0.5
    assert "instruct" not in json.loads((other / "evaluation.json").read_text("utf-8"))
    lines = (ours / "evaluation_instruct.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == result["headers"] == len(stories_in(told / "data", "val"))
    assert json.loads(lines[0])["header"].endswith("Story:\n\n")
    again = forked("evaluate.py", f"--out_dir={ours}", "--what=instruct", *settings)
    assert "from evaluation.json" in again.stderr
    # The stories alone, as another part of the evaluation reads them.
    alone = tmp_path / "alone.jsonl"
    records = map(parse, stories_in(told / "data", "val"))
    alone.write_text("".join(json.dumps({"story": r.story}) + "\n" for r in records))
    forked("evaluate.py", f"--out_dir={ours}", "--what=loss", f"--val_source={alone}", *settings)
    loss = json.loads((ours / "evaluation.json").read_text("utf-8"))["loss"]["per_story"]
    bits = result["bits_per_byte"]
    assert bits["after no header"] == pytest.approx(loss["bits_per_byte"], abs=1e-6)
    assert len(set(bits.values())) == 3


def pairs(folder):
    path = folder / "pairs.jsonl"
    pair = {"group": "g", "kind": "k", "beginning": "A", "right": " cat", "wrong": " dog"}
    path.write_text(json.dumps(pair))
    return path
