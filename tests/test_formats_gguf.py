"""Exports to GGUF, as llama.cpp itself reads them: the same tokens, and the same text."""

import contextlib
import functools
import json
import shutil
import urllib.request
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import contents, forked
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.formats import gguf
from tinystories.formats.byte_level import merges, spell
from tinystories.formats.trained import NotExportable, TrainedModel
from tinystories.tokenizer import (
    END_OF_TEXT,
    STORY_PATTERN,
    CharTokenizer,
    Tokenizer,
    gpt2,
    gpt2_top,
    train_bpe,
)

pytestmark = pytest.mark.slow
# Of vocabularies that were trained before STORY_PATTERN: digits in a row are one word.
OLDER_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
SHAPES = {
    "gpt2": {"arch": "gpt2"},
    "gpt2, biases": {"arch": "gpt2", "bias": True},
    "qwen3": {"arch": "qwen3"},
    "qwen3, wide heads": {"arch": "qwen3", "head_dim": 48, "rope_theta": 5000.0},
}


@pytest.fixture(scope="module")
def stories(tinystories) -> list[str]:
    text = (tinystories / "train.txt").read_text(encoding="utf-8")
    return [story.strip("\n") for story in text.split(END_OF_TEXT)[:500]]


@pytest.fixture(scope="module")
def tokenizer(dataset) -> Tokenizer:
    return Tokenizer.load(dataset / "vocabulary.json")


def random_model(tokenizer, folder, **shape) -> TrainedModel:
    """A model with weights so large that its greedy text does not repeat itself."""
    torch.manual_seed(1)
    sizes = {"block_size": 64, "n_layer": 2, "n_head": 2, "n_embd": 64}
    model = GPT(GPTConfig(tokenizer.vocab_size, **sizes | shape)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=1.0 if name.startswith("wpe") else 0.3)
            else:
                weight.normal_(0.0 if name.endswith("bias") else 1.0, std=0.2)
    return TrainedModel(folder / "random", model, tokenizer, {}, {})


def export(trained, path, dtype: str = "f32"):
    """Write a model; returns the path and what is said about it."""
    trained.gguf_dtype = dtype
    return path, gguf.write(path, path, trained)


@contextlib.contextmanager
def llama_cpp(path):
    """Run llama.cpp's server on a file; gives a function that asks it: ask("/tokenize", ...)."""
    xllamacpp = pytest.importorskip("xllamacpp")  # not every platform has a wheel
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.verbosity = 0
    params.warmup = params.fit_params = False
    params.cache_ram_mib = params.n_gpu_layers = 0
    params.n_threads_http = params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    flash = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def ask(what: str, **question) -> dict:
        request = urllib.request.Request(server.listening_address + what)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, json.dumps(question).encode(), timeout=60) as answer:
            return json.load(answer)

    yield ask


# Tokens -------------------------------------------------------------------------------------


def vocabulary(kind: str, stories: list[str]) -> Tokenizer:
    return {
        "trained": lambda: train_bpe(stories, 1024),
        "bytes": lambda: train_bpe([], 257),
        "of GPT-2": lambda: gpt2_top(stories, 2000),
    }[kind]()


@pytest.mark.parametrize("kind", ["trained", "bytes", "of GPT-2"])
def test_llama_cpp_reads_real_stories_in_the_same_tokens(stories, tmp_path, kind):
    tokenizer = vocabulary(kind, stories)
    trained = random_model(tokenizer, tmp_path, arch="qwen3", n_layer=1, n_embd=32)
    path, _ = export(trained, tmp_path / "x.gguf")
    odd = ["1234 ½ × 5", "\r\n\r\n\n  x \t\n", "don't DON'T 'tis — naïve 童話 🐌‍🪿", "a" * 300, ""]
    texts = [*(stories[:50] if kind == "bytes" else stories), *odd]
    with llama_cpp(path) as ask:
        theirs = ask("/tokenize", content=END_OF_TEXT.join(texts), parse_special=True)["tokens"]
        assert [*theirs, tokenizer.end_of_text] == tokenizer.encode_stories(texts).tolist()
        first = ask("/tokenize", content="Once", add_special=True)["tokens"]
        assert first == [tokenizer.end_of_text, *tokenizer.encode("Once")]
        assert ask("/detokenize", tokens=theirs)["content"] == END_OF_TEXT.join(texts)


