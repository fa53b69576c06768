"""plan.py --check: each complaint is about a run made for it, none about a shipped config."""

import math
from dataclasses import replace

import pytest

import train
from configurator import ROOT, UserError, parse
from tinystories import advice, figures
from tinystories.advice import Curve, report, run_of
from tinystories.curve import read_curve
from tinystories.law import read_law
from tinystories.planning import Stories

LAW = read_law()
TINYSTORIES = LAW.texts["tinystories"]
DENSITY = LAW.bytes_per_token


def stories(count: int = int(TINYSTORIES["stories"]), vocab_size: int = 4096) -> Stories:
    tokens = int(count * TINYSTORIES["bytes"] / TINYSTORIES["stories"] / DENSITY)
    return Stories("x", "", "tinystories", tokens, count, vocab_size, DENSITY)


def made(data: Stories | None = None, steps: int = 2000, **changes) -> advice.Run:
    """A run without a fault, but for the changes."""
    good = train.Settings(
        arch="qwen3",
        optimizer="muon",
        batch_size=16,
        gradient_accumulation_steps=1,
        block_size=128,
        n_layer=3,
        n_head=2,
        n_embd=128,
        learning_rate=LAW.best_rates(128)[1],
        muon_learning_rate=LAW.best_rates(128)[0],
        min_lr=0.0,
        warmup_iters=20,
        max_iters=steps,
    )
    return run_of(replace(good, **changes), data or stories(), steps)


def names(run: advice.Run, curve: Curve | None = None) -> list[str]:
    """The complaints about a run, by the names of their functions."""
    found = [f.__name__ for f in advice.COMPLAINTS if f(run, LAW)]
    return found + [f.__name__ for f in advice.FINISHED if curve and f(run, LAW, curve)]


def curve(*val: float, train_loss: tuple[float, ...] | None = None, every: int = 500) -> Curve:
    """A curve of validation losses in nats."""
    steps = range(0, every * len(val), every)
    bits = [x / DENSITY / math.log(2) for x in val]
    return Curve(list(steps), list(train_loss or val), list(val), bits)


@pytest.mark.parametrize(
    ("complaint", "run"),
    [
        ("too_few_stories", made(stories(300))),
        ("memorizes", made(stories(1000), n_layer=8, n_embd=512, n_head=8, steps=1000)),
        ("wrong_size", made(n_layer=12, n_embd=768, n_head=12, steps=400)),
        ("wrong_size", made(n_layer=1, n_embd=32, n_head=1, steps=2_000_000)),
        ("large_vocabulary", made(stories(vocab_size=50_257), steps=500)),
        ("large_step", made(batch_size=512, gradient_accumulation_steps=8, steps=40)),
        ("few_steps", made(n_layer=8, n_embd=512, n_head=8, steps=300)),
        ("wrong_rate", made(muon_learning_rate=0.5)),
        ("wrong_rate", made(learning_rate=1e-4)),
        ("wrong_rate", made(optimizer="adamw", learning_rate=0.1)),
        ("wrong_schedule", made(warmup_iters=1500)),
        ("wrong_schedule", made(decay_lr=False)),
        ("wrong_schedule", made(lr_decay_iters=500)),
        ("wrong_window", made(block_size=2048, batch_size=1)),
        ("wrong_window", made(block_size=16, batch_size=128, steps=20_000)),
        ("wrong_dropout", made(dropout=0.2)),
        ("wrong_dropout", made(stories(500), steps=2000)),
    ],
)
def test_a_fault_is_found(complaint, run):
    assert complaint not in names(made())
    assert complaint in names(run)


def test_a_run_without_a_fault_gives_no_complaint():
    assert not names(made())
    assert report("mine", made(), LAW)[-1] == "nothing is wrong with it"


EXPECTED = made().loss(LAW) * math.log(2) * DENSITY  # nats
FALLING = [8.3, *(EXPECTED * x for x in (1.5, 1.2, 1.05, 1.0))]


@pytest.mark.parametrize(
    ("complaint", "run", "losses"),
    [
        ("diverged", made(), curve(8.3, 4.0, 3.5, 9.0)),
        ("diverged", made(), curve(8.3, 4.0, math.nan)),
        ("leak_suspected", made(), curve(8.3, 2.0, 0.2)),
        ("overfitted", made(), curve(8.3, 2.5, 2.6, 2.9, train_loss=(8.3, 2.0, 1.5, 1.0))),
        ("wide_gap", made(), curve(*FALLING, train_loss=(*FALLING[:-1], EXPECTED / 2))),
        ("still_falling", made(decay_lr=False), curve(*FALLING)),
        ("behind_the_law", made(), curve(*(1.5 * x for x in FALLING))),
    ],
)
def test_a_fault_of_a_finished_run_is_found(complaint, run, losses):
    assert complaint not in names(made(), curve(*FALLING))
    assert complaint in names(run, losses)


