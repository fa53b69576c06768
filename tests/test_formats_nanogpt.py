"""Checkpoints of nanoGPT here, ours there; and what other files are called.

Those of nanoGPT are made from what its format is: names, shapes and a forward pass of its own.
"""

import contextlib
import io
import json
import math
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers
from conftest import SMALL, command, complaint, contents, forked
from safetensors.torch import save_file
from torch.nn import functional as F

import evaluate
from configurator import UserError, parse
from tinystories.formats import causal_lm
from tinystories.run import load_checkpoint, load_model
from tinystories.tokenizer import STORY_PATTERN, Tokenizer, gpt2

pytestmark = pytest.mark.slow
ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "dropout": 0.1}
QUICK = ("--device=cpu", "--dtype=float32")
TALE = "Once upon a time there was a fox. She played all day long with her friend."


def their_weights(vocab_size: int, bias: bool, prefix: str = "") -> dict:
    """A random state dict of nanoGPT's GPT, of the shape ARGS."""
    torch.manual_seed(5)
    C, weights = ARGS["n_embd"], {}

    def layer_norm(name):
        weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(C)
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(C)

    def linear(name, rows, columns):
        weights[f"{name}.weight"] = 0.3 * torch.randn(rows, columns)
        if bias:
            weights[f"{name}.bias"] = 0.1 * torch.randn(rows)

    weights["transformer.wte.weight"] = torch.randn(vocab_size, C)
    weights["transformer.wpe.weight"] = torch.randn(ARGS["block_size"], C)
    for i in range(ARGS["n_layer"]):
        block = f"transformer.h.{i}"
        layer_norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", 3 * C, C)
        linear(f"{block}.attn.c_proj", C, C)
        layer_norm(f"{block}.ln_2")
        linear(f"{block}.mlp.c_fc", 4 * C, C)
        linear(f"{block}.mlp.c_proj", C, 4 * C)
    layer_norm("transformer.ln_f")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    return {prefix + name: weight for name, weight in weights.items()}


def save_theirs(path, vocab_size: int = 50_304, bias: bool = False, prefix: str = "", **changes):
    """Write a checkpoint as nanoGPT's train.py does; `changes` replace its entries."""
    checkpoint = {
        "model": their_weights(vocab_size, bias, prefix),
        "optimizer": {"state": {}, "param_groups": [{"params": [0], "lr": 1e-3}]},
        "model_args": ARGS | {"vocab_size": vocab_size, "bias": bias},
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "fables", "wandb_log": False, "learning_rate": 6e-4},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint | changes, path)
    return path


