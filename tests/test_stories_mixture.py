"""Several sources in one dataset: how often each comes, and what is refused."""

import csv
import json
from collections import Counter

import pytest
from conftest import SMALL, forked

import prepare
from configurator import UserError, parse
from tinystories.dataset import open_dataset
from tinystories.stories.instruct import story_of

pytestmark = pytest.mark.slow


def tale(number: int) -> str:
    return f"Fox {number} went up a hill to look at the moon. It was round, and fox {number} sang."


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A dataset of two files, which share stories, and of the storybook: the folder, its name."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, numbers in (("one", range(100)), ("two", range(50, 150))):
        text = "\n<|endoftext|>\n".join(map(tale, numbers))
        (folder / f"{name}.txt").write_text(text)
    options = f"--source={folder}/one.txt,{folder}/two.txt,storybook --weights=1,2.5,1"
    sizes = "--val_fraction=0.1 --max_stories=200 --tokenizer=bpe --vocab_size=300"
    done = forked("prepare.py", *options.split(), *sizes.split(), f"--dataset={folder / 'data'}")
    return folder / "data", done.stdout


def stories(folder, split: str) -> list[str]:
    """The stories of a .bin, decoded."""
    data = open_dataset(str(folder), 8)
    return list(getattr(data, split).stories(data.tokenizer))


def test_each_source_comes_as_often_as_its_weight_says(mixed):
    count = Counter(stories(mixed[0], "train"))
    tales = {number: count[tale(number)] for number in range(150)}
    val = set(stories(mixed[0], "val"))
    assert {n for n in tales if not tales[n]} == {n for n in tales if tale(n) in val}
    assert {tales[n] for n in range(100)} == {0, 1}  # those that both have are of the first
    second = [tales[n] for n in range(100, 150) if tales[n]]
    assert set(second) == {2, 3} and 10 < second.count(3) < 35


def test_copies_of_a_story_are_far_apart(mixed):
    last = {}
    for place, story in enumerate(stories(mixed[0], "train")):
        assert place - last.get(story, -100) > 15
        last[story] = place


def test_meta_and_summary_tell_the_sources_apart(mixed):
    folder, printed = mixed
    meta = json.loads((folder / "meta.json").read_text())
    one, two, storybook = meta["sources"]
    assert two["weight"] == 2.5 and storybook["source"] == "storybook of 200 stories"
    # Those of `one` that came before, and those that are in its validation.
    assert sum(two["train"]["cleaning"].values()) > 40
    assert one["train"]["kept"] == one["train"]["stories"]
    assert 2 * two["train"]["kept"] < two["train"]["stories"] < 3 * two["train"]["kept"]
    for split in ("train", "val"):
        for number in ("stories", "tokens", "bytes"):
            parts = [part[split][number] for part in (one, two, storybook)]
            assert sum(parts) == meta["splits"][split][number]
    kept = f"{two['train']['kept']} for train and {two['val']['kept']} for val, 2.5 times an epoch"
    assert kept in " ".join(printed.split())


@pytest.mark.parametrize(
    "options, words",
    [
        ("--source=storybook,storybook", "names storybook 2 times; --weights repeats a source"),
        ("--source=storybook,", "names an empty source"),
        ("--source=storybook,tinystories --weights=1", "gives 1 number for 2 sources"),
        ("--weights=0", "each must be > 0 and <= 100"),
        ("--weights=nan", "each must be > 0 and <= 100"),
        ("--weights=much", "give a number for each source"),
        ("--source=storybook,tinystories --val_source=a.txt", "val_source goes with one source"),
    ],
)
def test_sources_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        parse(prepare.Settings, options.split())


def write(path, texts) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def prepared(folder, *options):
    data = folder / "data"
    sizes = ("--val_fraction=0.3", "--tokenizer=bpe", "--vocab_size=300", f"--dataset={data}")
    prepare.main(parse(prepare.Settings, [*options, *sizes]).settings)
    return data