def test_a_train_loss_that_is_no_number_is_no_gap():
    assert "wide_gap" not in names(made(), curve(*FALLING, train_loss=(*FALLING[:-1], math.nan)))


@pytest.mark.parametrize("text", ["", "storybook"])
def test_texts_whose_level_is_not_measured_are_not_behind(text):
    other = made(replace(stories(), text=text))
    assert "behind_the_law" not in names(other, curve(*(1.5 * x for x in FALLING)))


@pytest.mark.parametrize(("text", "simpler"), [("tinystories", False), ("mine", True)])
def test_a_text_whose_level_is_not_known_may_be_simpler(text, simpler):
    other = made(replace(stories(), text=text))
    [leak] = [c for c in advice.complaints(other, LAW, curve(8.3, 2.0, 0.2)) if "a leak?" in c.text]
    assert ("a simpler text" in leak.text) == simpler


def test_a_run_that_is_not_at_its_end_is_not_measured_by_it():
    run, losses = made(steps=5000), curve(*(1.5 * x for x in FALLING))
    lines = report("mine", run, LAW, losses)
    assert "at step 2,000" in lines[3] or "at step 2,000" in lines[4]
    assert not any("above the law" in line or "decays until" in line for line in lines)
    for begun in (curve(8.3), curve()):  # evaluated before the first step only, or never
        assert report("mine", run, LAW, begun)[-1] == "nothing is wrong with it"


def test_a_run_of_trained_weights_is_not_held_against_the_law():
    lines = report("mine", made(), LAW, curve(2.0, 1.5, 1.4))
    assert "trained weights" in lines[-1] and len(lines) == 3
    assert lines == report("mine", made(init_from="out/a"), LAW)


@pytest.mark.parametrize("window", [128, 256])
def test_one_long_text_needs_no_long_window(window):
    book = replace(stories(), tokens=300_000, stories=1, text="")
    assert "wrong_window" not in names(made(book, block_size=window, batch_size=2048 // window))


def test_the_level_of_another_text_is_not_known():
    other = replace(stories(), text="")
    assert "if it were TinyStories" in " ".join(report("mine", made(other), LAW))
    assert "if it were TinyStories" not in " ".join(report("mine", made(), LAW))


def test_a_curve_has_the_better_of_the_trained_and_the_averaged_weights(tmp_path):
    (tmp_path / "log.csv").write_text(
        "step,loss,train_loss,val_loss,val_bits_per_byte,ema_val_loss,ema_val_bits_per_byte\n"
        "0,,8.3,8.3,3.0,,\n5,3.1,,,,,\n10,,3.0,3.2,1.1,3.1,1.0\n20,,2.0,2.2,0.8,2.4,0.9\n"
    )
    curve = read_curve(tmp_path / "log.csv")
    assert (curve.val, curve.bits) == ([8.3, 3.1, 2.2], [3.0, 1.0, 0.8])
    with open(tmp_path / "log.csv", "a") as file:
        file.write("30,,1.9,2.1,0.7")  # of 0.79: the disk was full
    assert read_curve(tmp_path / "log.csv") == curve
    with open(tmp_path / "log.csv", "a") as file:
        file.write(f",{'x' * 200_000}\n")
    with pytest.raises(UserError, match=r"log\.csv is damaged"):
        read_curve(tmp_path / "log.csv")
    with pytest.raises(UserError, match=r"log\.csv is damaged"):
        figures.read_log(tmp_path / "log.csv")


STEPS = {  # of configs that max_minutes ends: docs/findings.md; of the GPU's, a guess
    "storybook_1m": 1606,
    "storybook_instruct_1m": 1500,
    "tinystories_cpu": 1741,
    "tinystories_cpu_hour": 3821,
    "tinystories_speedrun": 8000,
}
SHIPPED = sorted(path.stem for path in ROOT.glob("config/[!p]*.py"))  # not planned ones
SECOND_USER = "tinystories_30m"  # his run to the letter: his complaints are in another test


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != SECOND_USER])
def test_the_shipped_configs_have_no_fault(name):
    s = parse(train.Settings, [f"config/{name}.py"]).settings
    sizes = {"storybook_1m": 1024, "storybook_instruct_1m": 1024}
    default = 4096 if "bpe" in s.dataset else 50_257
    data = stories(vocab_size=sizes.get(name, default))
    if "hour" in name or name.endswith("cpu"):
        data = stories(14_821)  # those that docs/findings.md trains on
    if "instruct" in name:
        data = replace(data, tokens=0, stories=0)
    assert names(run_of(s, data, STEPS.get(name, s.max_iters))) == []
