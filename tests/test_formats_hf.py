"""Folders of Hugging Face: transformers opens ours, we read theirs, and the hub takes and gives."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from conftest import SMALL, complaint, contents, forked, make_reciter
from hub_server import WRITER, serving
from safetensors.torch import load_file, save_file

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.evaluation.results import write_results
from tinystories.files import sha256_of
from tinystories.formats import causal_lm, hf, hf_tokenizer
from tinystories.formats.trained import TrainedModel
from tinystories.run import load_checkpoint, load_model
from tinystories.tokenizer import (
    STORY_PATTERN,
    CharTokenizer,
    Tokenizer,
    gpt2,
    gpt2_top,
    train_bpe,
)

pytestmark = pytest.mark.slow
TALES = ["Once upon a time there was a fox.", "She'll play all day, it's 10 o'clock!\n\nThe end."]
BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
CHARACTERS = CharTokenizer(sorted(set("".join(TALES))))
GPT2 = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="TIKTOKEN_CACHE_DIR names no GPT-2 encoding"
)
QUICK = ("--device=cpu", "--dtype=float32")


def random_gpt(tokenizer: Tokenizer = BYTES, **changes) -> GPT:
    shape = {"block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32} | changes
    torch.manual_seed(1)
    gpt = GPT(GPTConfig(tokenizer.vocab_size, **shape)).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return gpt


def export(folder, tokenizer: Tokenizer = BYTES, **changes) -> GPT:
    """Write a random model as a folder; returns the model."""
    gpt = random_gpt(tokenizer, **changes)
    hf.check_exportable(gpt.config)
    hf.write(folder, folder, TrainedModel(folder, gpt, tokenizer, {}, {}))
    return gpt


def open_there(folder):
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


# There --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ({}, "GPT2LMHeadModel"),
        ({"bias": True, "gelu": "tanh"}, "GPT2LMHeadModel"),
        ({"attention_window": 5}, "GPTNeoForCausalLM"),
        ({"attention_window": 5, "n_layer": 3, "gelu": "tanh"}, "GPTNeoForCausalLM"),
        ({"arch": "qwen3"}, "Qwen3ForCausalLM"),
        ({"arch": "qwen3", "attention_window": 5}, "Qwen3ForCausalLM"),
        ({"arch": "qwen3", "head_dim": 12, "rope_theta": 100.0}, "Qwen3ForCausalLM"),
    ],
    ids=str,
)
def test_transformers_computes_and_generates_the_same_and_back_too(tmp_path, shape, name):
    gpt = export(tmp_path / "hf", **shape)
    model, tokenizer = open_there(tmp_path / "hf")
    assert type(model).__name__ == name
    idx = torch.randint(257, (3, 32))
    with torch.no_grad():
        logits = gpt(idx)
        torch.testing.assert_close(model(idx).logits, logits, atol=1e-4, rtol=0)
    inputs = tokenizer("Once upon", return_tensors="pt")
    assert inputs.keys() == {"input_ids", "attention_mask"}
    prompt = torch.tensor([[256, *BYTES.encode("Once upon")]])
    assert torch.equal(inputs["input_ids"], prompt)
    text = model.generate(**inputs, do_sample=False, eos_token_id=None)
    ours = torch.stack(list(gpt.generate(prompt, 22, temperature=0)), dim=1)
    assert text[0].tolist() == [*prompt[0].tolist(), *ours[0].tolist()]
    assert tokenizer.decode(text[0]) == BYTES.decode(text[0].numpy()).join(["<|endoftext|>", ""])
    back, same_tokenizer, _ = load_model(tmp_path / "hf")
    assert (back.config, same_tokenizer.fingerprint) == (gpt.config, BYTES.fingerprint)
    torch.testing.assert_close(back(idx), logits, atol=1e-5, rtol=0)


def test_a_model_with_the_story_mask_is_the_same_for_one_story(tmp_path):
    gpt = export(tmp_path / "hf", story_mask=True)
    idx = torch.randint(256, (3, 32))
    idx[:, 0] = 256
    with torch.no_grad():
        logits = open_there(tmp_path / "hf")[0](idx).logits
        torch.testing.assert_close(logits, gpt(idx), atol=1e-4, rtol=0)


def test_windows_with_biases_have_no_class(tmp_path):
    with pytest.raises(UserError, match="GPT-Neo, whose queries have no bias"):
        export(tmp_path / "hf", attention_window=5, bias=True)


def fuzz(rng: random.Random) -> str:
    """Text of what vocabularies cut at, and of any characters."""
    known = (
        " \n\r\t'\"abcXYZ019.,!?s\u00a0\u0085\u2003\u2028éß漢ひ한🙂\u0301\u200b\ufeff\x00\x1c١Ⅷ½"
    )
    pools = (range(0xD800), range(0xE000, 0x110000))
    size = rng.randrange(1, 40)
    picks = (rng.choice(known) if rng.random() < 0.8 else None for _ in range(size))
    return "".join(pick or chr(rng.choice(rng.choice(pools))) for pick in picks)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    """A small model with GPT-2's vocabulary, exported."""
    folder = tmp_path_factory.mktemp("gpt2") / "hf"
    export(folder, gpt2(), n_embd=8, n_layer=1, bias=True, gelu="tanh")
    return folder