def their_logits(weights: dict, ids: torch.Tensor) -> torch.Tensor:
    """What nanoGPT's GPT computes: (B, T) ids to (B, T, V)."""
    (B, T), C, H = ids.shape, ARGS["n_embd"], ARGS["n_head"]
    w = {name.partition("transformer.")[2]: weight for name, weight in weights.items()}

    def layer_norm(x, name):
        return F.layer_norm(x, (C,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["wte.weight"][ids] + w["wpe.weight"][:T]
    future = torch.ones(T, T).triu(1).bool()
    for i in range(ARGS["n_layer"]):
        qkv = linear(layer_norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(C, dim=2)
        q, k, v = (part.view(B, T, H, C // H).transpose(1, 2) for part in qkv)
        scores = (q @ k.mT / math.sqrt(C // H)).masked_fill(future, -math.inf)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C)
        x = x + linear(y, f"h.{i}.attn.c_proj")
        hidden = F.gelu(linear(layer_norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"))
        x = x + linear(hidden, f"h.{i}.mlp.c_proj")
    return layer_norm(x, "ln_f") @ w["wte.weight"].T


def their_state(path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def their_root(tmp_path_factory):
    """A folder as nanoGPT's: out/ckpt.pt, and the dataset that it was trained on."""
    root = tmp_path_factory.mktemp("nanoGPT")
    save_theirs(root / "out" / "ckpt.pt")
    (root / "data" / "fables").mkdir(parents=True)
    for split, count in (("train", 30), ("val", 8)):
        ids = gpt2().encode_stories([TALE] * count).astype("<u2")
        ids.tofile(root / "data" / "fables" / f"{split}.bin")
    return root


def refusal(path) -> str:
    with pytest.raises(UserError) as refused:
        load_checkpoint(path)
    line = str(refused.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "damaged" not in line
    return line


# From nanoGPT -------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocab_size", [50_257, 50_304])
def test_the_logits_are_those_of_nanogpt(tmp_path, vocab_size, bias, prefix):
    path = save_theirs(tmp_path / "ckpt.pt", vocab_size, bias, prefix)
    model, tokenizer, state = load_model(tmp_path)
    assert tokenizer.vocab_size == model.config.vocab_size == 50_257
    assert (state["step"], state["val_loss"], model.config.dropout) == (2000, 1.5, 0.1)
    ids = torch.randint(0, 50_257, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = their_logits(their_state(path)["model"], ids)[..., :50_257]
        torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_an_early_version_is_read(tmp_path):
    """Without bias and dropout in model_args; with the causal mask among the weights."""
    weights = their_weights(50_257, bias=True)
    weights |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 32, 32) for i in range(2)}
    args = {name: ARGS[name] for name in ("n_layer", "n_head", "n_embd", "block_size")}
    args["vocab_size"] = 50_257
    save_theirs(tmp_path / "ckpt.pt", model=weights, model_args=args)
    model, _, _ = load_model(tmp_path)
    assert model.config.bias


def test_a_tokenizer_beside_the_checkpoint_or_in_its_dataset_is_taken(tmp_path):
    tokenizer = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
    path = save_theirs(tmp_path / "out" / "ckpt.pt", vocab_size=257)
    assert "a vocabulary of 257 ids: not GPT-2's, and no vocabulary.json" in refusal(path)
    (tmp_path / "data" / "fables").mkdir(parents=True)
    tokenizer.save(tmp_path / "data" / "fables" / "vocabulary.json")
    assert load_model(path.parent)[1].fingerprint == tokenizer.fingerprint
    shutil.move(tmp_path / "data" / "fables" / "vocabulary.json", path.parent)
    assert load_model(path.parent)[1].fingerprint == tokenizer.fingerprint


def test_sampling_takes_the_folder_as_it_is_and_writes_nothing(their_root):
    before = contents(their_root)
    options = [f"--out_dir={their_root / 'out'}", "--num_samples=1", "--max_new_tokens=5", *QUICK]
    done = command("sample.py", *options, "--start=Once upon")
    assert done.stdout.startswith("Once upon")
    assert f"ckpt.pt of {their_root / 'out'}" in " ".join(done.stderr.split())
    assert contents(their_root) == before


def test_evaluation_finds_the_dataset_that_it_was_trained_on(their_root, tmp_path, monkeypatch):
    root = shutil.copytree(their_root, tmp_path / "nanoGPT")
    options = [f"--out_dir={root / 'out'}", "--what=loss", *QUICK]
    assert "bits per byte" in forked("evaluate.py", *options).stdout
    assert set(contents(root / "out")) == {"ckpt.pt", "evaluation.json"}
    info = json.loads((root / "out" / "evaluation.json").read_text())["run"]
    assert (info["checkpoint"], info["step"], info["vocabulary"]) == ("ckpt.pt", 2000, 50_257)
    # A published model beside it is measured on that dataset, too.
    bare, plot = tmp_path / "bare", tmp_path / "x.png"
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(bare)
    monkeypatch.setattr(causal_lm, "ROOT", tmp_path)
    options = [f"--compare=hf:{bare},{root / 'out'}", "--what=loss", f"--plot={plot}", *QUICK]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.main(parse(evaluate.Settings, options).settings)
    assert printed.getvalue().split()[:2] == ["bare", "out"]


def test_characters_that_no_prompt_has_are_evaluated_without_prompts(tmp_path):
    """Also a vocabulary that changes is noticed, which nanoGPT keeps beside the data."""
    data, options = tmp_path / "data" / "fables", [f"--out_dir={tmp_path / 'out'}", *QUICK]
    save_theirs(tmp_path / "out" / "ckpt.pt", vocab_size=3)
    data.mkdir(parents=True)
    for split in ("train", "val"):
        (np.arange(200) % 3).astype("<u2").tofile(data / f"{split}.bin")
    for letters in ("猫狗\n", "猫鸟\n"):
        meta = {"stoi": {c: i for i, c in enumerate(letters)}, "itos": dict(enumerate(letters))}
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 3} | meta))
        done = forked("evaluate.py", *options)
        assert "from evaluation.json" not in done.stderr
        assert "without pairs: no minimal pair can be written" in done.stderr
        assert "without memorization: no prompt can be written" in done.stderr
        assert "bits per byte" in done.stdout
    said = forked("evaluate.py", *options, "--what=pairs", status=2).stderr
    assert said.splitlines()[-1].startswith("evaluate.py: no minimal pair can be written")


@pytest.mark.parametrize("named", ["out", "out/ckpt.pt"])
def test_fine_tuning_begins_with_its_weights(their_root, tmp_path, named):
    data, folder = their_root / "data" / "fables", tmp_path / "run"
    before = contents(their_root)
    options = [f"--init_from={their_root / named}", f"--dataset={data}", f"--out_dir={folder}"]
    small = [option for option in SMALL if option.split("=")[0][2:] not in ARGS]
    forked("train.py", *options, *small, "--max_iters=1", "--learning_rate=1e-9", "--min_lr=0")
    model, _, _ = load_model(folder, "ckpt.pt")
    their_model, _, _ = load_model(their_root / "out")
    torch.testing.assert_close(model.state_dict(), their_model.state_dict(), atol=1e-6, rtol=0)
    assert contents(their_root) == before


def test_a_run_of_nanogpt_is_not_resumed(their_root):
    before = contents(their_root)
    out = their_root / "out"
    line = complaint("train.py", "--init_from=resume", f"--out_dir={out}", run=forked)
    assert "a run of nanoGPT, which cannot be resumed here; fine-tune it into a new run: " in line
    assert f"--init_from={out} --out_dir=out/NAME" in line
    assert contents(their_root) == before


# What cannot be converted -------------------------------------------------------------------


def changed_weights(name: str, weight: torch.Tensor | None) -> dict:
    weights = their_weights(50_304, bias=False) | {name: weight}
    return {key: value for key, value in weights.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_args": ARGS | {"vocab_size": 50_304, "n_kv_head": 1}}, "model_args has n_kv_head"),
        ({"model_args": {"dim": 288, "n_layers": 6}}, "model_args as nanoGPT, but not its n_layer"),
        ({"model_args": [1]}, "model_args as nanoGPT"),
        ({"model_args": ARGS | {"vocab_size": None}}, "vocab_size expects an integer, not None"),
        ({"model_args": ARGS | {"vocab_size": 50_304, "n_head": 3}}, "not divisible by n_head=3"),
        ({"model_args": ARGS | {"vocab_size": 50_304, "n_layer": 10**9}}, "1000000000 layers"),
        (
            {"model_args": ARGS | {"vocab_size": 50_304, "bias": True}},
            "h.0.ln_1.bias: it has no such weight, and nanoGPT's model (16,)",
        ),
        (
            {"model_args": ARGS | {"vocab_size": 50_257, "bias": False}},
            "wte.weight: it has (50304, 16), and nanoGPT's model (50257, 16)",
        ),
        (
            {"model": changed_weights("transformer.h.0.attn.q_norm.weight", torch.ones(8))},
            "h.0.attn.q_norm.weight: it has (8,), and nanoGPT's model no such weight",
        ),
        (
            {"model": changed_weights("transformer.wte.weight", None)},
            "wte.weight: it has no such weight, and nanoGPT's model (50304, 16)",
        ),
        ({"model": changed_weights("lm_head.weight", torch.zeros(50_304, 16))}, "not tied to wte"),
        ({"model": {"wte.weight": 5}}, "its model is not a state dict"),
    ],
)
def test_why_a_checkpoint_cannot_be_converted_is_said(tmp_path, changes, message):
    assert message in refusal(save_theirs(tmp_path / "ckpt.pt", **changes))


def test_weights_that_are_not_finite_are_named(tmp_path):
    weights = their_weights(50_304, False)
    weights["transformer.ln_f.weight"][0] = torch.nan
    save_theirs(tmp_path / "ckpt.pt", model=weights)
    assert "ln_f.weight has values that are not finite" in refusal(tmp_path / "ckpt.pt")


def test_an_untied_head_alone_does_not_pass(tmp_path):
    """The embedding missing, the head there: still no model of nanoGPT."""
    changes = {"model": changed_weights("transformer.wte.weight", None), "config": None}
    assert "wte.weight" in refusal(save_theirs(tmp_path / "ckpt.pt", **changes))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a.weight": torch.ones(2)}, "holds weights alone (a state dict)"),
        ({"epoch": 3, "net": {}}, "is of another program (it holds epoch, net)"),
        (torch.ones(3), "holds a Tensor, not a checkpoint"),
        ({}, "holds a dict, not a checkpoint"),
    ],
)
def test_other_files_of_torch_are_called_what_they_are(tmp_path, state, message):
    torch.save(state, tmp_path / "model.pt")
    assert message in refusal(tmp_path / "model.pt")


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["nanoGPT's", "old torch.save", "pickle"])
def test_code_in_a_checkpoint_is_named_and_never_run(tmp_path, kind):
    path, evil = tmp_path / "ckpt.pt", Evil(tmp_path / "marker")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"model": {}, "model_args": evil}))
    elif kind == "old torch.save":
        torch.save({"model_args": evil}, path, _use_new_zipfile_serialization=False)
    else:
        save_theirs(path, config=evil)
    line = refusal(path)
    assert "refused to load it" in line
    assert "weights_only" not in line
    assert not (tmp_path / "marker").exists()


