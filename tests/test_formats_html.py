"""The page with a model in it: node runs the scripts of the page, a browser the whole page.

Without node or Chromium the tests that need them are skipped, and say so.
"""

import base64
import hashlib
import json
import math
import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
import torch
import wasmtime
from conftest import ROOT, contents, forked
from story_files import STORIES, many

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.formats import html
from tinystories.formats.trained import TrainedModel
from tinystories.tokenizer import STORY_PATTERN, CharTokenizer, Tokenizer, train_bpe

pytestmark = pytest.mark.slow
SOURCES = ROOT / "tinystories" / "formats" / "page"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node, which runs the page, is not installed")
SHAPES = {
    "gpt2": {"bias": True},
    "gpt2, local": {"attention_window": 7, "gelu": "tanh"},
    "qwen3": {"arch": "qwen3", "head_dim": 6, "rope_theta": 1000.0, "story_mask": True},
    "qwen3, local": {"arch": "qwen3", "attention_window": 5},
}
PATTERNS = {
    "ours": STORY_PATTERN,
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "earlier": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    odd = "Élan, „Größe“, 😀 – 一二三"
    more = "The quick brown foxes jumped over lazy sleeping dogs, wonderful strawberry elephants."
    tokenizer = train_bpe([*STORIES, *many(50), odd, more], 400)
    assert tokenizer.end_of_text == 399  # as the tests below have it
    return tokenizer


def random_model(vocab_size: int, **shape) -> GPT:
    """A model of two layers whose logits differ widely; its widths are no multiples of 4 or 16."""
    torch.manual_seed(len(str(shape)))
    model = GPT(GPTConfig(vocab_size, block_size=32, n_layer=2, n_head=3, n_embd=30, **shape))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight", "norm.weight"))
            parameter.normal_(1.0 if norm else 0.0, 0.2)
    return model.eval()


def make_page(path: Path, model: GPT, tokenizer: Tokenizer, **settings) -> Path:
    html.write(path, path, TrainedModel(path.parent, model, tokenizer, {}, settings))
    return path


@pytest.fixture(scope="module")
def pages(tokenizer, tmp_path_factory):
    """A page with a random model, by the name of its shape."""
    made = {}

    def page(shape: str) -> Path:
        if shape not in made:
            model = random_model(tokenizer.vocab_size, **SHAPES[shape])
            made[shape] = make_page(tmp_path_factory.mktemp("page") / "p.html", model, tokenizer)
        return made[shape]

    return page


def model_in(page: Path) -> GPT:
    return html.unpack(*html.read(page.read_text(encoding="utf-8")))


def run_page(page: Path, *tasks: dict) -> list:
    """What the scripts of a page compute; tests/run_page.js says what can be asked."""
    command = [str(NODE), str(ROOT / "tests" / "run_page.js"), str(page)]
    done = subprocess.run(command, input=json.dumps(tasks), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The model ----------------------------------------------------------------------------------


@needs_node
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_text_is_that_of_torch(pages, tokenizer, shape):
    """Ten prompts, 100 tokens each: the context window is filled several times."""
    model, end = model_in(pages(shape)), tokenizer.end_of_text
    prompts = torch.randint(end, (10, 5), generator=torch.Generator().manual_seed(0))
    prompts[:, 0] = end
    stop = model.config.story_mask  # with it, what follows an end of text does not see the rest
    eot_id = end if stop else None
    new = torch.stack(list(model.generate(prompts, 100, eot_id, temperature=0)), dim=1)
    expected = [row[: (*row, end).index(end) + 1] if stop else row for row in new.tolist()]
    assert sum(map(len, expected)) > 500
    tasks = ({"do": "generate", "ids": ids, "stop": stop} for ids in prompts.tolist())
    assert [made["ids"] for made in run_page(pages(shape), *tasks)] == expected


@needs_node
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_torch_with_and_without_simd(pages, shape):
    ids = torch.randint(399, (32,), generator=torch.Generator().manual_seed(1))
    task = {"do": "logits", "ids": ids.tolist()}
    simd, fast, plain = run_page(pages(shape), {"do": "simd"}, task, task | {"plain": True})
    assert simd
    assert fast == plain  # to the last bit
    with torch.inference_mode():
        expected = model_in(pages(shape))(ids[None])[0, -1]
    assert torch.allclose(torch.tensor(fast), expected, atol=2e-4), expected.std()


@needs_node
def test_of_a_long_prompt_the_last_half_window_is_read(pages):
    model, prompt = model_in(pages("gpt2")), list(range(100, 145))
    expected = [id.item() for id in model.generate(torch.tensor([prompt]), 40, temperature=0)]
    task = {"do": "generate", "ids": prompt, "stop": False, "length": 40}
    assert run_page(pages("gpt2"), task)[0]["ids"] == expected


@needs_node
def test_probabilities_are_the_model_s_own_at_any_temperature(pages):
    page, prompt = pages("qwen3, local"), [399, 20, 30, 40]
    sampling = {"temperature": 1.3, "topP": 0.9, "seed": 7, "length": 20, "stop": False}
    tasks = [{"do": "generate", "ids": prompt, **sampling}, {"do": "read", "ids": prompt}]
    made, read = run_page(page, *tasks)
    ids = torch.tensor([*prompt, *made["ids"]])
    with torch.inference_mode():
        probs = model_in(page)(ids[None, :-1])[0].softmax(-1)
    expected = probs.gather(1, ids[1:, None])[:, 0]
    assert torch.allclose(torch.tensor([*read, *made["probabilities"]]), expected, atol=1e-4)


@needs_node
def test_sampling_takes_the_nucleus_at_its_probabilities(pages):
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0, 1.5, -9.0])
    task = {"do": "sample", "logits": logits.tolist(), "count": 4000}
    tasks = [task | {"temperature": 2.0, "topP": p, "seed": s} for p, s in ((0.8, 1), (1, 1))]
    nucleus, everything = (torch.tensor(ids).bincount(minlength=6) for ids in run_page(
        pages("gpt2"), *tasks
    ))  # fmt: skip
    probs = (logits / 2).softmax(0)
    kept = torch.where(logits > 0.5, probs, 0)  # 0.35 + 0.27 + 0.21 reach 0.8
    for counts, expected in ((nucleus, kept / kept.sum()), (everything, probs)):
        deviation = (4000 * expected * (1 - expected)).sqrt()
        assert ((counts - 4000 * expected).abs() <= 4 * deviation).all()


