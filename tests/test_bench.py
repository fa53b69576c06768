"""bench.py measures the real commands, at a size of seconds."""

import json
import os

import pytest
from conftest import ROOT, command, complaint

import bench
import train

TINY = (
    "--vocab_size=300 --n_layer=1 --n_head=2 --n_embd=32 --block_size=16 --batch_size=2 "
    "--new_tokens=4 --repeats=2 --device=cpu --dtype=float32"
).split()

# The least that has nanoGPT's interface: a table of logits by token.
PEER = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas)

    def forward(self, idx, targets):
        logits = self.table(idx)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            idx = torch.cat([idx, self.table(idx)[:, -1:].argmax(2)], dim=1)
        return idx
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What bench.py printed beside a peer, and the file it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "model.py").write_text(PEER)
    output = folder / "bench.json"
    options = (*TINY, "--what=train,sample,startup", f"--output={output}", f"--peer={folder}")
    return command("bench.py", *options).stdout, output


def test_every_row_of_the_table_stands_in_the_file(measured):
    printed, output = measured
    results = json.loads(output.read_text())["results"]
    for name in ("training, tokens/s", "training, peak memory, GB", "train.py --help, s"):
        assert results[name]["min"] <= results[name]["median"] <= results[name]["max"]
    assert 0 < results["evaluation and story, % of the time"]["median"] < 100
    for name in results:
        assert f"\n{name} " in printed
    for count in (1, 8, 64):
        assert results[f"telling {count} at once, tokens/s"]["runs"] == 2


def test_evaluations_are_weighed_at_the_default_settings():
    default = train.Settings()
    interval = default.batch_size * default.gradient_accumulation_steps * default.block_size * 250
    turns = {"losses": [2.0, 2.0], "evaluation": [2.5, 3.0]}
    share = bench.evaluation_share(turns, default.eval_tokens // 2, speed=interval / 95.0)
    assert share == pytest.approx([100 * 4.5 / 99.5, 5.0])


def test_a_peer_is_measured_in_turns_and_each_turn_gives_a_ratio(measured):
    results = json.loads(measured[1].read_text())["results"]
    ours, peer = results["training, tokens/s"], results["nanoGPT training, tokens/s"]
    ratio = results["training, ours/nanoGPT"]
    assert ratio["runs"] == ours["runs"] == peer["runs"]
    assert ours["min"] / peer["max"] <= ratio["median"] <= ours["max"] / peer["min"]
    assert results["training memory, ours/nanoGPT"]["median"] > 0


def test_the_file_says_on_what_machine_and_with_which_settings(measured):
    numbers = json.loads(measured[1].read_text())
    assert "torch" in numbers["machine"]["versions"]
    assert numbers["settings"]["n_embd"] == 32


def test_compare_prints_the_ratio_to_an_earlier_measurement(measured, tmp_path):
    earlier = json.loads(measured[1].read_text())
    for row in earlier["results"].values():
        row["median"] = 1e-9  # so the ratio cannot be mistaken for another column
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    options = (*TINY, "--what=sample", f"--output={tmp_path / 'now.json'}")
    done = command("bench.py", *options, f"--compare={tmp_path / 'earlier.json'}")
    row = next(line for line in done.stdout.splitlines() if line.startswith("telling 8 "))
    assert float(row.split()[-1].replace(",", "")) > 1e9


@pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)
def test_preparing_is_measured_beside_bare_tiktoken(tmp_path):
    stories = [f"One day {i} cats met. " * 20 for i in range(1000)]
    (tmp_path / "mine.txt").write_text("\n<|endoftext|>\n".join(stories))
    output = tmp_path / "bench.json"
    options = (*TINY, "--what=prepare", f"--text={tmp_path / 'mine.txt'}", f"--output={output}")
    command("bench.py", *options)
    assert json.loads(output.read_text())["results"]["preparing, ours/bare tiktoken"]["runs"] == 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--what=training", "none of train, sample, prepare, startup"),
        ("--peer=/nowhere", "no checkout of nanoGPT"),
        ("--compare=/nowhere.json", "python bench.py writes one"),
        ("--repeats=0", "at least 1"),
        ("--vocab_size=70000", "257 to 65536"),
        ("--text=/nowhere.txt", "there is no text"),
    ],
)
def test_mistakes_are_one_line(option, words):
    assert words in complaint("bench.py", option, cwd=ROOT)


def test_a_peer_that_is_something_else_is_one_line(tmp_path):
    (tmp_path / "model.py").write_text("answer = 42\n")
    options = (*TINY, "--what=sample", f"--output={tmp_path / 'b.json'}", f"--peer={tmp_path}")
    assert "no checkout of nanoGPT" in complaint("bench.py", *options)
