"""What people bring from nanoGPT: their config files and their habits on the command line."""

import pytest
from conftest import ROOT

import bench
import sample
import train
from configurator import UserError, parse

LARGE = {"eval_iters": 500, "eval_only": True, "wandb_log": False, "batch_size": 8}
TINY = {"eval_interval": 250, "eval_iters": 200, "log_interval": 10, "n_layer": 6, "n_head": 6}
TINY |= {"n_embd": 384, "dropout": 0.2, "learning_rate": 1e-3, "max_iters": 5000, "min_lr": 1e-4}
TINY |= {"lr_decay_iters": 5000, "beta2": 0.99, "warmup_iters": 100, "block_size": 256}
TINY |= {"batch_size": 64}
GPT2 = {"wandb_log": True, "wandb_project": "owt", "wandb_run_name": "gpt2-124M", "batch_size": 12}
GPT2 |= {"block_size": 1024, "gradient_accumulation_steps": 40, "max_iters": 600_000}
GPT2 |= {"lr_decay_iters": 600_000, "eval_interval": 1000, "eval_iters": 200, "log_interval": 10}
CONFIGS = {  # the names and values that the published files assign
    **{f"eval_gpt2{size}": LARGE | {"init_from": f"gpt2{size}"} for size in ("", "-medium", "-xl")},
    "eval_gpt2-large": LARGE | {"init_from": "gpt2-large"},
    "finetune_shakespeare": {"out_dir": "out-shakespeare", "dataset": "shakespeare"}
    | {"init_from": "gpt2-xl", "always_save_checkpoint": False, "eval_interval": 5}
    | {"eval_iters": 40, "batch_size": 1, "gradient_accumulation_steps": 32, "max_iters": 20}
    | {"learning_rate": 3e-5, "decay_lr": False, "wandb_log": False},
    "train_gpt2": GPT2 | {"weight_decay": 0.1},
    "train_shakespeare_char": TINY
    | {"out_dir": "out-shakespeare-char", "dataset": "shakespeare_char", "wandb_log": False}
    | {"always_save_checkpoint": False, "gradient_accumulation_steps": 1},
    "train_tinystories_10M": TINY
    | {"out_dir": "out-shakespeare-char", "dataset": "tinystories", "wandb_log": True}
    | {"always_save_checkpoint": True, "gradient_accumulation_steps": 30},
}


@pytest.fixture
def config(tmp_path):
    def write(values: dict) -> str:
        path = tmp_path / "theirs.py"
        path.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()))
        return str(path)

    return write


@pytest.mark.parametrize("values", CONFIGS.values(), ids=CONFIGS)
def test_a_config_of_nanogpt_means_here_what_it_means_there(config, values, capsys):
    settings = parse(train.Settings, [config(values)]).settings
    shared = {name: value for name, value in values.items() if name in vars(settings)}
    assert {name: getattr(settings, name) for name in shared} == shared
    window = settings.batch_size * values.get("block_size", 1024)
    assert settings.eval_tokens == values["eval_iters"] * window
    if "init_from" not in values:  # a model that is fine-tuned has its own shape
        assert settings.n_layer == values.get("n_layer", 12)  # nanoGPT's default, not ours
    assert settings.beta2 == values.get("beta2", 0.95)
    notes = capsys.readouterr().err
    assert f"eval_iters={values['eval_iters']}: taken as eval_tokens=" in notes
    assert ("always_save_checkpoint" in notes) == ("always_save_checkpoint" in values)
    assert max(map(len, notes.splitlines())) < 80 + len(str(config(values)))


def test_a_config_that_fine_tunes_leaves_the_shape_to_the_saved_model(config):
    theirs = config(CONFIGS["finetune_shakespeare"])
    overrides = parse(train.Settings, [theirs, "--init_from=out/x"]).overrides
    assert not overrides.keys() & {"n_layer", "n_head", "n_embd", "block_size"}
    assert parse(train.Settings, [theirs, "--n_layer=3"]).overrides["n_layer"] == 3