@needs_node
def test_the_seed_decides_what_is_sampled(pages):
    task = {"do": "generate", "ids": [399, 20], "temperature": 1, "stop": False}
    one, same, other = run_page(pages("gpt2"), *(task | {"seed": seed} for seed in (3, 3, 4)))
    assert one == same
    assert one != other


@needs_node
def test_words_of_any_script_are_whole(pages):
    within = [["क", "ि"], ["कि", "ता"], ["e", "\u0301"], ["it", "'s"]]
    between = [["cafe\u0301", " is"], ["a", "."], [".", "a"]]
    found = run_page(pages("gpt2"), {"do": "words", "pairs": within + between})[0]
    assert found == [False] * len(within) + [True] * len(between)


@needs_node
def test_alternatives_are_the_likeliest_words(pages, tokenizer):
    page, prompt = pages("gpt2"), [399, *tokenizer.encode("Once a fox went up")]
    found = run_page(page, {"do": "alternatives", "ids": prompt, "count": 4})[0]
    model = model_in(page)
    with torch.inference_mode():
        first = model(torch.tensor([prompt[:4]]))[0, -1].softmax(-1)
        assert {word["ids"][0] for word in found} == set(first.topk(8).indices.tolist())
        for word in found:
            ids = torch.tensor([*prompt[:4], *word["ids"]])
            probs = model(ids[None])[0].softmax(-1)
            steps = probs[3:-1].gather(1, ids[4:, None])
            assert math.isclose(word["probability"], steps.prod().item(), rel_tol=1e-3)
            assert word["text"] == tokenizer.decode(word["ids"])
            assert ids[5:].tolist() == probs[4:-1].argmax(-1).tolist()  # goes on greedily
    assert found == sorted(found, key=lambda word: -word["probability"])


# The tokenizer ------------------------------------------------------------------------------


def strange_texts(count: int) -> list[str]:
    """Texts of letters, digits and white space of many scripts, and of whatever Unicode has."""
    rng = random.Random(0)
    usual = "  \n\r\t'’\"sdmtlveroLVE19.,!?-–“„éß漢字ʼ\u0301\u0660²Ⅷ😀\u200d\ud83d\udc66"
    spaces = "\u0085\u00a0\u1680\u2003\u2028\u2029\u202f\u3000\ufeff\u200b\u180e\v\f\x1c"
    assigned = [c for c in map(chr, range(0x110000)) if unicodedata.category(c) != "Cn"]

    def text() -> str:
        letters = rng.choices((usual, usual + spaces, assigned), (4, 4, 1))[0]
        return "".join(rng.choices(letters, k=rng.randrange(1, 40)))

    return [text() for _ in range(count)]


@needs_node
@pytest.mark.parametrize("name", PATTERNS)
def test_encoding_is_that_of_tiktoken(tokenizer, tmp_path, name):
    same = Tokenizer("bpe", PATTERNS[name], tokenizer.tokens)
    page = make_page(tmp_path / "p.html", random_model(same.vocab_size), same)
    texts = ["", "   ", *STORIES, *strange_texts(2000)]
    rng = random.Random(1)
    rows = [[rng.randrange(same.vocab_size) for _ in range(20)] for _ in range(500)]
    ids, decoded = run_page(page, {"do": "encode", "texts": texts}, {"do": "decode", "rows": rows})
    for text, found in zip(texts, ids, strict=True):
        assert found == same.encode(text), repr(text)
    assert decoded == [same.decode(row) for row in rows]


@needs_node
def test_encoding_of_real_stories(pages, tokenizer, tinystories):
    text = (tinystories / "valid.txt").read_text(encoding="utf-8")
    stories = text.split("<|endoftext|>")[:300]
    assert run_page(pages("gpt2"), {"do": "encode", "texts": stories})[0] == [
        tokenizer.encode(story) for story in stories
    ]


