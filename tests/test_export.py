"""export.py itself: which formats, whole or not at all, the same bytes each time."""

import shutil

import pytest
from conftest import SMALL, command, complaint, contents, forked

import export
from configurator import UserError


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