def test_half_of_the_stories_is_half_of_them_however_their_texts_end(tmp_path):
    source = write(tmp_path / "a.jsonl", (f"{tale(number)}\n" for number in range(400)))
    data = prepared(tmp_path, f"--source={source}", "--weights=0.5")
    kept = json.loads((data / "meta.json").read_text())["sources"][0]["train"]["kept"]
    assert 0.4 < len(stories(data, "train")) / kept < 0.6


def test_a_source_of_which_an_epoch_sees_nothing_is_refused(tmp_path):
    source = write(tmp_path / "a.jsonl", map(tale, range(6)))
    with pytest.raises(UserError, match="an epoch would see none of the"):
        prepared(tmp_path, f"--source={source}", "--weights=0.001")
    assert not (tmp_path / "data").exists()


def test_a_story_and_its_record_are_never_on_both_sides(tmp_path):
    plain = write(tmp_path / "plain.jsonl", map(tale, range(200)))
    asked = (f"Words: fox, moon\nStory: \n\n{tale(number)}" for number in range(200))
    data = prepared(tmp_path, f"--source={plain},{write(tmp_path / 'asked.jsonl', asked)}")
    val = set(map(story_of, stories(data, "val")))
    assert len(val) > 20 and not val & set(map(story_of, stories(data, "train")))


def test_a_validation_story_of_two_sources_counts_once(tmp_path):
    one = write(tmp_path / "one.jsonl", map(tale, range(200)))
    two = write(tmp_path / "two.jsonl", map(tale, range(100, 300)))
    val = stories(prepared(tmp_path, f"--source={one},{two}"), "val")
    assert len(val) == len(set(val)) > 60


def test_files_beside_a_source_on_the_hub_are_known_by_size_and_time(tmp_path):
    mine = write(tmp_path / "mine.jsonl", [tale(1)])
    s = prepare.Settings(source=f"tinystories, {mine}")
    inputs = prepare.describe_inputs(s, prepare.open_sources(s, hub=False))
    assert {path for path, _, _ in inputs["files"]} == {mine}


def test_a_source_with_a_comma_in_its_name_is_one(tmp_path):
    path = tmp_path / "fox, cat.txt"
    path.write_text("x")
    assert prepare.Settings(source=str(path)).dataset == "fox_cat"


def test_losses_are_told_apart_by_source(mixed, tmp_path):
    options = [*SMALL, "--max_iters=2", "--eval_interval=2", f"--out_dir={tmp_path}"]
    done = forked("train.py", f"--dataset={mixed[0]}", *options, "--eval_tokens=1000000")
    assert done.stdout.count("  | by source: one ") == 2
    with open(tmp_path / "log.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    sources = json.loads((mixed[0] / "meta.json").read_text())["sources"]
    sizes = {source["name"]: source["val"]["bytes"] for source in sources}
    parts = {name: float(row[f"val_bits_per_byte_{name}"]) for name in sizes}
    mean = sum(parts[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert float(row["val_bits_per_byte"]) == pytest.approx(mean, rel=1e-3)
    assert len(set(parts.values())) == 3

    done = forked("evaluate.py", f"--out_dir={tmp_path}", "--what=loss", "--device=cpu")
    assert "Bits per byte by source, per story\n  one " in done.stdout
    loss = json.loads((tmp_path / "evaluation.json").read_text())["loss"]
    tokens = {name: part["tokens"] for name, part in loss["parts"].items()}
    assert tokens == {source["name"]: source["val"]["tokens"] for source in sources}

    own = tmp_path / "one.txt"
    own.write_text("\n<|endoftext|>\n".join(map(tale, range(3))))
    texts = f"--val_source={own},{mixed[0].parent / 'one.txt'}"
    forked("evaluate.py", f"--out_dir={tmp_path}", "--what=loss", "--device=cpu", texts)
    loss = json.loads((tmp_path / "evaluation.json").read_text())["loss"]
    assert list(loss["parts"]) == ["one", "one_2"] and loss["stories"] == 103