@needs_node
def test_a_vocabulary_of_characters(tmp_path):
    tokenizer = CharTokenizer("\n abcé😀")
    page = make_page(tmp_path / "p.html", random_model(tokenizer.vocab_size), tokenizer)
    task = {"do": "encode", "texts": ["bad", "a 😀é"]}
    assert run_page(page, task)[0] == [None, tokenizer.encode("a 😀é")]


@pytest.mark.parametrize("pattern", [r"\w+", r"(?i:a)|\s", r"(?:a|b)++", "a++", ".", r"\d", "^a"])
def test_a_pattern_that_javascript_reads_in_another_way_is_refused(pattern):
    with pytest.raises(UserError, match="no known equal in JavaScript"):
        html.javascript_pattern(pattern)


# The page -----------------------------------------------------------------------------------


def test_export_writes_the_same_page_twice(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "fox")
    done = forked("export.py", "--to=html", folder)
    assert "fox.html, read again: logits differ by 0.0" in " ".join(done.stdout.split())
    before = contents(folder)
    forked("export.py", "--to=html", folder, "--overwrite")
    assert contents(folder) == before
    text = (folder / "export" / "fox.html").read_text(encoding="utf-8")
    row = (folder / "log.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")
    assert f"trained on small; {float(row[11]):.3f} bits per byte" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_page_holds_all_that_it_is_made_of(pages, tokenizer):
    text = pages("gpt2").read_text(encoding="utf-8")
    page, weights = html.read(text)
    assert html.render(page, weights) == text
    assert [base64.b64decode(token) for token in page["tokenizer"]["tokens"]] == [*tokenizer.tokens]
    assert page["tensors"]["wte.weight"] == [400, 30]  # without the padding


def test_docs_story_is_what_the_exporter_makes_of_its_weights():
    path = ROOT / "docs" / "story.html"
    if not path.is_file():
        pytest.skip("there is no docs/story.html")
    text = path.read_text(encoding="utf-8")
    assert html.render(*html.read(text)) == text


def test_names_cannot_break_the_page(tokenizer, tmp_path):
    folder = tmp_path / "a <b> &amp; <script>"
    name = "</script><!--<script>"
    folder.mkdir(parents=True)
    model = random_model(tokenizer.vocab_size)
    path = make_page(folder / "p.html", model, tokenizer, dataset=name)
    text = path.read_text(encoding="utf-8")
    assert html.read(text)[0]["name"] == folder.name
    assert text.count("</script>") == pages_scripts(text)


def test_weights_are_rounded_by_half_a_step_at_most():
    matrix = torch.randn(7, 30, generator=torch.Generator().manual_seed(2))
    matrix[3] = 0
    integers, scales = (torch.tensor(part) for part in html.quantize(matrix))
    error = (matrix - integers * scales[:, None]).abs()
    assert (error <= 0.5001 * scales[:, None]).all()
    assert integers.abs().amax(dim=1).tolist() == [127, 127, 127, 0, 127, 127, 127]


def test_verify_finds_another_model_in_the_page(pages, tokenizer):
    for shape, same in (("gpt2", True), ("gpt2, local", False)):
        model = random_model(tokenizer.vocab_size, **SHAPES["gpt2"])
        trained = TrainedModel(pages(shape).parent, model, tokenizer, {}, {})
        difference, allowed = html.verify(pages(shape), trained)
        assert (difference <= allowed) == same


def kernel() -> tuple[str, bytes]:
    """The checksum of the kernel's source, and its assembled bytes, both from kernel.js."""
    text = (SOURCES / "kernel.js").read_text(encoding="utf-8")
    source, assembled = re.findall(r'"([0-9A-Za-z+/=]{64,})"', text)
    return source, base64.b64decode(assembled)


def test_the_kernel_was_assembled_from_its_source():
    assert hashlib.sha256((SOURCES / "kernel.wat").read_bytes()).hexdigest() == kernel()[0]


def test_the_kernel_assembles_to_the_same_bytes():
    made = bytes(wasmtime.wat2wasm((SOURCES / "kernel.wat").read_text(encoding="utf-8")))
    code, names = made[: len(kernel()[1])], made[len(kernel()[1]) :]
    assert code == kernel()[1]
    assert names[0] == 0 and b"\x04name" in names[:8]  # a custom section, for debuggers


def pages_scripts(text: str) -> int:
    return len(re.findall(r"^<script", text, flags=re.MULTILINE))


def test_the_loss_of_averaged_weights_is_theirs(tokenizer, tmp_path):
    rows = "step,val_bits_per_byte,ema_val_bits_per_byte\n5,1.5,1.4\n10,1.3,1.2\n"
    (tmp_path / "log.csv").write_text(rows)
    gpt = GPT(GPTConfig(257, 16, n_layer=1, n_head=1, n_embd=8))
    for state, bits in (({"step": 10}, 1.3), ({"step": 10, "average": True}, 1.2)):
        trained = TrainedModel(tmp_path, gpt, tokenizer, state, {})
        assert html.bits_per_byte(trained) == bits
