"""plan.py: a plan follows from a probe, its config trains, and mistakes are answered in a line."""

import math
from dataclasses import replace

import pytest
from conftest import complaint, forked

import plan
import train
from configurator import UserError, parse
from model import GPT, GPTConfig
from tinystories import planning, plantext
from tinystories.law import read_law
from tinystories.planning import Probe, Stories, choose, size_of

LAW = read_law()
STORIES = Stories("x_bpe4096", "python prepare.py", "tinystories", 3_000_000, 15_000, 4096, 4.03)
PLENTY = 64e9  # bytes of memory


def probes(speed: float = 1e11, fixed: float = 0.005) -> list[Probe]:
    """A machine of so many FLOP/s, and so many seconds per layer and step besides."""
    found = []
    for n_layer, n_embd, tokens in ((2, 64, 1024), (2, 64, 4096), (4, 256, 1024)):
        flops = tokens * size_of(n_layer, n_embd, 4096, 128)["flops_per_token"]
        seconds = fixed * (n_layer + 1) + flops / speed
        memory = 2e8 + 16e6 + 100 * n_layer * n_embd * tokens
        size = size_of(n_layer, n_embd, 4096, 128)["parameters"]
        found.append(Probe(n_layer, n_embd, 128, tokens, flops, seconds, size, memory, 2e8))
    return found


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
@pytest.mark.parametrize("shape", [(2, 64, 1, 4096), (6, 384, 6, 50_257)])
def test_sizes_are_those_of_the_model(arch, shape):
    n_layer, n_embd, n_head, vocab_size = shape
    model = GPT(GPTConfig(vocab_size, 128, n_layer, n_head, n_embd, arch=arch))
    size = size_of(n_layer, n_embd, vocab_size, 128, n_head, arch)
    assert size["parameters"] == model.count_parameters()
    assert size["block_parameters"] == sum(p.numel() for p in model.h.parameters())
    assert size["flops_per_token"] == model.flops_per_token()


def test_a_probe_gives_one_plan():
    first = choose(LAW, STORIES, probes(), 10, PLENTY)
    assert first == choose(LAW, STORIES, probes(), 10, PLENTY)
    assert first.low < first.loss < first.high
    assert first.steps * first.seconds_per_step <= 600
    assert first.tokens == first.steps * first.tokens_per_step


def test_more_time_gives_a_better_model():
    plans = [choose(LAW, STORIES, probes(), minutes, PLENTY) for minutes in (2, 10, 60, 600)]
    losses = [p.loss for p in plans]
    assert losses == sorted(losses, reverse=True)
    assert plans[0].tokens < plans[-1].tokens
    assert plans[0].block_size <= plans[-1].block_size


def test_the_time_of_a_step_is_found_from_the_probes():
    flops = size_of(4, 256, 4096, 128)["flops_per_token"]
    seconds = planning.seconds_of(probes(), 4, flops, 2048)
    assert seconds == pytest.approx(5 * 0.005 + 2048 * flops / 1e11, rel=0.02)


def test_a_machine_where_small_steps_are_slow_gets_large_ones():
    quick = choose(LAW, STORIES, probes(fixed=0.0), 10, PLENTY)
    launching = choose(LAW, STORIES, probes(speed=1e14, fixed=0.01), 10, PLENTY)
    assert launching.tokens_per_step > quick.tokens_per_step


def test_little_memory_makes_small_micro_batches():
    many = replace(STORIES, tokens=500_000_000, stories=2_000_000)
    fast = probes(speed=1e13)
    small = choose(LAW, many, fast, 600, 1.2e9)
    assert small.memory <= 1.2e9
    assert small.accumulation > 1
    assert choose(LAW, many, fast, 600, PLENTY).accumulation == 1


def test_memory_that_is_not_measured_is_estimated():
    many = replace(STORIES, tokens=500_000_000, stories=2_000_000)
    blind = [replace(p, memory=math.nan, idle_memory=math.nan) for p in probes(speed=1e13)]
    found = choose(LAW, many, blind, 600, 4e9)
    assert 0 < found.memory <= 4e9
    assert found.accumulation > 1


def test_the_vocabulary_of_stories_that_are_not_prepared_is_the_sources_own():
    stories = plan.find_stories(plan.Settings(source="storybook"), LAW)
    assert stories.vocab_size == LAW.texts["storybook"]["vocab_size"]
    known = LAW.texts["storybook"]["bytes_per_token"]
    assert stories.bytes_per_token == pytest.approx(known, rel=0.01)  # it may be prepared here
    assert LAW.density(257, "") == pytest.approx(1, abs=0.02)
    assert LAW.density(50_257, "", "gpt2") == pytest.approx(4.05, abs=0.05)
    assert LAW.density(4096, "tinystories") == pytest.approx(LAW.bytes_per_token)


@pytest.mark.parametrize(("minutes", "memory"), [(1e-4, PLENTY), (10, 1e8)])
def test_a_machine_too_small_for_any_model_is_said(minutes, memory):
    with pytest.raises(UserError, match="too few here"):
        choose(LAW, STORIES, probes(), minutes, memory)


