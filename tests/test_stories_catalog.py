"""Sources of stories: their splits, and settings that do not fit them."""

import pickle
import subprocess
import sys

import pytest
from conftest import ROOT
from story_files import FOX, HEN, OWL, STORIES, lines_of, many, mistake, write

from tinystories.stories import storybook
from tinystories.stories.catalog import is_on_hub, open_source
from tinystories.stories.storybook import stories

# Train and validation -----------------------------------------------------------------------


def test_every_story_is_either_train_or_validation(tmp_path):
    texts = many(2000)
    source = open_source(write(tmp_path / "a.jsonl", lines_of(texts)), val_fraction=0.1)
    train, val = list(source.stories("train")), list(source.stories("val"))
    assert sorted(train + val) == sorted(texts)
    assert 150 < len(val) < 250
    assert list(source.stories("val")) == val  # a second time, the same


def test_a_story_stays_in_its_split_when_others_are_added(tmp_path):
    before = open_source(write(tmp_path / "a.jsonl", lines_of(many(1000))))
    after = open_source(write(tmp_path / "b.jsonl", lines_of([HEN, *many(2000)])))
    val = set(before.stories("val"))
    assert val < set(after.stories("val"))
    assert not val & set(after.stories("train"))


def test_validation_can_come_from_other_files(tmp_path):
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


def test_a_story_of_the_storybook_is_invented_only_once(monkeypatch):
    source = open_source("storybook", count=30, val_fraction=0.5)
    next(source.stories("train"))  # a reader that gives up takes nothing from the next one
    expected, val = sorted(stories(30)), list(source.stories("val"))
    monkeypatch.setattr(storybook, "stories", None)
    assert sorted([*val, *source.stories("train")]) == expected


def test_a_source_can_be_sent_to_a_worker_process(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}<|endoftext|>{OWL}")
    source = pickle.loads(pickle.dumps(open_source(path, val_source=path)))
    assert list(source.stories("train")) == [FOX, OWL]


def test_opening_text_needs_none_of_the_big_libraries(tmp_path):
    path = write(tmp_path / "a.txt", f"{FOX}<|endoftext|>{OWL}")
    code = (
        "import sys; from tinystories.stories.catalog import open_source;"
        "from tinystories.stories.cleaning import clean_story;"
        "texts = list(open_source(sys.argv[1], val_source=sys.argv[1]).stories('train'));"
        "[clean_story(text) for text in texts];"
        "print({'torch', 'datasets', 'huggingface_hub', 'ftfy', 'pyarrow'} & set(sys.modules))"
    )
    out = subprocess.check_output([sys.executable, "-c", code, path], cwd=ROOT, text=True)
    assert out.strip() == "set()"


@pytest.mark.parametrize(
    ("source", "on_hub"),
    [
        *[("tinystories", True), ("owner/name", True), ("owner/name.v1/en", True)],
        *[("storybook", False), ("name", False), ("mine/fox.txt", False), ("mine/*.txt", False)],
        *[("tests/nothing", False), ("./owner/name", False), ("/owner/name", False)],
        *[("~/name", False), ("owner/fox.txt.gz", False)],
    ],
)
def test_an_id_on_the_hub_is_told_from_a_path(monkeypatch, source, on_hub):
    monkeypatch.chdir(ROOT)
    assert is_on_hub(source) == on_hub


# Mistakes -----------------------------------------------------------------------------------


def test_a_misspelt_name_gets_the_nearest():
    assert "did you mean tinystories?" in mistake("tinystorys")


def test_too_few_stories_for_a_validation_split(tmp_path):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES))
    assert "no story for val; raise --val_fraction" in mistake(path, val_fraction=1e-9)


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "val"), (1.0, "train")])
def test_a_fraction_that_leaves_nothing_for_a_split(tmp_path, fraction, split):
    path = write(tmp_path / "a.jsonl", lines_of(STORIES))
    assert f"gives no story for {split}" in mistake(path, val_fraction=fraction)


def test_settings_that_do_not_go_together():
    assert "do not go with storybook" in mistake("storybook", column="text")
    assert "--source=storybook" in mistake("tinystories", count=10)
