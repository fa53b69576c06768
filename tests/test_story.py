"""`make story`: its commands as they stand in the Makefile, cut short."""

import re

import pytest
from conftest import ROOT, command

pytestmark = pytest.mark.slow


def test_the_commands_of_make_story_prepare_train_and_sample(tmp_path):
    recipe = (ROOT / "Makefile").read_text().split("\nstory:")[1].split("\n\n")[0]
    prepare, train, sample = (line.split()[1:] for line in recipe.splitlines()[1:])
    data, run = f"--dataset={tmp_path / 'data'}", f"--out_dir={tmp_path / 'run'}"
    command(*prepare, data, "--max_stories=1000")
    trained = command(*train, data, run, "--max_minutes=0.1", "--eval_tokens=2000")
    assert re.search(r"done in \w+: \d+ steps, .* tokens, [67]s of training", trained.stdout)
    sampled = command(*sample, run, "--max_new_tokens=40")
    assert sampled.stdout.count(" of 3 ---") == 3