def test_the_screen_and_the_config_say_the_same(tmp_path):
    chosen = choose(LAW, STORIES, probes(), 10, PLENTY)
    path = tmp_path / "p.py"
    path.write_text(plantext.config_text(chosen, STORIES, path))
    s, _, docs = parse(train.Settings, [str(path)])
    assert (s.n_layer, s.n_embd, s.batch_size) == (chosen.n_layer, chosen.n_embd, chosen.batch_size)
    assert s.max_minutes == 10
    assert "Training:  python train.py" in docs[0]
    windows = replace(STORIES, prepare=r"python prepare.py '--source=C:\Users\new\x.txt'")
    compile(plantext.config_text(chosen, windows, path), "p.py", "exec")
    machine = {"processor": "a CPU", "precision": "float32"}
    screen = plantext.screen(chosen, [chosen], STORIES, LAW, machine)
    assert max(map(len, screen.splitlines())) <= 80
    assert len(screen.splitlines()) <= 24
    assert f"{chosen.loss:.3f} bits per byte" in screen and f"{chosen.loss:.3f}" in docs[0]


def test_stories_of_unknown_number_are_taken_for_endless():
    endless = choose(LAW, replace(STORIES, tokens=0, stories=0), probes(), 60, PLENTY)
    assert endless.passes == 0 and math.isfinite(endless.loss)
    assert endless.loss < choose(LAW, STORIES, probes(), 60, PLENTY).loss


# The command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_planned_config_trains(dataset, tmp_path):
    config = tmp_path / "planned.py"
    options = [f"--dataset={dataset}", "--minutes=0.5", f"--output={config}", "--device=cpu"]
    done = forked("plan.py", *options, "--seconds=0.01", "--dtype=float32")
    assert str(config) in done.stdout.splitlines()[-1]
    assert "bits per byte" in done.stdout
    run = tmp_path / "run"
    options = [config, f"--out_dir={run}", "--max_iters=2", "--eval_tokens=500", "--batch_size=2"]
    forked("train.py", *options, "--full_eval=False")
    checked = forked("plan.py", f"--check={run}").stdout
    assert 4 <= checked.count("\n") <= 10
    assert "\n2 steps of " in checked


@pytest.mark.slow
def test_training_says_what_to_expect_and_what_is_wrong(printed_run):
    folder, printed = printed_run
    assert f"expected before training: ln 300 = {math.log(300):.4f}" in printed
    advice = printed.partition("advice: ")[2]
    assert f"--check={folder}" in advice.replace("\n  ", " ")


@pytest.mark.slow
def test_the_runs_of_the_first_users_are_explained():
    options = ["--stories=4000", "--max_iters=2500", "--gradient_accumulation_steps=1"]
    first = forked("plan.py", "--check=config/tinystories_43m.py", *options).stdout
    assert "42.9M parameters" in first
    assert "1. 94 passes over 4,000 stories" in first
    second = forked("plan.py", "--check=config/tinystories_30m.py").stdout
    assert "29.9M parameters, 65 % for 50,257 ids" in second
    assert "planned, this compute gives" in second


# Mistakes -----------------------------------------------------------------------------------


def refusal(*argv) -> str:
    with pytest.raises(UserError) as refused:
        plan.command([str(word) for word in argv])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_mistakes_are_named(tmp_path, dataset):
    assert "minutes is 0.0" in refusal("--minutes=0")
    assert "is missing" in refusal(f"--dataset={tmp_path}/none")
    assert "give a dataset or a source" in refusal("--dataset=a", "--source=b")
    assert "ends in .py" in refusal("--output=plan.txt")
    assert "is not a setting" in refusal("--hours=1")
    assert "--check=config/mine.py" in refusal("config/mine.py")
    mine = tmp_path / "mine.py"
    mine.write_text("n_layer = 2\n")
    assert "is no plan" in refusal(f"--dataset={dataset}", f"--output={mine}")
    assert mine.read_text() == "n_layer = 2\n"


def test_mistakes_about_checks_are_named(tmp_path):
    assert "no config file (.py) and no run folder" in refusal(f"--check={tmp_path}/none")
    assert "there is no config file" in refusal("--check=none.py")
    assert "n_layers" in refusal("--check=config/tinystories_30m.py", "--n_layers=2")
    assert "for a plan" in refusal("--check=config/tinystories_30m.py", "--source=storybook")
    assert "minutes is for a plan" in refusal("--check=config/storybook_1m.py", "--minutes=5")
    config = "--check=config/tinystories_30m.py"
    assert "is not divisible" in refusal(config, "--n_embd=100")
    mine = tmp_path / "mine.py"
    mine.write_text(f'dataset = "{tmp_path}/none"')
    assert "is missing" in refusal(f"--check={mine}")


@pytest.mark.slow
def test_a_mistake_ends_with_status_2():
    assert complaint("plan.py", "--minutes=0", run=forked).startswith("plan.py: minutes is 0")