def test_weights_without_their_config_are_called_that(tmp_path):
    save_file({"wte.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert "is a safetensors file" in refusal(tmp_path / "model.safetensors")


def test_one_that_is_cut_short_is_damaged(tmp_path):
    path = save_theirs(tmp_path / "ckpt.pt")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match="is damaged, cut short or not a checkpoint"):
        load_checkpoint(path)


# To nanoGPT ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A copy of the small run, with its newest state exported."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("exported") / "run")
    done = command("export.py", "--to=nanogpt", f"--checkpoint={folder / 'ckpt.pt'}")
    assert done.stdout.splitlines()[-1].endswith(f"--out_dir={folder / 'export' / 'nanogpt'}")
    return folder


def test_an_export_has_what_nanogpt_loads(exported):
    folder = exported / "export" / "nanogpt"
    assert set(contents(folder)) == {"ckpt.pt", "meta.pkl", "vocabulary.json"}
    state, ours = their_state(folder / "ckpt.pt"), load_checkpoint(exported / "ckpt.pt")
    assert state.keys() == their_state(save_theirs(exported / "theirs.pt")).keys()
    args = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "dropout": 0.2}
    assert state["model_args"] == args | {"vocab_size": 300, "bias": False}
    assert (state["iter_num"], state["best_val_loss"]) == (10, ours["progress"]["best_val"])
    assert state["config"]["learning_rate"] == 1e-3
    assert state["config"]["dataset"] == str(folder)  # where its sample.py finds meta.pkl
    assert state["model"]["lm_head.weight"].shape == (300, 32)
    assert all(name.startswith(("transformer.", "lm_head")) for name in state["model"])


