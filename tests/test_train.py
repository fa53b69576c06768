"""Training as its users rely on it: what it prints, what it does, and what it never does."""

import csv
import dataclasses
import json
import os
import re
import resource
import sys

import numpy as np
import pytest
import torch
from conftest import SMALL, complaint, forked, sign
from forks import train_on_two
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import train
from configurator import UserError, parse
from model import GPT, GPTConfig
from tinystories import log as log_module
from tinystories.dataset import open_dataset
from tinystories.device import select_hardware
from tinystories.loss import estimate_loss
from tinystories.optim import Optimizer
from tinystories.processes import print_rank0
from tinystories.run import MODEL_SETTINGS, load_checkpoint, load_model
from tinystories.tokenizer import Tokenizer

pytestmark = pytest.mark.slow


def log(folder, column: str) -> list[float]:
    """A column of log.csv, without its empty places."""
    rows = csv.DictReader((folder / "log.csv").read_text().splitlines())
    return [float(row[column]) for row in rows if row[column]]


def gpt2_dataset(folder):
    """A dataset of the GPT-2 vocabulary, without meta.json, as other repos make it."""
    folder.mkdir()
    for split in ("train", "val"):
        ids = np.random.RandomState(0).randint(0, 50257, 300)
        ids.astype("<u2").tofile(folder / f"{split}.bin")
    return folder


# What it prints -----------------------------------------------------------------------------


@pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)
def test_the_30m_config_is_the_published_run_to_the_letter(tmp_path):
    """And a .bin of another nanoGPT-style repo, which has no meta.json, trains."""
    data = gpt2_dataset(tmp_path / "data")
    done = forked(
        "train.py",
        "config/tinystories_30m.py",
        f"--dataset={data}",
        "--eval_only=True",
        "--batch_size=64",
        "--device=cpu",
    )
    lines = done.stdout.splitlines()
    assert "tokens per iteration will be: 491,520" in lines
    assert "number of parameters: 29.94M" in lines
    assert "num decayed parameter tensors: 26, with 30,031,872 parameters" in lines
    assert "num non-decayed parameter tensors: 13, with 4,992 parameters" in lines
    assert "using fused AdamW: True" in lines
    assert f"{data} has no meta.json; assuming GPT-2 token ids" in " ".join(done.stdout.split())
    assert re.search(r"step 0: train loss 10\.\d+, val loss 10\.\d+, .* bits per byte", done.stdout)


@pytest.mark.parametrize(
    ("config", "millions"),
    [("tinystories_10m", 9.9), ("tinystories_43m", 42.9), ("tinystories_86m", 85.6)],
)
def test_the_configs_have_the_sizes_that_they_are_named_after(config, millions):
    s, _, docs = parse(train.Settings, [f"config/{config}.py"])
    vocab_size = int(re.search(r"\d+$", s.dataset).group())
    shape = {name: getattr(s, name) for name in MODEL_SETTINGS}
    with torch.device("meta"):
        network = train.GPT(train.GPTConfig(vocab_size=vocab_size, **shape))
    assert round(network.count_parameters() / 1e6, 1) == millions
    assert f"--vocab_size={vocab_size}" in docs[0]


def test_a_run_says_what_it_will_do_and_leaves_a_complete_folder(printed_run):
    folder, printed = printed_run
    assert "= 4 windows per micro-batch x 2 micro-batches x 32 tokens" in printed
    assert re.search(r"10 steps = 0\.\d+ epochs", printed)
    shown = " ".join(printed.replace("\\\n", "").split())  # a long command has several lines
    assert f"generate stories: python sample.py --out_dir={folder}" in shown
    assert {path.name for path in folder.iterdir()} == {
        *("best.pt", "ckpt.pt", "settings.json", "vocabulary.json"),
        *("log.csv", "loss.png", "samples.txt"),
    }
    assert log(folder, "step") == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert log(folder, "tokens") == [256.0 * step for step in range(1, 11)]
    assert len(log(folder, "val_loss")) == len(log(folder, "val_bits_per_byte")) == 3
    assert (folder / "samples.txt").read_text().count("--- step") == 3
    assert load_checkpoint(folder / "ckpt.pt")["progress"]["step"] == 10


