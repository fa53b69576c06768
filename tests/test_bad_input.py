"""Mistakes that users make: each ends in one line that says what to do, and changes nothing."""

import contextlib
import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import SMALL, command, complaint, contents, damaged, forked, sign

import prepare
import sample
import train
from configurator import UserError, parse
from tinystories import run as run_module
from tinystories.dataset import read_meta
from tinystories.run import load_checkpoint


def refusal(script, *argv) -> str:
    """The one line with which a command, called in this process, refuses what was requested."""
    with pytest.raises(UserError) as refused:
        command_line = parse(script.Settings, [str(argument) for argument in argv])
        script.main(*(command_line if script is train else [command_line.settings]))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def copied(dataset, tmp_path):
    """A copy of the small dataset, to be spoilt."""
    return shutil.copytree(dataset, tmp_path / "data")


@pytest.fixture
def trained(run, tmp_path):
    """A copy of the small run, to be spoilt."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Asks for training in a new run folder, which must not come to be; returns the refusal."""
    monkeypatch.setattr(run_module, "ROOT", tmp_path / "root")  # where relative out_dirs would lie

    def call(data, *options) -> str:
        where = [f"--dataset={data}", "--out_dir=out/new", "--max_iters=1"]
        line = refusal(train, *where, *SMALL, *options)
        assert not (tmp_path / "root").exists()
        return line

    return call


@pytest.fixture
def preparing(tmp_path):
    """Prepares own stories, given as bytes; returns the refusal. Nothing must come to be."""

    def call(stories: bytes, *options) -> str:
        (tmp_path / "mine.txt").write_bytes(stories)
        source, dataset = f"--source={tmp_path / 'mine.txt'}", f"--dataset={tmp_path / 'new'}"
        line = refusal(prepare, source, dataset, *options)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
        return line

    return call


TALES = "\n<|endoftext|>\n".join(
    f"Once upon a time there was a fox who had {count} friends. They played all day long."
    for count in range(200)
).encode()


# Data for training --------------------------------------------------------------------------