def test_an_older_vocabulary_keeps_its_pattern_and_what_differs_is_said(tmp_path):
    tokens = [*train_bpe([], 257).tokens, b"20", b"24", b"2024"]
    Tokenizer("bpe", OLDER_PATTERN, tokens).save(tmp_path / "old.json")
    older = Tokenizer.load(tmp_path / "old.json")
    assert older.pattern == OLDER_PATTERN
    assert older.encode("2024") == [older.tokens.index(b"2024")]
    _, said = export(random_model(older, tmp_path, n_layer=1), tmp_path / "x.gguf")
    assert "one story of a hundred" in said
    assert all(len(line) <= 80 for line in said.splitlines()[1:])
    newer = Tokenizer("bpe", train_bpe([], 257).pattern, older.tokens)
    _, said = export(random_model(newer, tmp_path, n_layer=1), tmp_path / "x.gguf")
    assert "earlier version" not in said


def test_the_pattern_decides_how_llama_cpp_cuts_text(tmp_path):
    assert gguf.PATTERNS[gpt2().pattern] == "gpt-2"
    assert gguf.PATTERNS[STORY_PATTERN] == gguf.PATTERNS[OLDER_PATTERN] == "gpt-4o"
    other = Tokenizer("gpt2", r"\s+|\S+", gpt2_top([], 257).tokens)
    with pytest.raises(NotExportable, match=r"by a pattern that llama\.cpp may not have"):
        export(random_model(other, tmp_path, n_layer=1), tmp_path / "x.gguf")