def check_tokens(folder, tokenizer: Tokenizer, stories: list[str]) -> None:
    """Stories and random text have the same ids with the tokenizer.json in a folder."""
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = random.Random(1)
    texts = [*stories, *(fuzz(rng) for _ in range(500))]
    texts = [text for text in texts if tokenizer.can_encode(text)]
    for text, encoded in zip(texts, theirs.encode_batch(texts), strict=True):
        assert encoded.ids == [tokenizer.first_id, *tokenizer.encode(text)]
    assert theirs.decode(tokenizer.encode(texts[0])) == texts[0]
    back = hf_tokenizer.read(folder, tokenizer.vocab_size)
    assert (back.fingerprint, back.kind) == (tokenizer.fingerprint, tokenizer.kind)


def real_stories(tinystories) -> list[str]:
    text = (tinystories / "valid.txt").read_text(encoding="utf-8")
    return text.split("<|endoftext|>")[:500]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda stories: train_bpe(stories, 1024), id="bpe"),
        pytest.param(lambda stories: gpt2_top(stories, 1000), id="gpt2_top", marks=GPT2),
        pytest.param(lambda stories: BYTES, id="bytes"),
        pytest.param(lambda stories: CharTokenizer(sorted(set("".join(stories)))), id="char"),
    ],
)
def test_the_tokens_are_ours(tinystories, tmp_path, make):
    stories = real_stories(tinystories)
    tokenizer = make(stories)
    (tmp_path / "tokenizer.json").write_text(json.dumps(hf_tokenizer.to_json(tokenizer)))
    check_tokens(tmp_path, tokenizer, stories)


@GPT2
def test_the_tokens_of_gpt2_are_ours_and_the_merges_are_the_published_ones(
    tinystories, gpt2_folder
):
    """tiktoken's cache has OpenAI's vocab.bpe, the lines of which every tokenizer.json has."""
    check_tokens(gpt2_folder, gpt2(), real_stories(tinystories))
    files = [path.read_bytes() for path in Path(os.environ["TIKTOKEN_CACHE_DIR"]).iterdir()]
    (published,) = (data.decode() for data in files if data.startswith(b"#version"))
    merges = json.loads((gpt2_folder / "tokenizer.json").read_text())["model"]["merges"]
    assert list(map(" ".join, merges)) == published.splitlines()[1:]


def test_an_unknown_character_is_an_error_there_too():
    theirs = tokenizers.Tokenizer.from_str(json.dumps(hf_tokenizer.to_json(CHARACTERS)))
    with pytest.raises(Exception, match="WordLevel error"):
        theirs.encode("漢")


def test_characters_come_back_by_their_name_with_their_line_breaks(tmp_path):
    export(tmp_path / "chars", CHARACTERS)
    published = causal_lm.load(f"hf:{tmp_path / 'chars'}").tokenizer
    assert published.end_of_text is None and published.first_id == CHARACTERS.first_id
    text = next(tale for tale in TALES if "\n" in tale)
    assert published.encode(text) == CHARACTERS.encode(text)
    assert published.decode(published.encode(text)) == text
    assert published.encode_stories([text]).tolist() == CHARACTERS.encode(text)
    assert published.can_encode(text) and not published.can_encode("漢")
    with pytest.raises(UserError, match="cannot encode this text"):
        published.encode("漢")


