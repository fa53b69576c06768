"""bench.py measures the real commands, at a size of seconds."""

import json
import os

import pytest
from conftest import complaint, forked

import bench
from configurator import UserError, parse

TINY = (
    "--vocab_size=300 --n_layer=1 --n_head=2 --n_embd=32 --block_size=16 --batch_size=2 "
    "--max_new_tokens=4 --repeats=2 --device=cpu --dtype=float32"
).split()

# A minimal nanoGPT: its interface with a table of logits by token.
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


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What bench.py printed with a nanoGPT and a file to compare with, and the file it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "model.py").write_text(PEER)
    # Medians so small that the ratio cannot be mistaken for another column.
    earlier = {"results": {"generation of 1, tokens/s": {"median": 1e-9}}}
    (folder / "earlier.json").write_text(json.dumps(earlier))
    output = folder / "bench.json"
    options = (*TINY, "--what=train,sample", f"--output={output}", f"--peer={folder}")
    return forked("bench.py", *options, f"--compare={folder / 'earlier.json'}").stdout, output


def test_every_printed_row_is_in_the_file(measured):
    printed, output = measured
    results = json.loads(output.read_text())["results"]
    names = ["training, tokens/s", "training, peak memory, GB"]
    names += ["matrix multiplication, TFLOP/s", "training, % of matmul speed", "first token, ms"]
    for name in names + [f"generation of {count}, tokens/s" for count in (1, 8, 64)]:
        row = results[name]
        assert 0 < row["min"] <= row["median"] <= row["max"]
        assert row["runs"] == (1 if "memory" in name else 2)
    for name in results:
        assert f"\n{name} " in printed


@pytest.mark.parametrize("what", ["training", "generation of 8"])
def test_nanogpt_is_measured_interleaved_and_each_round_gives_a_ratio(measured, what):
    results = json.loads(measured[1].read_text())["results"]
    ours, peer = results[f"{what}, tokens/s"], results[f"nanoGPT {what}, tokens/s"]
    ratio = results[f"{what}, ours/nanoGPT"]
    assert ratio["runs"] == ours["runs"] == peer["runs"] == 2
    assert ours["min"] / peer["max"] <= ratio["median"] <= ours["max"] / peer["min"]
    assert results["training, peak memory, ours/nanoGPT"]["median"] > 0


def test_the_file_says_on_what_machine_and_with_which_settings(measured):
    numbers = json.loads(measured[1].read_text())
    assert "torch" in numbers["machine"]["versions"]
    assert numbers["machine"]["precision"] == "float32 (as requested)"
    assert numbers["settings"]["n_embd"] == 32


def test_compare_prints_the_ratio_to_an_earlier_measurement(measured):
    rows = {line[:36].strip(): line[66:].strip() for line in measured[0].splitlines()}
    assert float(rows["generation of 1, tokens/s"]) > 1e9
    assert rows["generation of 8, tokens/s"] == "-"


def test_preparing_is_compared_with_tiktoken_alone(tmp_path):
    if "TIKTOKEN_CACHE_DIR" not in os.environ:
        pytest.skip("TIKTOKEN_CACHE_DIR names no GPT-2 encoding")
    stories = [f"One day {i} cats met. " * 20 for i in range(1000)]
    (tmp_path / "mine.txt").write_text("\n<|endoftext|>\n".join(stories))
    output = tmp_path / "bench.json"
    options = (*TINY, "--what=prepare", f"--text={tmp_path / 'mine.txt'}", f"--output={output}")
    forked("bench.py", *options)
    results = json.loads(output.read_text())["results"]
    assert results["preparing, ours/tiktoken"]["runs"] == 2


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--what=training", "may name train, sample and prepare only"),
        ("--repeats=0", "it must be >= 1"),
        ("--vocab_size=70000", "it must be >= 257 and <= 65536"),
        ("--text=/nowhere.txt", "there is no /nowhere.txt"),
        ("--compare=/nowhere.json", "there is no /nowhere.json"),
    ],
)
def test_wrong_settings_are_refused(option, words):
    with pytest.raises(UserError, match=words):
        parse(bench.Settings, [option])


@pytest.mark.parametrize("text", ["[]", '{"results": {"training, tokens/s": 3}}'])
def test_a_file_to_compare_with_must_be_an_earlier_measurement(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    settings = parse(bench.Settings, [f"--compare={path}"]).settings
    with pytest.raises(UserError, match="writes one"):
        bench.main(settings)


def test_a_peer_that_is_not_nanogpt_is_one_line(tmp_path):
    (tmp_path / "model.py").write_text("answer = 42\n")
    options = (*TINY, "--what=sample", f"--output={tmp_path / 'b.json'}", f"--peer={tmp_path}")
    assert "not a nanoGPT checkout" in complaint("bench.py", *options, run=forked)
