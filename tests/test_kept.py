"""Kept checkpoints: which steps, the same after a resume, and what is looked at over them."""

import csv
import json
import re
import shutil

import pytest
from conftest import SMALL, contents, forked

import evaluate
import interpret
from configurator import UserError, parse
from tinystories.interpretation import heads, training
from tinystories.kept import is_kept, kept_steps
from tinystories.run import check_kept, load_checkpoint, locate, results_folder, run_name

STEADY = ("--decay_lr=False", "--keep_per_doubling=1", "--eval_interval=100", "--full_eval=False")


@pytest.fixture(scope="module")
def kept_run(dataset, tmp_path_factory):
    """A run of nine steps with its kept checkpoints, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("out") / "kept"
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, *STEADY)
    printed = forked("train.py", *options, "--max_iters=9").stdout
    return folder, printed


def test_the_steps_are_powers_of_a_root_of_two_and_the_last():
    assert kept_steps(1, 20) == [0, 1, 2, 4, 8, 16, 20]
    assert kept_steps(2, 20) == [0, 1, 2, 3, 4, 6, 8, 11, 16, 20]
    assert kept_steps(4, 16) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16]
    assert kept_steps(1, 1) == [0, 1]
    assert kept_steps(0, 20) == []
    assert len(kept_steps(1, 5000)) == 15
    for n in (1, 2, 3, 5):
        steps = {step for step in range(200) if is_kept(step, n)}
        assert steps == {step for step in kept_steps(n, 10**6) if step < 200}


def test_a_run_keeps_them_and_says_beforehand_what_they_take(kept_run):
    folder, printed = kept_run
    assert check_kept(str(folder)) == [0, 1, 2, 4, 8, 9]
    room = r"keeping weights of 6 steps: 0\.\d MB each, 0\.\d+ GB; \d+ GB are free"
    assert re.search(room, printed)
    state, last = (load_checkpoint(folder / name) for name in ("kept/step_0000009.pt", "ckpt.pt"))
    assert state["step"] == 9
    assert all(state["model"][name].equal(weight) for name, weight in last["model"].items())


def test_a_resumed_run_keeps_the_same_files_and_none_of_a_future_it_has_lost(
    kept_run, dataset, tmp_path
):
    folder = tmp_path / "run"
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, *STEADY)
    forked("train.py", *options, "--max_iters=5")
    assert check_kept(str(folder)) == [0, 1, 2, 4, 5]
    for name in ("step_0000007.pt", "step_0000008.pt.tmp"):  # it was killed after these steps
        (folder / "kept" / name).write_bytes(b"x")
    (folder / "kept" / "step_0000008").mkdir()
    forked("train.py", "--init_from=resume", f"--out_dir={folder}", "--max_iters=9")
    assert contents(folder / "kept") == contents(kept_run[0] / "kept")
    (folder / "kept" / "step_0000009").mkdir()  # results of evaluate.py
    (folder / "kept" / "step_0000009" / "evaluation.json").write_text("{}")
    forked("train.py", "--init_from=resume", f"--out_dir={folder}")  # nothing is left to train
    assert (folder / "kept" / "step_0000009" / "evaluation.json").exists()


def test_training_ends_in_the_same_weights_whether_it_keeps_or_not(kept_run, dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path / 'run'}", *SMALL, *STEADY)
    forked("train.py", *options, "--max_iters=9", "--keep_per_doubling=0")
    assert not (tmp_path / "run" / "kept").exists()
    model, other = (
        load_checkpoint(f / "ckpt.pt")["model"] for f in (tmp_path / "run", kept_run[0])
    )
    assert all(other[name].equal(weight) for name, weight in model.items())


def test_a_kept_checkpoint_is_named_by_its_step_or_its_file(kept_run):
    folder = str(kept_run[0])
    file = "kept/step_0000004.pt"
    for names in ((f"{folder}@4", "best.pt"), (folder, file), (None, f"{folder}/{file}")):
        assert locate(*names) == (folder, file)
        assert run_name(*names) == f"{folder}@4"
    assert results_folder(f"{folder}@4") == kept_run[0] / "kept" / "step_0000004"
    with pytest.raises(UserError, match="has not kept step 7; near it are 2, 4, 8, 9"):
        locate(f"{folder}@7", "best.pt")
    with pytest.raises(UserError, match="names a checkpoint, and so does checkpoint"):
        locate(f"{folder}@4", "ckpt.pt")


def test_kept_steps_are_compared_and_looked_into(kept_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "STORY_TOKENS", 20)
    monkeypatch.setattr(heads, "REPEATED", 2)
    folder = shutil.copytree(kept_run[0], tmp_path / "run")
    runs = f"--compare={folder}@1,{folder}@8,{folder}"
    plot, pairs = tmp_path / "compare.png", tmp_path / "pairs.jsonl"
    pair = {"group": "g", "kind": "k", "beginning": "Once", "right": " upon", "wrong": " on"}
    pairs.write_text(json.dumps(pair))
    options = [
        "--what=loss,pairs",
        f"--pairs={pairs}",
        f"--plot={plot}",
        "--device=cpu",
        "--dtype=float32",
    ]
    evaluate.main(parse(evaluate.Settings, [runs, *options]).settings)
    assert "run@8" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "kept/step_0000008/evaluation.json").read_text())
    assert results["run"]["step"] == 8

    options = [f"--out_dir={folder}", "--over_training", "--stories=2", "--device=cpu"]
    interpret.main(parse(interpret.Settings, options).settings)
    with open(folder / "interpret/over_training.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 4, 8, 9]
    assert float(rows[0]["bits_per_byte"]) > float(rows[-1]["bits_per_byte"])
    told = (folder / "interpret/over_training.txt").read_text(encoding="utf-8")
    assert told.count("--- step ") == 6