def test_a_window_of_one_token_is_verified(tmp_path):
    gpt = export(tmp_path / "one", block_size=1)
    trained = TrainedModel(tmp_path, gpt, BYTES, {}, {})
    assert hf.verify(tmp_path / "one", trained)[0] < 1e-5


# The command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """A copy of the small run, evaluated and exported."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("exported") / "tales")
    info = {"sha256": sha256_of(folder / "best.pt"), "step": 10}
    losses = {"nats_per_token": 1.5, "perplexity": 4.5, "bits_per_byte": 0.75}
    loss = {"stories": 20, "bytes": 9000, "all_text": losses}
    loss["per_story"] = losses | {"bits_per_byte_95": None}
    write_results(folder / "evaluation.json", info, {"loss": loss})
    forked("export.py", "--to=hf", f"--out_dir={folder}", "--verify=False")
    return folder


def test_an_export_is_verified(exported, tmp_path):
    model, tokenizer, state = load_model(exported)
    trained = TrainedModel(exported, model, tokenizer, state, {})
    assert hf.verify(exported / "export" / "hf", trained)[0] < 1e-5
    other = shutil.copytree(exported / "export" / "hf", tmp_path / "hf")
    (other / "tokenizer.json").write_text(json.dumps(hf_tokenizer.to_json(BYTES)))
    with pytest.raises(UserError, match="gives other ids; nothing was written"):
        hf.verify(other, trained)


def test_the_card_has_what_is_known_of_the_run(exported):
    card = (exported / "export" / "hf" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n")
    assert "# tales\n" in card
    assert "give it end of text (`<|endoftext|>`) first" in card
    assert "stories generated by rules" in card
    assert "the lowest validation loss is" in card
    assert "| learning_rate | 0.001 |" in card and "| bits per byte | 0.7500 |" in card
    assert str(exported.parent) not in card  # nothing of the machine
    code = card.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")


def test_the_card_names_a_data_set_of_the_hub_with_its_license(exported, tmp_path):
    meta = json.loads((exported / "settings.json").read_text())["dataset"]
    data = shutil.copytree(meta, tmp_path / "data")
    tokenizer = Tokenizer.load(data / "vocabulary.json")
    meta, name = json.loads((data / "meta.json").read_text()), "roneneldan/TinyStories"

    def card(tokenizer: Tokenizer = tokenizer, **changes) -> str:
        (data / "meta.json").write_text(json.dumps(meta | changes))
        trained = TrainedModel(exported, random_gpt(), tokenizer, {}, {"dataset": str(data)})
        return hf.model_card(trained, "GPT2LMHeadModel")

    tales = meta["sources"][0]
    theirs = tales | {"source": name, "revision": "abc123"}
    for text in (card(sources=[theirs]), card(sources=[], source=name, revision="abc123")):
        assert f"datasets:\n- {name}\n" in text
        assert "revision `abc123`, license CDLA-Sharing-1.0." in text
    text = card(sources=[tales, theirs])
    assert f"datasets:\n- {name}\n" in text and "CDLA-Sharing-1.0." in text
    assert "stories, generated by rules and [roneneldan/TinyStories](" in text
    assert "The training data is not known." in card(BYTES)  # prepared anew since


def test_the_card_gives_no_loss_of_other_weights(exported):
    progress = {"step": 20, "best_step": 10, "best_val": 1.5}
    for best, expected in (
        (10, "The lowest validation loss of the run, of other weights, was 1.5000."),
        (20, "The lowest validation loss is 1.5000 nats per token."),
    ):
        state = {"progress": progress | {"best_step": best}}
        card = hf.model_card(TrainedModel(exported, random_gpt(), BYTES, state, {}), "X")
        assert expected.lower() in card.lower()


def test_exported_twice_gives_the_same_bytes(exported):
    before = contents(exported / "export" / "hf")
    assert set(before) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    again = ("export.py", "--to=hf", f"--out_dir={exported}", "--overwrite", "--verify=False")
    forked(*again)
    assert contents(exported / "export" / "hf") == before


def test_an_export_is_sampled_as_the_run_is(exported):
    greedy = ["--temperature=0", "--num_samples=1", "--max_new_tokens=60", "--stop=False", *QUICK]
    folders = (exported, exported / "export" / "hf")
    one, other = (forked("sample.py", f"--out_dir={f}", *greedy).stdout for f in folders)
    assert one == other and len(one) > 20


def test_without_transformers_it_is_read_here(exported):
    model, tokenizer, _ = load_model(exported)
    back, encode = hf.open_here(exported / "export" / "hf")
    idx = torch.randint(300, (2, 32))
    torch.testing.assert_close(back(idx), model(idx), atol=1e-6, rtol=0)
    assert encode(TALES[0]) == [tokenizer.first_id, *tokenizer.encode(TALES[0])]


# Here ---------------------------------------------------------------------------------------


def save_theirs(folder, kind: str, **changes):
    """A random model as transformers saves it, for the vocabulary BYTES."""
    transformers.set_seed(3)
    shapes = {
        "GPT2": {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4},
        "GPTNeo": {
            **{"max_position_embeddings": 32, "hidden_size": 32, "num_layers": 2, "num_heads": 4},
            **{"attention_types": [[["global", "local"], 1]], "window_size": 8},
        },
        "Qwen3": {
            **{"max_position_embeddings": 32, "hidden_size": 32, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8},
            **{"intermediate_size": 96, "tie_word_embeddings": True},
        },
    }
    config = getattr(transformers, f"{kind}Config")(vocab_size=257, **shapes[kind] | changes)
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size="30KB")
    (folder / "tokenizer.json").write_text(json.dumps(hf_tokenizer.to_json(BYTES)))
    return model


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("GPT2", {}),
        ("GPT2", {"activation_function": "gelu"}),
        ("GPTNeo", {}),
        ("Qwen3", {}),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 5}),
    ],
    ids=str,
)
def test_a_model_that_transformers_saved_is_read(tmp_path, kind, changes):
    model = save_theirs(tmp_path, kind, **changes)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    gpt, tokenizer, state = load_model(tmp_path)
    assert (state["program"], tokenizer.fingerprint) == ("Hugging Face", BYTES.fingerprint)
    idx = torch.randint(257, (3, 32))
    with torch.no_grad():
        torch.testing.assert_close(gpt(idx), model(idx).logits, atol=1e-4, rtol=0)


