"""Real TinyStories through the whole path, where a folder of them is at hand."""

import os
from pathlib import Path

import pytest
from conftest import command, forked
from test_prepare import stories_in
from test_train import log

from tinystories import device
from tinystories.generate import collect_stories, generate_stories
from tinystories.run import load_model
from tinystories.stories.catalog import open_source
from tinystories.stories.cleaning import clean_story

pytestmark = pytest.mark.slow

GPT2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)


def prepare(folder, tinystories, *options):
    command(
        *("prepare.py", f"--dataset={folder}", f"--source={tinystories / 'train.txt'}"),
        *options,
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--tokenizer=gpt2"], marks=GPT2, id="gpt2"),
        pytest.param(["--tokenizer=gpt2", "--vocab_size=10000"], marks=GPT2, id="gpt2_10000"),
        pytest.param(["--tokenizer=bpe", "--vocab_size=4096"], id="bpe4096"),
        pytest.param(["--tokenizer=bpe", "--vocab_size=257"], id="bytes"),
    ],
)
def test_val_bin_decodes_back_to_the_stories_exactly(tinystories, tmp_path, options):
    valid = str(tinystories / "valid.txt")
    prepare(tmp_path / "data", tinystories, f"--val_source={valid}", *options)
    raw = open_source(valid, val_source=valid).stories("val")
    repaired = [clean_story(text, repair_only=True)[0] for text in raw]
    assert stories_in(tmp_path / "data", "val") == [story for story in repaired if story]


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A run of 100 steps of a small config on real stories; its folder."""
    folder = os.environ.get("TINYSTORIES_DIR")
    if not folder:
        pytest.skip("TINYSTORIES_DIR names no folder with real stories")
    base = tmp_path_factory.mktemp("real")
    few = ("--tokenizer=bpe", "--vocab_size=1024", "--val_fraction=0.02", "--max_stories=6000")
    prepare(base / "data", Path(folder), *few)
    forked(
        *("train.py", f"--dataset={base / 'data'}", f"--out_dir={base / 'run'}"),
        *"--n_layer=2 --n_head=4 --n_embd=128 --block_size=32 --batch_size=40".split(),
        *"--gradient_accumulation_steps=1 --learning_rate=4e-3 --warmup_iters=10".split(),
        *"--arch=qwen3 --optimizer=muon --muon_learning_rate=0.01".split(),
        *"--max_iters=100 --eval_interval=100 --eval_tokens=8000 --full_eval=False".split(),
        "--device=cpu",
    )
    return base / "run"


def test_a_hundred_steps_on_real_stories_learn(real_run):
    assert log(real_run, "val_loss")[-1] < 4.0


def test_most_stories_of_the_young_model_end_by_themselves(real_run):
    model, tokenizer, _ = load_model(real_run)
    hardware = device.select_hardware("cpu", "float32")
    options = {"count": 8, "max_new_tokens": 1000, "seed": 1}
    pieces = generate_stories(model, tokenizer, hardware, **options)
    stories = collect_stories(pieces, prompt="", count=8)
    assert sum(story.ended for story in stories) >= 6