def test_missing_data_is_answered_with_the_command_that_prepares_it(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(f'"""First: python prepare.py --source=x.txt"""\ndataset = "{tmp_path}/no"')
    line = complaint("train.py", config, cwd=tmp_path)
    assert line.endswith(
        f"{tmp_path}/no is missing; prepare it with: python prepare.py --source=x.txt"
    )


def test_missing_data_without_a_config_points_to_prepare(training, tmp_path):
    assert "prepare it with: python prepare.py" in training(tmp_path / "no")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_bin_is_named(copied, training, split):
    (copied / f"{split}.bin").unlink()
    assert training(copied) == f"{copied / split}.bin is missing: prepare the dataset again"


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bin_of_odd_size_is_named(copied, training, split):
    path = copied / f"{split}.bin"
    path.write_bytes(path.read_bytes() + b"\0")
    assert re.search(rf"{split}\.bin has an odd size, [\d,]+ bytes", training(copied))


@pytest.mark.parametrize("size", [0, 2, 64])
def test_a_bin_shorter_than_a_window_is_named(copied, training, size):
    (copied / "meta.json").unlink()
    (copied / "val.bin").write_bytes(bytes(size))
    line = training(copied)
    assert f"val.bin holds {size // 2} tokens" in line
    assert "needs 33" in line


def test_an_id_outside_the_vocabulary_is_named_with_its_position(copied, tmp_path):
    ids = np.fromfile(copied / "val.bin", "<u2")
    ids[1234] = 300
    ids.tofile(copied / "val.bin")
    sign(copied)
    options = [f"--dataset={copied}", f"--out_dir={tmp_path / 'run'}", *SMALL, "--eval_only=True"]
    line = refusal(train, *options)
    assert f"{copied / 'val.bin'} holds the id 300 at position 1,234" in line
    assert "vocabulary of 300" in line


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bin_that_is_not_as_long_as_its_manifest_says_is_named(copied, training, split):
    path = copied / f"{split}.bin"
    path.write_bytes(path.read_bytes()[:-2])
    assert re.search(rf"{split}\.bin holds [\d,]+ tokens, but its meta\.json", training(copied))


DAMAGE = {
    "empty": "",
    "cut short": '{"format": 1, "splits": {"tra',
    "a list": "[]",
    "nothing in it": "{}",
    "another format": '{"format": 99}',
    "rules without counts": None,
    "null": "null",
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_manifest_is_named(copied, training, text):
    meta = json.loads((copied / "meta.json").read_text()) | {"cleaning": {"train": 7, "val": {}}}
    (copied / "meta.json").write_text(text if text is not None else json.dumps(meta))
    assert f"{copied / 'meta.json'} is damaged or not of this version" in training(copied)


def test_a_manifest_that_is_damaged_anywhere_is_refused_or_shown(copied, capsys):
    path, shown = copied / "meta.json", 0
    meta = json.loads(path.read_text())
    odd = [None, "x", [1], {"a": []}, -1, 0, float("nan"), 10**400]
    versions = [*damaged({name: meta[name] for name in meta.keys() - {"files"}}, odd)]
    for version in versions:
        path.write_text(json.dumps(version))
        with contextlib.suppress(UserError):
            prepare.print_summary(prepare.Settings(), copied, read_meta(copied))
            shown += 1
    assert 0 < shown < len(versions) / 2


@pytest.mark.parametrize("key", ["splits", "tokenizer", "format", "settings"])
def test_a_manifest_that_lacks_something_is_named(copied, training, key):
    meta = json.loads((copied / "meta.json").read_text())
    del meta[key]
    (copied / "meta.json").write_text(json.dumps(meta))
    options = [f"--dataset={copied}", "--source=storybook", "--tokenizer=bpe"]
    messages = {"train": "", "prepare": refusal(prepare, *options)}
    if key != "settings":  # training does without
        messages["train"] = training(copied)
        assert "meta.json" in messages["train"]
    assert str(copied) in messages["prepare"]


def test_a_damaged_dataset_can_be_prepared_again_with_overwrite(copied):
    meta = json.loads((copied / "meta.json").read_text())["settings"]
    (copied / "meta.json").write_text("{")
    options = [f"--{key}={value}" for key, value in meta.items()]
    options += [f"--dataset={copied}", "--overwrite=True"]
    prepare.main(parse(prepare.Settings, options).settings)
    assert json.loads((copied / "meta.json").read_text())["settings"] == meta


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_a_damaged_tokenizer_is_named(copied, training, content):
    path = copied / "vocabulary.json"
    path.write_bytes(content) if content is not None else path.unlink()
    assert str(path) in training(copied)


# Settings of a run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "batch_size=0",
        "gradient_accumulation_steps=0",
        "max_iters=0",
        "eval_interval=0",
        "eval_tokens=0",
        "log_interval=0",
        "block_size=0",
        "n_layer=0",
        "n_head=-1",
        "learning_rate=-1",
        "weight_decay=-0.1",
        "grad_clip=-1",
        "warmup_iters=-1",
        "seed=-1",
        "dropout=1.5",
        "dropout=-0.1",
        "beta1=1.0",
        "beta2=-0.5",
        "max_minutes=0",
        "save_minutes=-1",
        "lr_decay_iters=-3",
        "seed=99999999999999999999",
        "out_dir=",
    ],
)
def test_a_setting_that_makes_no_sense_is_named(dataset, training, setting):
    name, _, _ = setting.partition("=")
    line = training(dataset, f"--{setting}")
    assert name in line


def test_channels_that_do_not_divide_among_heads_are_named(dataset, training):
    line = training(dataset, "--n_embd=32", "--n_head=5")
    assert line.startswith("n_embd=32 is not divisible by n_head=5")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu", "cpu:x", ""])
def test_a_device_that_is_not_here_is_named(dataset, training, device):
    assert f"device={device} " in training(dataset, f"--device={device}")


def test_a_window_longer_than_the_data_is_named(dataset, training):
    assert "smaller block_size" in training(dataset, "--block_size=300000")


@pytest.mark.parametrize("path", ["none", "none.pt"])
def test_a_model_to_start_from_that_is_not_there_is_named(dataset, training, tmp_path, path):
    line = training(dataset, f"--init_from={tmp_path / path}")
    assert line.startswith("init_from is scratch, resume, a folder, a .pt file, gpt2, ")
    assert line.endswith(f" or hf:owner/name: no {tmp_path / path}")


def test_a_model_to_start_from_with_another_shape_is_refused(dataset, run, training):
    assert "n_layer=3, but the saved model has 2" in training(
        dataset, f"--init_from={run}", "--block_size=32", "--n_layer=3"
    )