def test_nanogpt_resumes_with_the_moments_of_the_run(exported):
    state = their_state(exported / "export" / "nanogpt" / "ckpt.pt")
    weights = [weight for name, weight in state["model"].items() if name != "lm_head.weight"]
    matrices, vectors = ([w for w in weights if (w.dim() > 1) is many] for many in (True, False))
    theirs = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    theirs.load_state_dict(state["optimizer"])
    ours = load_checkpoint(exported / "ckpt.pt")["optimizer"]["state"]
    for i, weight in enumerate([*matrices, *vectors]):
        moment = theirs.state[weight]["exp_avg"]
        assert moment.shape == weight.shape
        assert torch.equal(moment, ours[i]["exp_avg"][: len(weight)])
    assert theirs.param_groups[0]["betas"] == (0.9, 0.99)


def test_the_best_weights_are_exported_with_a_new_optimizer(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    forked("export.py", "--to=nanogpt", f"--out_dir={folder}")
    state, best = (their_state(folder / name) for name in ("export/nanogpt/ckpt.pt", "best.pt"))
    assert (state["iter_num"], state["best_val_loss"]) == (best["step"], best["val_loss"])
    assert state["optimizer"]["state"] == {}
    assert [len(group["params"]) for group in state["optimizer"]["param_groups"]] == [10, 5]


def test_there_and_back_is_the_same_model(exported):
    model, tokenizer, _ = load_model(exported, "ckpt.pt")
    back, same_tokenizer, state = load_model(exported / "export" / "nanogpt")
    assert (state["program"], same_tokenizer.fingerprint) == ("nanoGPT", tokenizer.fingerprint)
    assert back.config == model.config
    for (name, one), other in zip(model.state_dict().items(), back.parameters(), strict=True):
        used = 300 if name == "wte.weight" else len(one)
        assert torch.equal(one[:used], other[:used])
    greedy = ["--temperature=0", "--num_samples=1", "--max_new_tokens=40", "--stop=False", *QUICK]
    names = (exported, exported / "export" / "nanogpt")
    options = [[f"--out_dir={name}", "--checkpoint=ckpt.pt", *greedy] for name in names]
    one, other = (forked("sample.py", *given).stdout for given in options)
    assert one == other
    assert len(one) > 20


def test_meta_pkl_reads_and_writes_the_vocabulary(exported):
    meta = pickle.loads((exported / "export" / "nanogpt" / "meta.pkl").read_bytes())
    _, tokenizer, _ = load_model(exported)
    assert meta["vocab_size"] == 300
    ids = tokenizer.encode(TALE)
    assert "".join(meta["itos"][id] for id in ids) == TALE
    by_character = [meta["stoi"][character] for character in TALE]
    assert b"".join(tokenizer.token_bytes[id] for id in by_character).decode() == TALE


def test_the_vocabulary_of_gpt2_needs_no_meta_pkl(their_root, tmp_path):
    folder = shutil.copytree(their_root / "out", tmp_path / "out")
    forked("export.py", "--to=nanogpt", folder)
    assert set(contents(folder / "export" / "nanogpt")) == {"ckpt.pt", "vocabulary.json"}
    state, before = (their_state(folder / name) for name in ("export/nanogpt/ckpt.pt", "ckpt.pt"))
    for name, weight in state["model"].items():
        assert torch.equal(weight, before["model"][name][: len(weight)])
    assert state["model_args"] == before["model_args"] | {"vocab_size": 50_257}


@pytest.mark.parametrize("option", ["--arch=qwen3", "--attention_window=16"], ids=str)
def test_what_nanogpt_has_not_is_not_exported(dataset, tmp_path, option):
    options = [f"--dataset={dataset}", f"--out_dir={tmp_path / 'run'}", *SMALL, "--max_iters=1"]
    forked("train.py", *options, option)
    before = contents(tmp_path)
    line = complaint("export.py", "--to=nanogpt", f"--out_dir={tmp_path / 'run'}", run=forked)
    assert f"this model has {option[2:]}, and nanoGPT's model has no such thing" in line
    assert contents(tmp_path) == before


def test_an_export_is_replaced_only_if_asked(reciter):
    folder = reciter(b"Hi.")
    forked("export.py", "--to=nanogpt", f"--out_dir={folder}")
    before = contents(folder)
    line = complaint("export.py", "--to=nanogpt", f"--out_dir={folder}", run=forked)
    assert line.endswith("is there already; --overwrite replaces it")
    assert contents(folder) == before
    forked("export.py", "--to=nanogpt", f"--out_dir={folder}", "--overwrite")
    assert set(contents(folder)) == set(before)