def test_a_file_that_cannot_be_written_is_named(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*full: No space left on device"):
        export(random_model(tokenizer, tmp_path, n_layer=1), Path("/dev/full"))


def test_a_vocabulary_of_characters_is_refused(tmp_path):
    trained = random_model(CharTokenizer("ab\n"), tmp_path, n_layer=1)
    with pytest.raises(UserError, match="a vocabulary of characters has no end of text"):
        export(trained, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def merge_pairs(text: bytes, ranks: dict[tuple[bytes, bytes], int]) -> list[bytes]:
    """What other programs do with a word: merge the listed pair that comes first in the list."""
    parts = [text[i : i + 1] for i in range(len(text))]
    while found := [ranks[pair] for pair in pairwise(parts) if pair in ranks]:
        first = min(found)
        i = [ranks.get(pair) for pair in pairwise(parts)].index(first)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@settings(max_examples=200, deadline=None)
@given(word=st.text(alphabet="abcdefghilmnorstuwy", min_size=1, max_size=40))
def test_one_pair_for_each_token_merges_as_its_rank_does(word):
    tokenizer = _trained_on_words()
    ranks = {pair: rank for rank, pair in enumerate(merges(tokenizer.tokens))}
    parts = merge_pairs(word.encode(), ranks)
    assert parts == [tokenizer.tokens[id] for id in tokenizer.encode(word)]


@functools.cache
def _trained_on_words() -> Tokenizer:
    return train_bpe(["then the other mother bothered him; the weather there was her rather"], 320)


def test_a_token_that_nothing_merges_into_has_no_pair():
    single = [bytes([byte]) for byte in range(256)]
    assert merges([*single, b"abc", b"bc", b"xyz"]) == [(b"a", b"bc"), (b"b", b"c")]


def test_every_byte_is_spelled_as_in_the_files_of_gpt2():
    assert spell(b" the\n") == "ĠtheĊ"
    spelled = [spell(bytes([byte])) for byte in range(256)]
    assert len({*spelled}) == 256
    assert all(character.isprintable() for character in spelled)


# Text ---------------------------------------------------------------------------------------


def greedy(ask, prompt: list[int], count: int) -> list[int]:
    answer = ask(
        "/completion",
        **{"prompt": prompt, "n_predict": count, "temperature": 0, "return_tokens": True},
        **{"ignore_eos": True, "cache_prompt": False},
    )
    return answer["tokens"]


def worst_choice(model, prompt: list[int], new: list[int]) -> float:
    """How much less than the largest logit but the end's the chosen ids have, at most."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + new]))[0, len(prompt) - 1 : -1]
        logits[:, -1] = -torch.inf  # llama.cpp was told to ignore the end
    chosen = logits.gather(1, torch.tensor(new)[:, None])[:, 0]
    return (logits.amax(1) - chosen).max().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_generates_the_same_text(tokenizer, tmp_path, monkeypatch, shape):
    trained = random_model(tokenizer, tmp_path, **SHAPES[shape])
    path, _ = export(trained, tmp_path / "x.gguf")
    prompt = [tokenizer.end_of_text, *tokenizer.encode("Once upon a time")]
    with llama_cpp(path) as ask:
        new = greedy(ask, prompt, 40)
    assert len(new) == 40 and len(set(new)) > 10
    if SHAPES[shape]["arch"] == "gpt2":  # ggml has the GELU by tanh only
        assert worst_choice(trained.model, prompt, new) < 0.1
        monkeypatch.setattr(F, "gelu", functools.partial(F.gelu, approximate="tanh"))
    assert worst_choice(trained.model, prompt, new) < 0.02


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_rounded_weights_are_run_too(tokenizer, tmp_path, arch, dtype):
    trained = random_model(tokenizer, tmp_path, arch=arch)
    path, _ = export(trained, tmp_path / "x.gguf", dtype)
    difference, allowed = gguf.verify(path, trained)
    assert 0 < difference < allowed == gguf.TOLERANCE[dtype]
    with llama_cpp(path) as ask:
        new = greedy(ask, [tokenizer.end_of_text], 20)
    # llama.cpp rounds what it multiplies with such weights, too.
    assert worst_choice(trained.model, [tokenizer.end_of_text], new) < 2 * gguf.TOLERANCE[dtype]


# Files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_the_same_model(tokenizer, tmp_path, shape):
    trained = random_model(tokenizer, tmp_path, **SHAPES[shape])
    path, _ = export(trained, tmp_path / "x.gguf")
    assert gguf.verify(path, trained)[0] == 0.0


def test_rows_that_are_no_whole_blocks_stay_in_16_bits(tokenizer, tmp_path):
    trained = random_model(tokenizer, tmp_path, n_embd=40)
    path, _ = export(trained, tmp_path / "x.gguf", "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types["blk.0.ffn_up.weight"] == types["token_embd.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert gguf.verify(path, trained)[0] < 4


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
def test_weights_in_the_wrong_place_are_found(tokenizer, tmp_path, dtype):
    trained = random_model(tokenizer, tmp_path, arch="qwen3")
    other = random_model(tokenizer, tmp_path, arch="qwen3")
    with torch.no_grad():
        other.model.h[0].mlp.c_fc.weight.copy_(trained.model.h[1].mlp.c_fc.weight)
    path, _ = export(other, tmp_path / "x.gguf", dtype)
    difference, allowed = gguf.verify(path, trained)
    assert difference > allowed


def test_an_exported_run_has_its_name(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    done = forked("export.py", "--to=gguf", "--gguf_dtype=f32", f"--out_dir={folder}")
    assert f'llama-completion -m {folder}/export/run.gguf -p "Once upon a time"' in done.stdout
    assert set(contents(folder / "export")) == {"run.gguf"}
    fields = GGUFReader(folder / "export" / "run.gguf").fields
    assert fields["general.name"].contents() == "run"
    assert fields["gpt2.context_length"].contents() == 32


def test_the_same_model_is_the_same_file(tokenizer, tmp_path):
    files = [export(random_model(tokenizer, tmp_path), tmp_path / name)[0] for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_windowed_attention_is_refused():
    config = GPTConfig(300, arch="qwen3", attention_window=16)
    with pytest.raises(
        UserError, match=r"attention_window=16, which llama\.cpp's qwen3 would ignore"
    ):
        gguf.check_exportable(config)


def test_models_that_attend_within_one_story_are_exported():
    gguf.check_exportable(GPTConfig(300, story_mask=True))