# Runs that are there already ----------------------------------------------------------------


def test_training_over_a_run_is_refused(dataset, run):
    before = contents(run)
    line = complaint("train.py", f"--dataset={dataset}", f"--out_dir={run}", *SMALL)
    assert "already has a run" in line
    assert "--init_from=resume" in line
    assert "--overwrite=True" in line
    assert contents(run) == before


def test_overwrite_trains_anew(dataset, trained):
    options = [f"--dataset={dataset}", f"--out_dir={trained}", "--overwrite=True"]
    told = command("train.py", *options, *SMALL, "--max_iters=1").stdout
    assert "(scratch)" in told
    assert load_checkpoint(trained / "ckpt.pt")["progress"]["step"] == 1


def test_overwrite_destroys_nothing_where_training_cannot_begin(trained, tmp_path):
    before = contents(trained)
    options = [f"--dataset={tmp_path / 'no'}", f"--out_dir={trained}", "--overwrite=True"]
    refusal(train, *options, *SMALL)
    assert contents(trained) == before


def resumed(folder, *options) -> str:
    """The refusal to resume a run; the folder must stay as it is."""
    before = contents(folder)
    line = refusal(train, "--init_from=resume", f"--out_dir={folder}", *options)
    assert contents(folder) == before
    return line


def test_nothing_to_resume_is_said(tmp_path):
    assert resumed(tmp_path / "none") == (
        f"there is no run to resume in {tmp_path / 'none'}; --out_dir= names it"
    )


def test_a_run_that_ended_before_its_first_save_is_started_again(trained):
    (trained / "ckpt.pt").unlink()
    assert resumed(trained).endswith("with --overwrite=True, without --init_from=resume")


@pytest.mark.parametrize("name", ["log.csv", "samples.txt"])
def test_a_resume_that_is_refused_for_its_logs_changes_nothing(trained, name):
    (trained / name).write_text("")
    assert "has lost its end" in resumed(trained, "--learning_rate=0.5", "--max_iters=11")


def test_resuming_from_a_truncated_checkpoint_is_refused(trained):
    path = trained / "ckpt.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    line = complaint("train.py", "--init_from=resume", f"--out_dir={trained}")
    assert line.startswith(f"train.py: {path} is damaged, cut short or not")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("n_layer=3", "n_layer=3, but the saved model has 2"),
        ("n_head=4", "n_head=4, but the saved model has 2"),
        ("n_embd=64", "n_embd=64, but the saved model has 32"),
        ("block_size=64", "block_size=64, but the saved model has 32"),
        ("bias=True", "bias=True, but the saved model has False"),
        ("seed=3", "the run has seed=1337; a resumed run keeps it"),
    ],
)
def test_a_resumed_run_keeps_its_shape_and_seed(run, change, message):
    assert resumed(run, f"--{change}") == message


def test_a_resumed_run_keeps_its_tokenizer(run, tmp_path):
    other = tmp_path / "other"
    options = "--source=storybook --max_stories=50 --val_fraction=0.1 --tokenizer=bpe"
    options = [*options.split(), "--vocab_size=280", f"--dataset={other}"]
    prepare.main(parse(prepare.Settings, options).settings)
    assert "the saved model has another tokenizer than other" in resumed(run, f"--dataset={other}")


def test_a_resumed_run_keeps_its_data(run, copied):
    data = (copied / "train.bin").read_bytes()
    (copied / "train.bin").write_bytes(data[2:] + data[:2])
    meta = json.loads((copied / "meta.json").read_text())
    meta["splits"]["train"]["sha256"] = hashlib.sha256(data[2:] + data[:2]).hexdigest()
    (copied / "meta.json").write_text(json.dumps(meta))
    assert "was trained on other data than" in resumed(run, f"--dataset={copied}")


def test_weights_alone_cannot_be_resumed(trained):
    """best.pt put in the place of ckpt.pt: no optimizer, no progress."""
    shutil.copy(trained / "best.pt", trained / "ckpt.pt")
    assert "ckpt.pt" in resumed(trained)


def test_a_damaged_config_of_the_run_is_named(trained):
    (trained / "settings.json").write_text("{")
    assert resumed(trained).startswith(f"{trained / 'settings.json'} is damaged")


