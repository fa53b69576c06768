"""The recipes of docs/interpret.md, where the libraries that they are about are installed."""

import pytest
import torch

from model import GPT, GPTConfig
from tinystories.activations import attention, replaced
from tinystories.formats import hf
from tinystories.formats.trained import TrainedModel
from tinystories.tokenizer import STORY_PATTERN, Tokenizer

BYTES = Tokenizer("bpe", STORY_PATTERN, [bytes([byte]) for byte in range(256)])
X = torch.tensor([[256, *BYTES.encode("Tom met a cat.")]])


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(257, 32, n_layer=2, n_head=2, n_embd=32)).eval()


@pytest.mark.filterwarnings("ignore")
def test_nnsight_takes_our_model_as_it_is(model):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed")
    wrapped = nnsight.NNsight(model)
    with torch.no_grad(), wrapped.trace(X):
        wrapped.h[1].attn.c_proj.input[..., :16] = 0
        without = wrapped.output.save()
    with replaced(model, 1, "attention", torch.zeros(16), 0), torch.no_grad():
        assert torch.equal(model(X), without)


@pytest.mark.filterwarnings("ignore")
def test_transformer_lens_opens_an_export_and_sees_the_same(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bridges = pytest.importorskip(
        "transformer_lens.model_bridge", reason="transformer-lens is not installed"
    )
    state = {"step": 1}
    hf.write(tmp_path / "hf", tmp_path / "hf", TrainedModel(tmp_path, model, BYTES, state, {}))
    bridge = bridges.TransformerBridge.boot_transformers(str(tmp_path / "hf"))
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(X)
        assert torch.allclose(logits[..., :257], model(X), atol=1e-4)
    for layer, pattern in enumerate(attention(model, X)):
        assert torch.allclose(cache[f"blocks.{layer}.attn.hook_pattern"], pattern, atol=1e-5)