def test_a_config_of_ours_keeps_our_defaults():
    argv = [str(ROOT / "config/tinystories_30m.py"), "--eval_iters=20", "--backend=gloo"]
    settings = parse(train.Settings, argv).settings
    assert settings.max_iters == 5000
    assert settings.eval_tokens == 20 * 64 * 256


@pytest.mark.parametrize("out_dir", [{}, {"out_dir": "out"}], ids=["default", "written"])
def test_its_default_folder_is_a_run_among_ours(config, out_dir):
    settings = parse(train.Settings, [config({"eval_iters": 10} | out_dir)]).settings
    assert settings.out_dir == "out/gpt"  # out/ has a folder for each run


def test_the_command_line_counts_for_what_a_config_is_taken_as(config):
    theirs = config({"eval_iters": 10, "batch_size": 64})
    assert parse(train.Settings, [theirs, "--batch_size=2"]).settings.eval_tokens == 20 * 1024
    assert parse(train.Settings, [theirs, "--eval_tokens=5"]).settings.eval_tokens == 5


def test_every_process_but_the_first_is_silent(config, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    parse(train.Settings, [config({"eval_iters": 10})])
    assert capsys.readouterr().err == ""


def test_lr_is_the_learning_rate(capsys):
    assert parse(train.Settings, ["--lr=3e-4"]).settings.learning_rate == 3e-4
    assert "lr=0.0003: taken as learning_rate" in capsys.readouterr().err


def test_of_two_names_of_a_setting_the_command_line_counts(config, tmp_path, capsys):
    ours = tmp_path / "ours.py"
    ours.write_text("learning_rate = 1e-2\neval_tokens = 70\nbatch_size = 2\nblock_size = 8\n")
    s = parse(train.Settings, [str(ours), "--lr=3e-3", "--eval_iters=20"]).settings
    assert (s.learning_rate, s.eval_tokens) == (3e-3, 20 * 2 * 8)
    theirs = config({"backend": "nccl"})
    assert parse(train.Settings, [theirs, "--lr=3e-3"]).settings.learning_rate == 3e-3
    theirs = config({"lr": 1e-3})
    s = parse(train.Settings, [theirs, "--learning_rate=3e-3"]).settings
    assert (s.learning_rate, s.batch_size) == (3e-3, 12)  # and its defaults hold
    capsys.readouterr()
    assert parse(train.Settings, ["--lr=1e-3", "--learning_rate=3e-3"]).settings == (
        train.Settings(learning_rate=3e-3)
    )
    assert "lr=0.001: not needed, learning_rate is given" in capsys.readouterr().err


def test_the_settings_of_its_other_scripts_are_understood(capsys):
    argv = ["--init_from=resume", "--compile=False", "--top_k=200", "--start=FILE:x"]
    assert parse(sample.Settings, argv).settings.top_k == 200
    assert parse(sample.Settings, ["--prompt=Once"]).settings.start == "Once"
    parse(bench.Settings, ["--real_data=False", "--profile=True", "--bias=False", "--seed=1"])
    assert capsys.readouterr().err.count("not needed") == 6
    published = parse(sample.Settings, ["--init_from=gpt2-xl"]).settings
    assert published.out_dir == "hf:openai-community/gpt2-xl"
    with pytest.raises(UserError, match=r"sample\.py loads the run that --out_dir names"):
        parse(sample.Settings, ["--init_from=out/x"])


def test_a_run_folder_or_a_beginning_needs_no_name(tmp_path):
    assert parse(sample.Settings, [str(tmp_path)]).settings.out_dir == str(tmp_path)
    assert parse(sample.Settings, ["Once upon a time"]).settings.start == "Once upon a time"
    assert parse(sample.Settings, ["out/misspelled"]).settings.out_dir == "out/misspelled"
    assert parse(sample.Settings, ["a/best.pt"]).settings.checkpoint == "a/best.pt"
    with pytest.raises(UserError, match="start is given twice"):
        parse(sample.Settings, ["Once upon", "a time"])
    with pytest.raises(UserError, match=r"python train\.py --init_from=resume --out_dir=out/a"):
        parse(train.Settings, ["out/a/settings.json"])