def test_a_folder_in_the_place_of_a_file_is_named_before_anything_changes(trained):
    (trained / "vocabulary.json").unlink()
    (trained / "vocabulary.json").mkdir()
    before = contents(trained)
    assert "vocabulary.json is a folder, where a file belongs" in resumed(trained)
    assert contents(trained) == before


def test_a_wrong_value_in_the_config_of_the_run_is_named(trained):
    config = json.loads((trained / "settings.json").read_text())
    (trained / "settings.json").write_text(json.dumps(config | {"batch_size": "many"}))
    assert resumed(trained) == (
        f"{trained / 'settings.json'}: batch_size expects an integer, not 'many'"
    )


# Sampling -----------------------------------------------------------------------------------


def test_no_run_to_sample_from_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    assert refusal(sample).startswith("no run found in out/; train one first")


def test_a_run_that_is_not_there_is_named(tmp_path):
    line = refusal(sample, f"--out_dir={tmp_path / 'none'}")
    assert line == f"there is no run in {tmp_path / 'none'}"


def test_a_folder_that_holds_no_run_is_named(tmp_path):
    line = refusal(sample, f"--out_dir={tmp_path}")
    assert line == f"there is no checkpoint {tmp_path / 'best.pt'}"


def test_a_truncated_model_tells_nothing(trained):
    path = trained / "best.pt"
    path.write_bytes(path.read_bytes()[:5000])
    assert str(path) in complaint("sample.py", f"--out_dir={trained}")


@pytest.mark.parametrize(
    "setting",
    [
        "temperature=-0.1",
        "top_k=-1",
        "top_p=0",
        "top_p=1.1",
        "min_p=-0.1",
        "min_p=2",
        "repetition_penalty=0",
        "num_samples=0",
        "max_new_tokens=-5",
        "seed=99999999999999999999",
        "device=cpu:x",
    ],
)
def test_a_bad_way_of_sampling_is_named(run, setting):
    name, _, _ = setting.partition("=")
    line = refusal(sample, f"--out_dir={run}", "--device=cpu", f"--{setting}")
    assert line.startswith(name)


# Preparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_more_ids_than_two_bytes_hold_are_refused(preparing, kind):
    line = preparing(TALES, f"--tokenizer={kind}", "--vocab_size=70000")
    assert line.startswith("vocab_size=70000 is out of range")
    assert ("65536" in line) == (kind == "bpe")


@pytest.mark.parametrize("size", [256, 0, -1])
@pytest.mark.parametrize("kind", ["bpe", "gpt2"])
def test_a_vocabulary_that_does_not_hold_all_bytes_is_refused(preparing, kind, size):
    line = preparing(TALES, f"--tokenizer={kind}", f"--vocab_size={size}")
    assert line.startswith(f"vocab_size={size} is out of range: 257")


def test_text_that_is_not_utf8_is_named_with_its_place(preparing):
    line = preparing(TALES[:1000] + b"\xff" + TALES[1000:], "--tokenizer=bpe")
    assert "mine.txt, byte 1,000: this is not UTF-8" in line


@pytest.mark.parametrize("text", [b"", b"\n\n", b"<|endoftext|>\n<|endoftext|>\n"])
def test_a_file_without_stories_is_refused(preparing, text):
    assert re.search("no stor", preparing(text, "--tokenizer=bpe"))


def test_stories_of_which_cleaning_leaves_none_are_refused(preparing):
    text = b"\n<|endoftext|>\n".join(b"too short %d" % count for count in range(200))
    line = preparing(text, "--tokenizer=bpe", "--val_fraction=0.2")
    assert line.endswith(
        "no train story is left; see --clean (most of them: dropped, too short for a story)"
    )


def test_too_few_stories_for_validation_are_refused(preparing):
    line = preparing(TALES, "--tokenizer=bpe", "--val_fraction=0.000001")
    assert "gives no story for val; raise --val_fraction or give --val_source" in line


@pytest.mark.parametrize("fraction", ["0", "1", "-0.5", "7"])
def test_a_share_that_is_none_is_refused(preparing, fraction):
    assert f"val_fraction is {float(fraction)}; it must be" in preparing(
        TALES, f"--val_fraction={fraction}"
    )


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_stories_than_one_are_refused(preparing, count):
    assert "max_stories" in preparing(TALES, f"--max_stories={count}")


