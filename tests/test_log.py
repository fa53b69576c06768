"""The log of a run: files that only grow, and what a resumed run does to them."""

from conftest import contents

from tinystories.log import COLUMNS, RunLog

EVALUATION = {"step": 1, "train_loss": 5.0, "val_loss": 5.5, "val_bits_per_byte": 1.5}


def test_logs_are_cut_back_to_the_sizes_that_were_saved(tmp_path):
    log = RunLog(tmp_path)
    log.evaluation(EVALUATION, "Once upon a time, ö")
    sizes, before = log.sizes(), contents(tmp_path)
    log.evaluation(EVALUATION | {"step": 2}, "Twice")
    RunLog(tmp_path, sizes).evaluation(EVALUATION | {"step": 3}, "Thrice")
    after = contents(tmp_path)
    assert after["samples.txt"] == before["samples.txt"] + b"--- step 3 ---\nThrice\n\n"
    assert after["log.csv"] == before["log.csv"] + b"3,,,,,,,,,5.0,5.5,1.5\n"


def test_logs_that_are_shorter_than_saved_are_kept_as_they_are(tmp_path):
    sizes = RunLog(tmp_path).sizes()
    (tmp_path / "log.csv").write_bytes(b"step\n")
    RunLog(tmp_path, {name: size + 100 for name, size in sizes.items()})
    assert (tmp_path / "log.csv").read_bytes() == b"step\n"


def test_a_new_run_starts_its_logs_anew(tmp_path):
    RunLog(tmp_path).evaluation(EVALUATION, "Once")
    RunLog(tmp_path)
    assert (tmp_path / "log.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert (tmp_path / "samples.txt").read_text() == ""


def test_sizes_of_logs_are_bytes_not_characters(tmp_path):
    log = RunLog(tmp_path)
    log.evaluation(EVALUATION, "öö")
    assert log.sizes() == {name: len(data) for name, data in contents(tmp_path).items()}
