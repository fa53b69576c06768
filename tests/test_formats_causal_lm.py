"""Published models beside our own: evaluate.py and sample.py with hf:FOLDER and hf:NAME."""

import contextlib
import io
import json
import os
import shutil
import sys

import pytest
import torch
import transformers
from conftest import complaint, contents, forked, make_reciter
from hub_server import serving
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn import functional as F

import evaluate
import sample
from configurator import UserError, parse
from model import GPT
from tinystories.device import select_hardware
from tinystories.formats import causal_lm
from tinystories.generate import (
    Sampling,
    collect_stories,
    generate_stories,
    prepare_for_generation,
)
from tinystories.tokenizer import Tokenizer, train_bpe

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

CPU = select_hardware("cpu", "float32")
STORIES = [
    "Lily had a red ball. “Catch it, Tom!” she said.\n\nTom ran — and fell.",
    "Once there was a cat. The cat sat on a mat.",
    "A café in the rain 🦊. " * 12,  # longer than the windows
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "gpt_neo": transformers.GPTNeoConfig(
        num_layers=2,
        num_heads=2,
        hidden_size=32,
        window_size=8,  # of the second layer
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
    ),
    "llama": transformers.LlamaConfig(
        **SMALL, num_key_value_heads=1, intermediate_size=64, max_position_embeddings=64
    ),
    "gpt2": transformers.GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=64),
}


def byte_level(texts: list[str]):
    """A tokenizer like GPT-2's, whose one special token stands before and after a text."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = {"special_tokens": ["<|endoftext|>"], "show_progress": False}
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, **names)
    backend.train_from_iterator(texts, trainer)
    ends = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **ends)


def sentencepiece_like(texts: list[str]):
    """A tokenizer like Llama's: a space before the text, bytes as a last resort, <s> in front."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True))
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(space)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({c for text in texts for c in text if c.isascii() and c != "\n"} | {"▁"})
    backend.train_from_iterator(
        ["".join(c for c in text if c.isascii()) for text in texts],
        trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=letters, show_progress=False
        ),
    )
    state = json.loads(backend.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["id"] < 3]  # bytes are ordinary
    backend = Backend.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **ends)


def lower_case(texts: list[str]):
    """A WordPiece that forgets capitals and spaces."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[EOS]"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    ends = {"unk_token": "[UNK]", "eos_token": "[EOS]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **ends)


TOKENIZERS = {"gpt_neo": byte_level, "llama": sentencepiece_like, "gpt2": lower_case}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict:
    """A folder for each kind of model, with random weights large enough to prefer something."""
    folders = {}
    for kind, config in MODELS.items():
        folders[kind] = folder = tmp_path_factory.mktemp("published") / f"my-{kind}"
        tokenizer = TOKENIZERS[kind](STORIES)
        config.vocab_size = len(tokenizer)
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weights in model.parameters():
                weights.mul_(5 if weights.dim() > 1 else 1)
            if kind == "llama":
                model.lm_head.weight[3:259] = 0  # single bytes, which seldom are characters
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results go to this folder instead of out/ of the repository."""
    monkeypatch.setattr(causal_lm, "ROOT", tmp_path)
    return tmp_path / "out" / "hf"