def test_lines_fit_a_terminal_of_80_columns(printed_run):
    printed = re.sub(r"/\S+/", "", printed_run[1])  # the tests' folders have long names
    lines = printed.splitlines()
    assert log_module.HEADER in lines and max(map(len, lines)) <= 80


# What it does -------------------------------------------------------------------------------


def test_the_rate_warms_up_and_follows_a_cosine_to_its_minimum():
    s = train.Settings(learning_rate=1.0, min_lr=0.1, warmup_iters=9, max_iters=109)
    assert train.learning_rate(s, 0, 0) == 0.1
    assert train.learning_rate(s, 9, 0) == 1.0
    assert train.learning_rate(s, 59, 0) == pytest.approx(0.55)
    assert train.learning_rate(s, 109, 0) == pytest.approx(0.1)
    assert train.learning_rate(s, 500, 0) == pytest.approx(0.1)


def test_a_linear_schedule_is_flat_and_then_falls_to_its_minimum():
    options = {"learning_rate": 1.0, "min_lr": 0.0, "warmup_iters": 9, "max_iters": 109}
    s = train.Settings(lr_schedule="linear", cooldown=0.4, **options)
    rates = [train.learning_rate(s, step, 0) for step in (0, 9, 69, 89, 109, 500)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0, 0.0])
    by_time = train.Settings(lr_schedule="linear", cooldown=1.0, max_minutes=5, **options)
    assert train.learning_rate(by_time, 9, 0.75) == pytest.approx(0.25)


def test_a_budget_of_minutes_takes_the_place_of_the_steps_in_the_schedule():
    s = train.Settings(learning_rate=1.0, min_lr=0.0, warmup_iters=1, max_minutes=5)
    assert train.learning_rate(s, 10, 0.5) == pytest.approx(0.5)
    assert train.learning_rate(s, 10, 1.0) == pytest.approx(0.0)


def test_steps_that_end_before_the_minutes_end_at_the_lowest_rate_too():
    s = train.Settings(learning_rate=1.0, min_lr=0.0, warmup_iters=0, max_minutes=5, max_iters=100)
    assert train.learning_rate(s, 50, 0.1) == pytest.approx(0.5)
    assert train.learning_rate(s, 100, 0.2) == pytest.approx(0.0)


def test_a_budget_of_minutes_ends_evaluated_and_saved_and_a_resume_does_not_renew_it(
    dataset, tmp_path
):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--max_iters=100000")
    done = forked("train.py", *options, "--max_minutes=0.03", "--eval_interval=100000")
    assert re.search(r"done in \d+s: \d+ steps, .* tokens, 2s of training\n", done.stdout)
    state = load_checkpoint(tmp_path / "ckpt.pt")["progress"]
    assert state["evaluated"] == state["step"] > 0
    assert state["seconds"] >= 1.8
    rates = log(tmp_path, "learning_rate")
    assert rates[-1] < max(rates) / 2
    forked("train.py", f"--out_dir={tmp_path}", "--init_from=resume")
    assert load_checkpoint(tmp_path / "ckpt.pt")["progress"] == state


@pytest.mark.parametrize("variant", ["", "--arch=qwen3 --optimizer=muon --story_mask=True"])
def test_steps_are_the_same_however_they_are_cut_into_micro_batches_and_processes(
    dataset, tmp_path, variant
):
    def split(name, size, count):
        """Five steps of 64 windows, cut up in some way, in a folder of this name."""
        cut = (f"--batch_size={size}", f"--gradient_accumulation_steps={count}")
        options = (f"--dataset={dataset}", f"--out_dir={tmp_path / name}", *SMALL, *cut)
        return *options, "--dropout=0", "--max_iters=5", *variant.split()

    train_on_two(*split("on_two", 8, 8))
    forked("train.py", *split("whole", 64, 1))
    forked("train.py", *split("in_four", 16, 4))
    whole = np.array(log(tmp_path / "whole", "loss"))
    for name in ("in_four", "on_two"):
        np.testing.assert_allclose(log(tmp_path / name, "loss"), whole, atol=1e-5, rtol=0)
    assert whole[-1] < whole[0]


