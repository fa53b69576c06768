"""export.py itself: which formats, whole or not at all, the same bytes each time."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, command, complaint, contents, forked

import export
from configurator import UserError
from tinystories.evaluation.results import write_results
from tinystories.files import only_writer, sha256_of


def test_without_a_format_it_writes_three_and_twice_the_same_bytes(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "small")
    done = forked("export.py", folder)
    exported = contents(folder / "export")
    names = {name.partition("/")[0] for name in exported}
    assert names == {"hf", "small.gguf", "small.html"}
    assert done.stdout.count("logits differ by") == 3
    assert max(map(len, done.stdout.replace(str(folder), "x").splitlines())) <= 80
    assert "--overwrite replaces it" in complaint("export.py", folder, run=forked)
    assert contents(folder / "export") == exported
    forked("export.py", folder, "--overwrite")
    assert contents(folder / "export") == exported


def test_what_one_format_cannot_hold_goes_into_the_others(dataset, tmp_path):
    folder = tmp_path / "windowed"
    options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=1")
    forked("train.py", *options, "--arch=qwen3", "--attention_window=16")
    assert "attention_window" in complaint("export.py", folder, "--to=gguf", run=forked)
    assert not (folder / "export").exists()
    done = forked("export.py", folder)
    assert "no windowed.gguf: " in done.stdout
    assert {path.name for path in (folder / "export").iterdir()} == {"hf", "windowed.html"}


def test_a_failure_is_not_taken_for_a_format_that_cannot_hold_the_model(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "small")
    (folder / "export").write_text("a file in its place")
    says = complaint("export.py", folder, run=forked)
    assert "cannot lock" in says and "File exists" in says


def test_two_exports_of_a_run_do_not_mix(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "small")
    with only_writer(folder / "export" / "hf"):
        line = complaint("export.py", folder, "--to=hf", run=forked)
    assert "export/hf is being written by" in line
    assert not (folder / "export").exists()


def test_an_export_behind_a_link_is_replaced_there(run, tmp_path):
    folder, elsewhere = shutil.copytree(run, tmp_path / "small"), tmp_path / "elsewhere"
    (folder / "export").mkdir()
    (folder / "export" / "hf").symlink_to(elsewhere)
    for _ in range(2):
        forked("export.py", folder, "--to=hf", "--verify=False", "--overwrite")
        assert (folder / "export" / "hf").is_symlink()
        assert (elsewhere / "config.json").is_file()


def test_a_run_may_have_a_name_that_is_no_text(run, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copytree(run, folder)
    forked("export.py", folder, "--verify=False")
    card = (Path(folder) / "export" / "hf" / "README.md").read_text(encoding="utf-8")
    assert "# caf\ufffd\n" in card


def test_a_kept_checkpoint_has_its_own_evaluation(tmp_path):
    loss = {"nats_per_token": 1.5, "perplexity": 4.5, "bits_per_byte": 0.75}
    result = {"stories": 2, "bytes": 9, "all_text": loss}
    result["per_story"] = loss | {"bits_per_byte_95": None}
    checkpoint = tmp_path / "kept" / "step_0000005.pt"
    checkpoint.with_suffix("").mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    info = {"sha256": sha256_of(checkpoint)}
    write_results(checkpoint.with_suffix("") / "evaluation.json", info, {"loss": result})
    rows = export.evaluation_rows(tmp_path, "kept/step_0000005.pt")
    assert rows["Loss, per story"]["bits per byte"] == "0.7500"


def test_formats_that_are_not_there(run):
    assert "to=onnx is no format; there are: hf, gguf, html, nanogpt" in complaint(
        "export.py", run, "--to=html,onnx"
    )
    assert "--to=TEXT" in command("export.py", "--help").stdout


@pytest.mark.parametrize("text", ["{}", '{"run": 0}', "[]"])
def test_a_damaged_evaluation_is_named(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match="evaluate again"):
        export.evaluation_rows(tmp_path, "best.pt")