def table(*options) -> str:
    """What evaluate.py prints."""
    few = ["--device=cpu", "--dtype=float32", "--samples_per_prompt=2", "--max_chars=60"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate.main(parse(evaluate.Settings, [*few, *map(str, options)]).settings)
    return printed.getvalue()


def result_in(results, kind: str) -> dict:
    (path,) = results.glob(f"*{kind}*/evaluation.json")
    return json.loads(path.read_text(encoding="utf-8"))


def write_stories(folder, texts: list[str]):
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    return path


def plain(folder) -> tuple:
    """The model and the tokenizer as transformers loads them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def nats_of(model, ids: list[int], window: int) -> float:
    """The loss over ids after the first, from one forward pass for each of them."""
    total, step = 0.0, window - window // 2
    for i in range(1, len(ids)):
        start = max(0, -(-(i - window) // step)) * step
        logits = model(torch.tensor([ids[start:i]])).logits[0, -1]
        total -= logits.log_softmax(0)[ids[i]].item()
    return total


# The loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt_neo", "gpt2"])
def test_the_loss_is_that_of_transformers(published, results, tmp_path, kind):
    source = write_stories(tmp_path, STORIES)
    table(f"--out_dir=hf:{published[kind]}", "--what=loss", f"--val_source={source}")
    model, tokenizer = plain(published[kind])
    end = tokenizer.eos_token_id
    ids = [[end, *tokenizer.encode(text, add_special_tokens=False), end] for text in STORIES]
    assert max(map(len, ids)) > 64
    with torch.no_grad():
        total = sum(nats_of(model, story, 64) for story in ids)
    loss = result_in(results, kind)["loss"]
    per_story = loss["per_story"]
    assert per_story["nats_per_token"] * per_story["tokens"] == pytest.approx(total, abs=1e-3)
    assert loss["bytes"] == sum(len(text.encode()) for text in STORIES)
    assert loss["all_text"]["tokens"] == per_story["tokens"]


def test_a_real_story_file_has_the_loss_of_transformers(published, results, tinystories, tmp_path):
    with open(tinystories / "valid.txt", encoding="utf-8") as file:
        texts = [text.strip() for text in file.read(20_000).split("<|endoftext|>")[:6]]
    source = write_stories(tmp_path, texts)
    table(f"--out_dir=hf:{published['llama']}", "--what=loss", f"--val_source={source}")
    model, tokenizer = plain(published["llama"])
    total = 0.0
    for text in texts:
        ids = tokenizer.encode(text)  # with <s> in front
        windows = [(0, 64, 0)] + [(s, s + 64, 32) for s in range(32, len(ids) - 32, 32)]
        with torch.no_grad():
            for start, stop, new in windows:
                logits = model(torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
                # the story ends where the model ends the text or begins another
                ended = logits[:, [1, 2]].logsumexp(-1)
                targets = [*ids, 2][start + 1 : stop + 1]
                chosen = [ended[i] if t == 2 else logits[i, t] for i, t in enumerate(targets)]
                total -= sum(value.item() for value in chosen[new:])
    loss = result_in(results, "llama")["loss"]
    per_story = loss["per_story"]
    assert per_story["nats_per_token"] * per_story["tokens"] == pytest.approx(total, abs=1e-3)
    assert loss["bytes"] == sum(len(text.encode()) for text in texts)
    assert "altered_stories" not in loss


def test_a_tokenizer_that_alters_the_text_is_flagged(published, results, tmp_path, reciter, capsys):
    source, plot = write_stories(tmp_path, STORIES), tmp_path / "x.png"
    names = f"hf:{published['gpt2']},{reciter(b'Once')}"
    options = ["--what=loss", f"--val_source={source}", f"--plot={plot}"]
    out = table(f"--compare={names}", *options)
    assert "Bits per byte do not compare" in out
    loss = result_in(results, "gpt2")["loss"]
    assert (loss["bits_per_byte_compare"], loss["altered_stories"]) == (False, 3)
    assert capsys.readouterr().err.endswith("/reciter\n")  # the best of those that compare


def test_the_whole_text_is_in_windows_of_the_model(published, results, tmp_path):
    source = write_stories(tmp_path, STORIES)
    table(f"--out_dir=hf:{published['gpt_neo']}", "--what=loss", f"--val_source={source}")
    model, tokenizer = plain(published["gpt_neo"])
    end = tokenizer.eos_token_id
    ids = [end]
    for text in STORIES:
        ids += [*tokenizer.encode(text, add_special_tokens=False), end]
    total = 0.0
    with torch.no_grad():
        for i in range(0, len(ids) - 1, 64):
            x, y = ids[i : i + 64], ids[i + 1 : i + 65]
            logits = model(torch.tensor([x[: len(y)]])).logits[0]
            total += F.cross_entropy(logits, torch.tensor(y), reduction="sum").item()
    all_text = result_in(results, "gpt_neo")["loss"]["all_text"]
    assert all_text["nats_per_token"] * all_text["tokens"] == pytest.approx(total, abs=1e-3)


def test_large_losses_are_computed_in_pieces(published, monkeypatch):
    model = causal_lm.load(f"hf:{published['gpt_neo']}").model
    x = torch.arange(40).view(4, 10)
    y = torch.where(x % 3 == 0, -1, x + 1)
    with torch.no_grad():
        whole = model(x, y)
        monkeypatch.setattr(causal_lm, "PIECE_LOGITS", 1)
        assert torch.allclose(model(x, y), whole)


# The table ----------------------------------------------------------------------------------


@pytest.fixture
def run_with_data(tmp_path):
    """A run of ours with its small dataset."""
    from test_evaluate import write_dataset

    folder = make_reciter(tmp_path / "reciter", STORIES[1].encode())
    tokenizer = Tokenizer.load(folder / "vocabulary.json")
    data = write_dataset(tmp_path / "data", tokenizer, train=STORIES, val=STORIES[:2])
    (folder / "settings.json").write_text(json.dumps({"dataset": str(data)}), encoding="utf-8")
    return folder


def test_a_published_model_stands_beside_a_run_on_its_data(
    published, results, run_with_data, tmp_path, capsys
):
    folder = published["llama"]
    before = contents(folder)
    prompts, pairs = tmp_path / "prompts.txt", tmp_path / "pairs.jsonl"
    prompts.write_text("Once there\n", encoding="utf-8")
    pair = {"group": "g", "kind": "k", "beginning": "The cat sat", "right": " on", "wrong": " red"}
    pairs.write_text(json.dumps(pair), encoding="utf-8")
    options = [f"--prompts={prompts}", f"--pairs={pairs}", f"--plot={tmp_path / 'x.png'}"]
    out = table(f"--compare={run_with_data},hf:{folder}", *options)
    assert out.splitlines()[0].split() == ["reciter", "my-llama", "real", "stories"]
    result, own = result_in(results, "llama"), run_with_data / "evaluation.json"
    theirs = json.loads(own.read_text(encoding="utf-8"))["loss"]
    assert (result["loss"]["stories"], result["loss"]["bytes"]) == (2, theirs["bytes"])
    assert result["loss"]["key"] == theirs["key"]  # the same text
    assert result["memorization"]["validation_stories"]["copied_words"]["median"] > 0
    assert result["run"]["step"] is None
    assert contents(folder) == before  # nothing of ours in the model's folder
    noted = capsys.readouterr().err
    assert "out/hf/my-llama-" in noted.replace("\n  ", "")
    table(f"--compare={run_with_data},hf:{folder}", *options)
    assert "from evaluation.json" in capsys.readouterr().err


def test_pairs_are_decided_as_transformers_would(published, results, tmp_path):
    """Also by a tokenizer that puts a space before each text."""
    prompt, sides = "The cat sat", (" on a mat.", " in the rain.")
    rows = [dict(zip(("right", "wrong"), s, strict=True)) for s in (sides, sides[::-1])]
    about = {"group": "g", "kind": "k", "beginning": prompt}
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(about | row) for row in rows), encoding="utf-8")
    table(f"--out_dir=hf:{published['llama']}", "--what=pairs", f"--pairs={pairs}")
    model, tokenizer = plain(published["llama"])
    context, bits = len(tokenizer.encode(prompt)), []
    for side in sides:
        ids = tokenizer.encode(prompt + side)
        with torch.no_grad():
            bits.append((nats_of(model, ids, 64) - nats_of(model, ids[:context], 64)) / len(side))
    expected = [bits[0] < bits[1], bits[1] < bits[0]]
    assert result_in(results, "llama")["pairs"]["all"]["proportion"] == sum(expected) / 2


def test_without_stories_of_its_own_a_model_needs_a_dataset(published, results):
    with pytest.raises(UserError, match=r"comes without stories: name a dataset"):
        table(f"--out_dir=hf:{published['gpt2']}")


# Stories ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("prompt", ["", "The cat sat"])
def test_greedy_text_is_that_of_transformers(published, kind, prompt):
    model, tokenizer, *_ = causal_lm.load(f"hf:{published[kind]}")
    ready = prepare_for_generation(model, CPU)
    pieces = generate_stories(ready, tokenizer, CPU, prompt, 2, 40, Sampling(0.0))
    ours = [story.text for story in collect_stories(pieces, prompt, 2)]
    plain_model, plain_tokenizer = plain(published[kind])
    first = plain_tokenizer.bos_token_id
    first = plain_tokenizer.eos_token_id if first is None else first
    ids = [first, *plain_tokenizer.encode(prompt, add_special_tokens=False)]
    x = torch.tensor([ids])
    new = plain_model.generate(
        x, attention_mask=torch.ones_like(x), max_new_tokens=40, do_sample=False, pad_token_id=0
    )[0].tolist()
    decode = plain_tokenizer.decode
    text = decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    context = decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours == [prompt + text[len(context) :]] * 2
    assert len(text) > 20


def test_a_story_may_be_longer_than_the_window(published):
    model = causal_lm.load(f"hf:{published['llama']}").model
    ids = list(model.generate(torch.tensor([[1, 5, 9]]), 80, None))
    assert len(ids) == 80
    assert type(model).generate is GPT.generate


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("text", STORIES)
def test_streamed_pieces_join_to_the_text(published, kind, text):
    tokenizer = causal_lm.load(f"hf:{published[kind]}").tokenizer
    ids = tokenizer.encode(text)
    step = tokenizer.stream_decoder(ids[:5])
    pieces = [step([id], False) for id in ids[5:]] + [step([], True)]
    assert tokenizer.decode(ids[:5]) + "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


def test_sample_streams_a_published_model(published, capsys):
    machine = ["--device=cpu", "--dtype=float32", "--max_new_tokens=30", "--num_samples=2"]
    texts = []
    for extra in ([], ["--stream=True"]):
        argv = [f"hf:{published['gpt_neo']}", *machine, "--top_k=50", "--start=Once", *extra]
        sample.main(parse(sample.Settings, argv).settings)
        printed = capsys.readouterr()
        texts.append(printed.out)
        assert "model.safetensors of hf:" in " ".join(printed.err.split())
    assert texts[0] == texts[1]
    assert texts[0].count("\nOnce") == 2


def test_checkpoints_are_of_runs(published):
    argv = [f"hf:{published['gpt2']}", "--checkpoint=ckpt.pt"]
    with pytest.raises(UserError, match=r"checkpoint=ckpt\.pt is for runs"):
        sample.main(parse(sample.Settings, argv).settings)


def test_a_model_without_a_cache_of_keys_and_values_generates_the_same():
    config = transformers.MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1)
    torch.manual_seed(0)
    model = transformers.MambaForCausalLM(config).eval()
    adapted = causal_lm.CausalLM(model, causal_lm.Shape(60, 64), 0, 0)
    x = torch.tensor([[3, 1, 4]])
    new = torch.cat(list(adapted.generate(x, 12, None, temperature=0))).tolist()
    ids = x[0].tolist()
    with torch.no_grad():
        for _ in range(12):
            ids.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    assert new == ids[3:]


# Loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "declared", "window"),
    [
        ("hf:roneneldan/TinyStories-33M", "gpt_neo", 2048, 512),
        ("hf:SauravP97/tiny-stories-3M", "gpt_neo", 2048, 512),
        ("hf:EleutherAI/gpt-neo-125m", "gpt_neo", 2048, 2048),
        ("hf:me/tinystories-1k", "gpt_neo", 1024, 1024),  # as we export one
        ("hf:tinystories/some-llama", "llama", 256, 256),
        ("hf:big/TinyStories-llama", "llama", 131_072, 2048),
    ],
)
def test_the_window_is_what_the_model_was_trained_with(name, kind, declared, window):
    config = transformers.AutoConfig.for_model(kind, max_position_embeddings=declared)
    assert causal_lm.context_window(name, config) == window


def test_gpt2s_ids_serve_a_model_without_a_tokenizer(results, tmp_path):
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR names no folder with GPT-2's encoding")
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "bare")
    name = f"hf:{tmp_path / 'bare'}"
    loaded = causal_lm.load(name)
    assert (loaded.tokenizer.kind, loaded.tokenizer.vocab_size) == ("gpt2", 50_257)
    # Data of any vocabulary is measured in the model's own ids and windows.
    from test_evaluate import write_dataset

    table(f"--out_dir={name}", "--what=loss", f"--val_source={write_stories(tmp_path, STORIES)}")
    expected = result_in(results, "bare")["loss"]
    small = train_bpe(STORIES, 300)
    for tokenizer in (loaded.tokenizer, small):
        data = write_dataset(tmp_path / tokenizer.kind, tokenizer, train=STORIES, val=STORIES)
        table(f"--out_dir={name}", "--what=loss", f"--dataset={data}")
        loss = result_in(results, "bare")["loss"]
        for part in ("all_text", "per_story"):
            assert loss[part]["tokens"] == expected[part]["tokens"]
            bits = expected[part]["bits_per_byte"]
            assert loss[part]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def broken(folder, **replaced: str | None) -> None:
    """Replace files of a folder by a text, or remove them."""
    for name, text in replaced.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text, encoding="utf-8")


CODE = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config__json": None}, "has no config.json"),
        ({"config__json": "{"}, r"cannot be loaded by transformers .* not a valid JSON"),
        ({"config__json": '{"model_type": "t5"}'}, "is not a causal language model"),
        ({"config__json": json.dumps(CODE)}, "needs code of its own, which is never run"),
        ({"config__json": '{"model_type": "mine"}'}, "does not recognize this architecture"),
        ({"model__safetensors": "x"}, "cannot be loaded"),
        ({"tokenizer__json": None, "tokenizer_config__json": None}, "has no tokenizer"),
        (
            {"model__safetensors": None, "pytorch_model__bin": "x"},
            "no weights in safetensors, and no others are read",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(published, tmp_path, files, message):
    folder = shutil.copytree(published["gpt_neo"], tmp_path / "model")
    broken(folder, **files)
    with pytest.raises(UserError, match=message) as refused:
        causal_lm.load(f"hf:{folder}")
    assert "\n" not in str(refused.value)


def test_a_base_model_without_its_head_is_refused(published, tmp_path):
    folder = shutil.copytree(published["llama"], tmp_path / "model")
    model, _ = plain(folder)
    model.model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"not a causal language model: it has no lm_head\.weight"):
        causal_lm.load(f"hf:{folder}")


def test_an_encoder_is_refused(published, tmp_path):
    """transformers would load it as a causal model that reads what it predicts."""
    folder = shutil.copytree(published["gpt2"], tmp_path / "model")
    config = transformers.BertConfig(**SMALL, vocab_size=300, intermediate_size=32)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    with pytest.raises(UserError, match="not a causal language model: it reads the tokens"):
        causal_lm.load(f"hf:{folder}")


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(published, tmp_path):
    folder = shutil.copytree(published["gpt2"], tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(published["llama"] / name, folder)
    with pytest.raises(UserError, match=r"a tokenizer of \d+ ids for a model of \d+"):
        causal_lm.load(f"hf:{folder}")


@pytest.mark.parametrize("name", ["hf:no/such/folder", "hf:./nothing", "hf:", "hf:a b"])
def test_what_is_neither_a_folder_nor_a_name_is_named(name):
    with pytest.raises(UserError, match="there is no such folder, and it is no name on the hub"):
        causal_lm.load(name)


# From the hub -------------------------------------------------------------------------------

NAME = "someone/TinyStories-2L"
SAMPLE = ("--device=cpu", "--num_samples=1", "--max_new_tokens=5")


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A hub with a model; commands of this test use it, with an empty cache."""
    files = contents(published["gpt_neo"])
    pickled = {"config.json": files["config.json"], "pytorch_model.bin": b"x"}
    with serving({NAME: files | {"onnx/model.onnx": b"x"}, "someone/pickled": pickled}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def test_a_model_of_the_hub_is_downloaded(hub, published, capsys):
    downloaded = forked("sample.py", f"hf:{NAME}@main", *SAMPLE).stdout
    sample.main(parse(sample.Settings, [f"hf:{published['gpt_neo']}", *SAMPLE]).settings)
    assert capsys.readouterr().out == downloaded
    files = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert "model.onnx" not in files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/nothing", "not found; if it is private, run `hf auth login`"),
        (f"{NAME}@v9", "no revision 'v9'; give a branch, tag or commit"),
        ("someone/pickled", "no weights in safetensors, and no others are read"),
        ("a--b", "not a name on the hub, which is OWNER/NAME"),
    ],
)
def test_a_name_that_the_hub_does_not_have(hub, name, message):
    assert message in complaint("sample.py", f"hf:{name}", run=forked)


def test_a_model_behind_a_login(hub):
    hub.gated = True
    line = complaint("evaluate.py", f"--compare=hf:{NAME}", run=forked)
    assert "access requires a login; run `hf auth login`" in line


def test_a_hub_that_cannot_be_reached(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    line = complaint("sample.py", f"hf:{NAME}", run=forked)
    assert "from http://127.0.0.1:9" in line
    assert "check the network and run again, or name a folder: hf:FOLDER" in line


def test_runs_of_ours_do_without_transformers(published, reciter, monkeypatch, capsys):
    """And where it is not installed, one line says how to install it."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    sample.main(parse(sample.Settings, [f"--out_dir={reciter(b'Hi.')}", *SAMPLE]).settings)
    assert capsys.readouterr().out == "Hi.\n"
    with pytest.raises(UserError, match="transformers: pip install transformers"):
        causal_lm.load(f"hf:{published['gpt2']}")
    assert "transformers" not in vars(causal_lm)  # imported in a function, so not for --help