@GPT2
def test_names_as_in_the_published_weights_of_gpt2_are_read(gpt2_folder, tmp_path):
    """They lack "transformer." and have causal masks; the vocabulary is GPT-2's."""
    shutil.copy(gpt2_folder / "config.json", tmp_path)
    weights = load_file(gpt2_folder / "model.safetensors")
    matrix = weights["transformer.h.0.mlp.c_fc.weight"]
    weights = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    save_file(weights, tmp_path / "model.safetensors")
    model, tokenizer, _ = load_model(tmp_path)
    assert (model.config.gelu, model.config.bias) == ("tanh", True)
    assert tokenizer.fingerprint == gpt2().fingerprint
    assert torch.equal(model.h[0].mlp.c_fc.weight, matrix.T)


@GPT2
def test_the_data_has_to_be_in_its_vocabulary(dataset, gpt2_folder):
    options = (f"--init_from={gpt2_folder}", f"--dataset={dataset}", "--out_dir=/nowhere")
    line = complaint("train.py", *options, run=forked)
    assert "the saved model has another tokenizer than small; it is GPT-2's: python prepare" in line


@GPT2
def test_gpt2s_own_tokenizer_json_is_read(tmp_path):
    """It leaves the cutting to ByteLevel, and writes merges as lines."""
    tokenizer = Tokenizer("gpt2", gpt2().pattern, [*BYTES.tokens, b"th", b"the"])
    stored = hf_tokenizer.to_json(tokenizer)
    stored["pre_tokenizer"] = hf_tokenizer.BYTE_LEVEL
    stored["model"]["merges"] = [" ".join(pair) for pair in stored["model"]["merges"]]
    stored["model"]["vocab"]["<|endoftext|>"] = 258
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    assert hf_tokenizer.read(tmp_path, 320).fingerprint == tokenizer.fingerprint