def test_an_unknown_source_is_answered_with_the_nearest(tmp_path):
    line = complaint("prepare.py", "--source=storybok", f"--dataset={tmp_path / 'new'}")
    assert line == "prepare.py: there is no file storybok; did you mean storybook?"


def test_gpt2_without_network_or_cache_says_what_to_do(tmp_path):
    (tmp_path / "mine.txt").write_bytes(TALES)
    offline = os.environ | {"TIKTOKEN_CACHE_DIR": str(tmp_path / "cache"), "no_proxy": ""}
    offline |= {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    options = ["--source=mine.txt", "--val_fraction=0.1", f"--dataset={tmp_path / 'new'}"]
    line = complaint("prepare.py", *options, cwd=tmp_path, env=offline)
    assert "TIKTOKEN_CACHE_DIR" in line
    assert "--tokenizer=bpe" in line
    assert not (tmp_path / "new").exists()


# Datasets that are there already ------------------------------------------------------------

SAME = "--source=storybook --max_stories=400 --val_fraction=0.05 --tokenizer=bpe".split()


def test_a_dataset_with_the_same_settings_is_left_as_it_is(dataset):
    before = contents(dataset)
    told = command("prepare.py", *SAME, "--vocab_size=300", f"--dataset={dataset}")
    assert "is already prepared, with these settings" in told.stdout
    assert contents(dataset) == before


@pytest.mark.parametrize("change", ["vocab_size=301", "clean=False", "max_stories=10"])
def test_a_dataset_with_other_settings_is_not_overwritten(dataset, change):
    before = contents(dataset)
    options = [*SAME, "--vocab_size=300", f"--dataset={dataset}", f"--{change}"]
    line = complaint("prepare.py", *options)
    assert "prepared with other settings or from files that have changed; replace it with" in line
    assert contents(dataset) == before


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "diary.txt").write_text("Dear diary")
    for overwrite in ("False", "True"):
        options = [*SAME, f"--dataset={tmp_path}", f"--overwrite={overwrite}"]
        assert "is no part of a dataset" in complaint("prepare.py", *options)
    assert contents(tmp_path) == {"diary.txt": b"Dear diary"}


def test_overwrite_that_fails_leaves_the_old_dataset(copied):
    before = contents(copied)
    options = [*SAME, "--vocab_size=70000", f"--dataset={copied}", "--overwrite=True"]
    refusal(prepare, *options)
    assert contents(copied) == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_a_prepared_dataset_is_named_as_it_was_given(tmp_path):
    options = [*SAME, "--max_stories=40", "--vocab_size=257", f"--dataset={tmp_path / 'new'}"]
    told = command("prepare.py", *options).stdout
    assert f"prepared {tmp_path / 'new'}:" in told


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("exit()", "line 1: SystemExit"),
        ('out_dir = "a\\0b"', "out_dir expects text, not 'a\\x00b'"),
        (r'out_dir = "\ud800"', r"out_dir expects text, not '\ud800'"),
        (
            "max_iters = 10**5000",
            "max_iters expects an integer, not a number of thousands of digits",
        ),
        (f'max_iters = "{"7x" * 3000}"', "... (6,002 characters)"),
    ],
    ids=["exit", "NUL", "surrogate", "digits", "length"],
)
def test_odd_values_in_a_config_are_one_short_line(tmp_path, config, said):
    (tmp_path / "odd.py").write_text(config)
    line = complaint("train.py", tmp_path / "odd.py", run=forked)
    assert said in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--start=FILE:/dev/zero", "is longer than 10,000,000 characters"),
        ("--out_dir=~nobody-here/x", "there is no run in "),
        ("--repetition_penalty=1e-45", "repetition_penalty is 1e-45; it must be >= 0.01"),
    ],
)
def test_odd_values_of_sampling_are_one_line(run, option, said):
    folder = () if "out_dir" in option else (f"--out_dir={run}",)
    assert said in complaint("sample.py", *folder, option, run=forked)


def test_a_tiny_temperature_is_greedy(run):
    options = (f"--out_dir={run}", "--num_samples=1", "--max_new_tokens=20")
    texts = {forked("sample.py", *options, f"--temperature={t}").stdout for t in ("0", "1e-45")}
    assert len(texts) == 1


def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "settings.json").unlink()
    os.mkfifo(folder / "settings.json")
    line = complaint("train.py", "--init_from=resume", f"--out_dir={folder}", run=forked)
    assert "settings.json: it is not a file" in line