def test_validation_loss_does_not_depend_on_the_batch_size_and_takes_every_token(run, dataset):
    options = f"--out_dir={run} --init_from=resume --eval_only=True".split()
    lines = [
        forked("train.py", *options, f"--batch_size={size}").stdout.splitlines()[-1]
        for size in (4, 23)
    ]
    assert lines[0] == lines[1]
    state = load_checkpoint(run / "best.pt")
    network = train.GPT(train.GPTConfig(**state["model_config"]))
    network.load_state_dict(state["model"])
    ids = torch.from_numpy(np.fromfile(dataset / "val.bin", "<u2").astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 32):
            window = ids[start : start + 33]
            logits = network.eval()(window[None, :-1])[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    assert f"on all of validation: loss {nats / (len(ids) - 1):.4f}" in lines[0]
    text = json.loads((dataset / "meta.json").read_text())["splits"]["val"]["bytes"]
    first = Tokenizer.load(dataset / "vocabulary.json").byte_lengths()[ids[0]]
    assert f"{nats / np.log(2) / (text - first):.4f} bits per byte" in lines[0]


def test_evaluating_and_generating_do_not_disturb_training(dataset, tmp_path):
    losses = []
    for interval in (1, 1000):
        folder = tmp_path / str(interval)
        options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=4")
        forked("train.py", *options, f"--eval_interval={interval}")
        losses.append(log(folder, "loss"))
    assert losses[0] == losses[1]


def test_fine_tuning_takes_the_weights_and_the_shape_but_not_the_schedule(run, dataset, tmp_path):
    done = forked(
        "train.py",
        f"--dataset={dataset}",
        f"--out_dir={tmp_path}",
        f"--init_from={run}",
        "--max_iters=3",
        "--batch_size=4",
        "--log_interval=1",
        "--device=cpu",
        "--dtype=float32",
    )
    assert "2 layers, 2 heads, n_embd 32, window of 32" in done.stdout
    assert log(tmp_path, "step")[:2] == [0, 1]
    assert log(tmp_path, "val_loss")[0] == pytest.approx(min(log(run, "val_loss")), abs=0.05)


def test_resuming_a_finished_run_with_more_steps_goes_on(run, dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL)
    forked("train.py", *options, "--max_iters=3")
    forked("train.py", f"--out_dir={tmp_path}", "--init_from=resume", "--max_iters=5")
    assert load_checkpoint(tmp_path / "ckpt.pt")["progress"]["step"] == 5
    assert json.loads((tmp_path / "settings.json").read_text())["max_iters"] == 5


def test_averaged_weights_are_evaluated_beside_and_saved_where_they_are_better(dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--max_iters=20")
    noisy = ("--learning_rate=0.05", "--min_lr=0.05", "--ema=0.02", "--eval_interval=20")
    noisy += ("--eval_tokens=2000",)
    done = forked("train.py", *options, *noisy)
    average, trained = log(tmp_path, "ema_val_loss"), log(tmp_path, "val_loss")
    assert len(average) == len(trained) - 1  # the first weights have no average
    assert average[-1] < min(trained)
    assert f"  | averaged weights: val loss {average[-1]:.4f}, " in done.stdout
    best, state = (load_checkpoint(tmp_path / name) for name in ("best.pt", "ckpt.pt"))
    assert best["average"] and best["val_loss"] == min(average)
    assert f"lowest val loss: {min(average):.4f} after step {best['step']} (averaged" in done.stdout
    assert best["step"] == 20
    for name, weight in best["model"].items():
        assert torch.equal(weight, state["average"][f"module.{name}"])
        assert weight.dtype == torch.float32
    evaluated = evaluate_alone(tmp_path, dataset)
    assert evaluated == pytest.approx(log(tmp_path, "full_val_loss")[-1], rel=1e-6)


def evaluate_alone(folder, dataset) -> float:
    """The loss of a run's best.pt on all of validation, in nats per token."""
    model, tokenizer, _ = load_model(folder)
    val = open_dataset(str(dataset), model.config.block_size).val
    batches = val.batches(val.sequential_starts(), 4)
    hardware = select_hardware("cpu", "float32")
    return estimate_loss(model, batches, tokenizer.byte_lengths(), hardware).nats


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_learns_in_half_precision_too(dataset, tmp_path, dtype, optimizer):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--max_iters=10")
    options += (f"--optimizer={optimizer}",)
    done = forked("train.py", *options, f"--dtype={dtype}")
    assert f"precision: {dtype} (as requested" in done.stdout
    losses = log(tmp_path, "loss")
    assert losses[-1] < losses[0] - 0.1


def remove_compiler() -> None:
    """As CXX=/no/compiler does, where torch has not read it yet."""
    from torch._inductor import config

    config.cpp.cxx = ("/no/compiler",)


def test_where_compiling_fails_it_says_so_in_a_line_and_goes_on(dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--max_iters=2")
    options += ("--n_layer=1", "--compile=True")
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = forked("train.py", *options, env=environment, setup=remove_compiler)
    assert done.stdout.count("compile: no (compilation failed: ") == 1
    assert load_checkpoint(tmp_path / "ckpt.pt")["progress"]["step"] == 2


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_compiled_training_gives_the_same_losses(dataset, tmp_path, arch):
    losses = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        options = (f"--dataset={dataset}", f"--out_dir={folder}", *SMALL, "--max_iters=3")
        options += (f"--arch={arch}", "--n_layer=1")
        done = forked("train.py", *options, f"--compile={compiled}", "--dropout=0")
        assert ("compile: yes" in done.stdout) == compiled
        losses.append(log(folder, "loss"))
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)


# What it never does -------------------------------------------------------------------------

PLANT = """
import sys, torch, configurator
sys.argv[0] = "train.py"
import train

def plant(network, where, step):
    calls = 0
    def forward(module, inputs, loss):
        nonlocal calls
        if not module.training:
            return loss
        calls += 1
        if (calls - 1) // 2 + 1 != step:  # two micro-batches a step
            return loss
        if where == "loss":
            return loss * float("nan")
        loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss
    network.register_forward_hook(forward)

set_up = train.set_up
def set_up_and_plant(*args):
    run = set_up(*args)
    plant(run.raw_model, sys.argv[1], 4)
    return run
train.set_up = set_up_and_plant
command_line = configurator.start(configurator.parse, train.Settings, sys.argv[2:])
configurator.start(train.main, *command_line)
"""


def test_neither_a_step_nor_a_token_makes_the_host_wait_for_the_device():
    # Fake tensors have a shape but no values: to ask for one, as a host that waits does, fails.
    with FakeTensorMode():
        model = GPT(GPTConfig(300, 16, n_layer=2, n_head=2, n_embd=32, dropout=0.2))
        x = torch.zeros(4, 16, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x, x)
        loss.backward()
        optimizer = Optimizer(model, select_hardware("cpu", "float32"), train.Settings())
        optimizer.step(1e-3, loss.detach(), step=1)
        with pytest.raises(DataDependentOutputException):
            optimizer.check()  # this one does ask; the loop calls it only where it prints
        settings = {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05}
        told = model.eval().generate(x[:, :3], 5, repetition_penalty=1.2, **settings)
        assert [new.shape for new in told] == 5 * [(4,)]


def test_a_terminal_that_is_gone_is_no_error_but_a_full_disk_is(monkeypatch):
    ours, theirs = os.openpty()
    os.close(ours)  # what is written to the other end fails with EIO from now on
    with open(os.devnull, "wb") as nowhere:
        with open(theirs, "w", buffering=1, closefd=False) as terminal:
            monkeypatch.setattr(sys, "stdout", terminal)
            print_rank0("step 1")
            os.dup2(nowhere.fileno(), theirs)
    os.close(theirs)
    with pytest.raises(OSError, match="No space"), open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        print_rank0("step 1")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_ends_the_run_with_a_message_and_is_never_saved(dataset, tmp_path, where):
    program = tmp_path / "plant.py"
    program.write_text(PLANT)
    folder = tmp_path / "run"
    done = forked(
        *(program, where, f"--dataset={dataset}", f"--out_dir={folder}"),
        *(*SMALL, "--max_iters=20", "--eval_interval=2", "--log_interval=6"),
        status=2,
    )
    assert re.fullmatch(
        r"train.py: step 4: loss or gradient is not finite \(loss \S+, gradient norm nan, "
        r"learning rate \S+\); resume from the last checkpoint, .*\n",
        done.stderr,
    )
    state = load_checkpoint(folder / "ckpt.pt")
    assert state["progress"]["step"] == 2
    assert all(weights.isfinite().all() for weights in state["model"].values())
    forked("train.py", f"--out_dir={folder}", "--init_from=resume", "--max_iters=8")


def test_the_first_bad_step_is_the_one_that_is_reported():
    model = GPT(GPTConfig(300, 16, n_layer=1, n_head=2, n_embd=32))
    optimizer = Optimizer(model, select_hardware("cpu", "float32"), train.Settings())
    for step, value in enumerate([1.0, float("inf"), float("nan"), 1.0], start=1):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimizer.step(1e45, torch.tensor(1.0), step)  # a rate beyond float32 is no obstacle
    with pytest.raises(UserError, match="step 2: loss or gradient is not finite"):
        optimizer.check()


@pytest.mark.parametrize("value", [3e37, float("inf"), float("nan")])
def test_weights_that_give_no_finite_logits_are_refused(value):
    model = GPT(GPTConfig(300, 16, n_layer=1, n_head=2, n_embd=32))
    optimizer = Optimizer(model, select_hardware("cpu", "float32"), train.Settings())
    optimizer.check_weights()
    assert model.training
    with torch.no_grad():
        model.wte.weight.fill_(value)
    with pytest.raises(UserError, match=r"logits are not finite; resume .* a lower learning_rate$"):
        optimizer.check_weights()


def test_a_rate_that_makes_the_weights_useless_leaves_a_checkpoint_that_resumes(dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--eval_interval=1")
    options += ("--learning_rate=1e37", "--save_minutes=0", "--warmup_iters=0", "--max_iters=9")
    assert "a lower learning_rate" in complaint("train.py", *options, run=forked)
    state = load_checkpoint(tmp_path / "ckpt.pt")
    assert all(weights.abs().max() < 1e6 for weights in state["model"].values())
    more = ("--init_from=resume", "--learning_rate=1e-3", "--max_iters=3")
    forked("train.py", f"--out_dir={tmp_path}", *more)


def test_float16_gradients_that_overflow_at_any_scale_end_the_run(dataset, tmp_path):
    """A skipped step counts as a step; endless skipping does not pass for training."""
    program = tmp_path / "plant.py"
    program.write_text(PLANT.replace("!= step:", "< step:"))
    done = forked(
        *(program, "gradient", f"--dataset={dataset}", f"--out_dir={tmp_path / 'run'}"),
        *(*SMALL, "--dtype=float16", "--max_iters=60"),
        status=2,
    )
    assert re.match(r"train.py: float16 gradients overflow at any loss scale; ", done.stderr)


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))


def test_out_of_memory_names_the_setting_to_lower(dataset, tmp_path):
    message = complaint(
        *("train.py", f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL),
        *("--batch_size=50000", "--block_size=256", "--gradient_accumulation_steps=1"),
        run=forked,
        setup=limit_memory,
    )
    assert "out of memory: lower batch_size (now 50000)" in message


def test_a_run_goes_on_in_another_precision(dataset, tmp_path):
    options = (f"--dataset={dataset}", f"--out_dir={tmp_path}", *SMALL, "--max_iters=2")
    forked("train.py", *options)
    more = ("--init_from=resume", "--dtype=float16", "--max_iters=4")
    done = forked("train.py", f"--out_dir={tmp_path}", *more)
    assert "continuing after step 2" in done.stdout


def test_a_run_is_not_trained_over(run, dataset):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    message = complaint("train.py", f"--dataset={dataset}", f"--out_dir={run}", run=forked)
    assert "already has a run" in message and "--init_from=resume" in message
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_ids_outside_the_vocabulary_are_named_when_they_are_met(dataset, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("meta.json", "vocabulary.json", "val.bin"):
        (folder / name).write_bytes((dataset / name).read_bytes())
    ids = np.fromfile(dataset / "train.bin", "<u2")
    ids[::40] = 300
    ids.tofile(folder / "train.bin")
    sign(folder)
    options = (f"--dataset={folder}", f"--out_dir={tmp_path / 'run'}", *SMALL, "--max_iters=5")
    message = complaint("train.py", *options, run=forked)
    assert re.search(r"train.bin holds the id 300 at position \d+", message)


def test_resumed_runs_compare_the_data_by_its_checksum(dataset):
    data = open_dataset(str(dataset), 32)
    bare = dataclasses.replace(data, meta=None)
    assert data.fingerprint == bare.fingerprint
