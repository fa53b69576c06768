"""The log of a run: files that only grow, and what a resumed run does to them."""

import pytest
from conftest import contents

import train
from configurator import UserError
from model import GPT, GPTConfig
from tinystories.device import select_hardware
from tinystories.log import COLUMNS, HEADER, RunLog, check_logs

EVALUATION = {"step": 1, "train_loss": 5.0, "val_loss": 5.5, "val_bits_per_byte": 1.5}


def test_logs_are_cut_back_to_the_sizes_that_were_saved(tmp_path):
    log = RunLog(tmp_path)
    log.evaluation(EVALUATION, "Once upon a time, ö")
    sizes, before = log.sizes(), contents(tmp_path)
    log.evaluation(EVALUATION | {"step": 2}, "Twice")
    RunLog(tmp_path, sizes).evaluation(EVALUATION | {"step": 3}, "Thrice")
    after = contents(tmp_path)
    assert after["samples.txt"] == before["samples.txt"] + b"--- step 3 ---\nThrice\n\n"
    assert after["log.csv"] == before["log.csv"] + b"3,,,,,,,,,5.0,5.5,1.5,,,,\n"


def test_damaged_logs_are_refused_and_kept_as_they_are(tmp_path):
    sizes = RunLog(tmp_path).sizes()
    whole = (tmp_path / "log.csv").read_bytes()
    for damaged in (b"step,val_loss\n", b"\xff" * len(whole)):
        (tmp_path / "log.csv").write_bytes(damaged)
        with pytest.raises(UserError, match="has lost its end; copy it from a backup"):
            check_logs(tmp_path, sizes)
        assert (tmp_path / "log.csv").read_bytes() == damaged


def test_a_new_run_starts_its_logs_anew(tmp_path):
    RunLog(tmp_path).evaluation(EVALUATION, "Once")
    RunLog(tmp_path)
    assert (tmp_path / "log.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (tmp_path / "samples.txt").read_text() == ""


def test_sizes_of_logs_are_bytes_not_characters(tmp_path):
    log = RunLog(tmp_path)
    log.evaluation(EVALUATION, "öö")
    assert log.sizes() == {name: len(data) for name, data in contents(tmp_path).items()}


def test_a_log_of_an_earlier_version_keeps_its_columns(tmp_path):
    (tmp_path / "log.csv").write_text("step,val_loss\n")
    sizes = {"log.csv": len("step,val_loss\n"), "samples.txt": 0}
    full = EVALUATION | {"full_val_loss": 5.6, "full_val_bits_per_byte": 1.6}
    RunLog(tmp_path, sizes).evaluation(full, "Once")
    assert (tmp_path / "log.csv").read_text() == "step,val_loss\n1,5.5\n"


def test_a_damaged_log_goes_on(tmp_path):
    rows = b"step,val_loss\n\xff\xd1\n"
    (tmp_path / "log.csv").write_bytes(rows)
    sizes = {"log.csv": len(rows), "samples.txt": 0}
    RunLog(tmp_path, sizes).evaluation(EVALUATION, "Once")
    assert (tmp_path / "log.csv").read_bytes() == rows + b"1,5.5\n"


def test_the_header_comes_back_before_it_has_scrolled_off(tmp_path, capsys):
    log, hardware = RunLog(tmp_path), select_hardware("cpu", "float32")
    model = GPT(GPTConfig(vocab_size=300, block_size=8, n_layer=1, n_head=1, n_embd=8))
    for step in range(1, 43):
        state = train.TrainState(step=step, windows=step, seconds=float(step))
        log.step(train.Settings(), state, 5.0, 1e-3, 1.0, model, hardware)
    log.evaluation(EVALUATION, "Once upon a time. " * 50)
    lines = capsys.readouterr().out.splitlines()
    assert [i for i, line in enumerate(lines) if line == HEADER] == [0, 21, 42]
    assert all(line.startswith("  | ") for line in lines[45:])
    assert max(map(len, lines)) <= 79