def refusal(folder) -> str:
    with pytest.raises(UserError) as refused:
        load_model(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def change_json(path, changes: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        ("gpt2", {"n_inner": 100}, "n_inner=100; a model here has 128"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "_layer_idx=True; a model here has F"),
        ("gpt2", {"activation_function": "relu"}, "activation_function=relu; a model here has ge"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("gpt2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ("gpt2", {"model_type": "llama"}, "model_type=llama; gpt2, gpt_neo, qwen3 can be read"),
        ("gpt2", {"n_layer": 10**9}, "fewer layers than the 1000000000 of config.json"),
        ("gpt2", {"n_layer": "two"}, "n_layer expects an integer, not 'two'"),
        ("gpt2", {"n_head": 5}, "n_embd=32 is not divisible by n_head=5"),
        ("gpt2", {"n_positions": 64}, "transformer.wpe.weight is (32, 32); its config.json wants"),
        ("gpt2", {"vocab_size": 200}, "has 257 ids, and the model 200"),
        ("qwen3", {"num_key_value_heads": 2}, "num_key_value_heads=2; a model here has 4"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True; a model here has False"),
        ("qwen3", {"intermediate_size": 64}, "intermediate_size=64; a model here has 96"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters={"),
        ("qwen3", {"rope_parameters": 5}, "config.json is not that of a model"),
        ("qwen3", {"final_logit_softcapping": 30.0}, "softcapping=30.0; a model here has none"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": None},
            "layer_types: a model here has windows in every second layer",
        ),
    ],
    ids=str,
)
def test_what_ours_cannot_be_is_refused_with_its_name(tmp_path, arch, changes, message):
    tmp_path /= "hf"
    export(tmp_path, arch=arch)
    change_json(tmp_path / "config.json", changes)
    assert message in refusal(tmp_path)


def test_damaged_and_foreign_weights_are_named(tmp_path):
    tmp_path /= "hf"
    export(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    weights = {name: weight.clone() for name, weight in load_file(path).items()}  # not mapped
    path.write_bytes(whole[:9000])
    assert f"{path} is damaged or cut short" in refusal(tmp_path)
    save_file(weights | {"lm_head.weight": torch.ones(257, 32)}, path)
    assert "its lm_head is not tied to the embedding" in refusal(tmp_path)
    save_file(weights | {"score.weight": torch.ones(2)}, path)
    assert "has transformer.score.weight, which a model here does not have" in refusal(tmp_path)
    del weights["transformer.wpe.weight"]
    save_file(weights, path)
    assert "transformer.wpe.weight is not there" in refusal(tmp_path)
    path.rename(tmp_path / "pytorch_model.bin")
    assert "only in pytorch_model.bin, a pickle, which can run code" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "it changes the text before (normalizer)"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it cuts text into words in another way"),
        ({"added_tokens": []}, "is not the last id, or not the only special one"),
        ({"model": {"type": "Unigram", "vocab": [["a", 1]]}}, "not byte-level BPE but Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 256}}}, "is not the last id"),
        ({"model": {}}, "is damaged or not of this version; copy or download it again"),
    ],
    ids=str,
)
def test_tokenizers_of_other_kinds_are_refused(tmp_path, changes, message):
    tmp_path /= "hf"
    export(tmp_path)
    change_json(tmp_path / "tokenizer.json", changes)
    assert message in refusal(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert "has no tokenizer.json, and 257 ids: not GPT-2's" in refusal(tmp_path)


def test_fine_tuning_begins_with_its_weights(exported, dataset, tmp_path):
    theirs, folder = exported / "export" / "hf", tmp_path / "run"
    options = [f"--init_from={theirs}", f"--dataset={dataset}", f"--out_dir={folder}"]
    small = [o for o in SMALL if not o.startswith(("--n_", "--block_size"))]
    forked("train.py", *options, *small, "--max_iters=1", "--learning_rate=1e-9", "--min_lr=0")
    model, before = load_model(folder, "ckpt.pt")[0], load_model(exported)[0]
    used = [(n, w[:300], v[:300]) for (n, w), v in zip(*named(model, before), strict=True)]
    for name, one, other in used:
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0, msg=name)
    line = complaint("train.py", "--init_from=resume", f"--out_dir={theirs}", run=forked)
    assert "a run of Hugging Face, which cannot be resumed here; fine-tune it into" in line
    line = complaint("train.py", *options, "--n_layer=3", "--overwrite", run=forked)
    assert "n_layer=3, but the saved model has 2" in line


def named(model: GPT, other: GPT) -> tuple:
    return model.state_dict().items(), other.state_dict().values()


def test_the_gelu_of_a_run_is_kept_and_checked(exported, tmp_path):
    export(tmp_path / "hf", gelu="tanh", bias=True)
    options = ("train.py", f"--init_from={tmp_path / 'hf'}", "--gelu=erf")
    assert "gelu=erf, but the saved model has tanh" in complaint(*options, run=forked)
    line = complaint("export.py", "--to=nanogpt", f"--out_dir={tmp_path / 'hf'}", run=forked)
    assert "this model has gelu=tanh, and nanoGPT's model has no such thing" in line
    saved = load_checkpoint(exported / "best.pt")["model_config"]
    del saved["gelu"]  # as older versions saved it
    assert GPTConfig(**saved).gelu == "erf"


# The hub ------------------------------------------------------------------------------------


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Lets commands use a hub: at(hub.url), at(hub.url, token)."""

    def use(url: str, token: str | None = None) -> None:
        for name in [name for name in os.environ if name.startswith("HF_")]:
            monkeypatch.delenv(name)
        values = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        values |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        values |= {"HF_HUB_DISABLE_TELEMETRY": "1"} | ({"HF_TOKEN": token} if token else {})
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return use


def test_an_export_is_pushed_and_comes_back_by_its_name(exported, dataset, tmp_path, at):
    folder = shutil.copytree(exported, tmp_path / "tales")
    (folder / "export" / "tales.gguf").write_bytes(b"GGUF")
    (folder / "export" / "tales.html").write_bytes(b"<html>")
    push = ("export.py", f"--out_dir={folder}", "--push=me/tales")
    with serving({}) as hub:
        at(hub.url, WRITER)
        assert forked(*push).stdout == f"uploaded to {hub.url}/me/tales\n"
        files = hub.repos["me/tales"]
        here = contents(folder / "export" / "hf")
        assert files.keys() == here.keys() | {"tales.gguf", "tales.html"}
        assert files["model.safetensors"] == here["model.safetensors"]
        card = here["README.md"].replace(b'("."', b'("me/tales"')
        assert files["README.md"] == card != here["README.md"]
        forked(*push)  # again, into the repository that is there
        options = (f"--dataset={dataset}", f"--out_dir={tmp_path / 'run'}", "--eval_only")
        said = forked("train.py", "--init_from=hf:me/tales", *options, *QUICK).stdout
        assert "nats" in said or "loss" in said
        assert not any(name in " ".join(hub.requests) for name in ("tales.html", "GET /me/README"))


def test_why_a_push_fails_is_said(exported, at):
    push = ("export.py", f"--out_dir={exported}", "--push=me/tales")
    with serving({}) as hub:
        at(hub.url)
        assert "needs a token: run `hf auth login`" in complaint(*push, run=forked)
        at(hub.url, "hf_reader")
        assert "the token has no permission to write there" in complaint(*push, run=forked)
        assert not hub.repos
    at("http://127.0.0.1:9", WRITER)
    assert "check the network and run again" in complaint(*push, run=forked)
    line = complaint("export.py", f"--out_dir={exported}", "--push=tales", run=forked)
    assert "push=tales: name a repository on the hub as user/name" in line


def test_a_push_needs_an_export(tmp_path):
    folder = make_reciter(tmp_path / "run", b"Hi.")
    line = complaint("export.py", f"--out_dir={folder}", "--push=me/tales", run=forked)
    assert line.endswith(f"there is no {folder / 'export' / 'hf'}; write it with --to=hf")


def test_why_weights_do_not_come_from_the_hub_is_said(at):
    pickles = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    with serving({"me/pickles": pickles, "me/gated": {"config.json": b"{}"}}) as hub:
        at(hub.url)
        line = complaint("train.py", "--init_from=hf:me/nothing", run=forked)
        assert f"cannot get me/nothing from {hub.url}: not found; if it is private" in line
        line = complaint("train.py", "--init_from=hf:me/pickles", run=forked)
        assert "has no model.safetensors on the hub" in line and "never loaded" in line
        hub.gated = True
        line = complaint("train.py", "--init_from=hf:me/gated", run=forked)
        assert "access requires a login" in line
    at("http://127.0.0.1:9")
    line = complaint("train.py", "--init_from=gpt2-xl", run=forked)
    assert "cannot get openai-community/gpt2-xl from http://127.0.0.1:9: " in line
