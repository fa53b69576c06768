"""GGUF, the format of llama.cpp, which Ollama and LM Studio run.

One file has everything: the shape as keys, the vocabulary, and the weights under llama.cpp's names
(github.com/ggml-org/ggml/blob/master/docs/gguf.md; the package gguf knows keys and names). Our
arch="gpt2" is its gpt2, except that its GELU is the approximation by tanh; arch="qwen3" is its
qwen3.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, TokenType
from torch import Tensor

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.files import short_path
from tinystories.formats.byte_level import merges, spell
from tinystories.formats.trained import NotExportable, TrainedModel
from tinystories.tokenizer import END_OF_TEXT, STORY_PATTERN, Tokenizer

# The patterns by which vocabularies cut text, and what llama.cpp calls one with the same tokens.
OLDER_PATTERN = (  # of vocabularies that earlier versions of this project trained
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
GPT2_PATTERNS = (  # OpenAI's, and as versions of tiktoken write it
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
)
PATTERNS = dict.fromkeys(GPT2_PATTERNS, "gpt-2") | dict.fromkeys(
    (STORY_PATTERN, OLDER_PATTERN), "gpt-4o"
)
EXPORT = "{name}.gguf"  # the file that `write` makes
# Of `verify`. Measured on a trained storybook_1m: 0, 0.008 and 0.2; on random weights, far larger
# than trained ones: 0, 0.05 and 1.3.
TOLERANCE = {"f32": 1e-4, "f16": 0.25, "q8_0": 4.0}
FILE_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK_OF_Q8_0 = 32  # numbers with a common scale; a row has to be whole blocks
# llama.cpp's names of our modules; where there are several, ours has them one below the other.
NAMES = {"wte": ["token_embd"], "wpe": ["position_embd"], "ln_f": ["output_norm"]}
NAMES_IN_BLOCKS = {
    "gpt2": {"attn.c_attn": ["attn_qkv"], "mlp.c_fc": ["ffn_up"]},
    "qwen3": {
        "attn.c_attn": ["attn_q", "attn_k", "attn_v"],
        "attn.q_norm": ["attn_q_norm"],
        "attn.k_norm": ["attn_k_norm"],
        "mlp.c_fc": ["ffn_gate", "ffn_up"],
    },
}
BOTH = {
    "ln_1": ["attn_norm"],
    "attn.c_proj": ["attn_output"],
    "ln_2": ["ffn_norm"],
    "mlp.c_proj": ["ffn_down"],
}


def check_exportable(config: GPTConfig) -> None:
    """Raises UserError for a model that llama.cpp cannot compute."""
    if config.attention_window:
        raise NotExportable(
            f"this model has attention_window={config.attention_window}, which llama.cpp's "
            f"{config.arch} would ignore: it would generate other text"
        )


def write(path: Path, final: Path, trained: TrainedModel) -> str:
    """Write the file.

    Args:
        path: the file to make.
        final: where it will be.

    Returns:
        how to use it.

    Raises:
        NotExportable: llama.cpp has nothing like the vocabulary.
        UserError: it cannot be written.
    """
    config = trained.model.config
    writer = GGUFWriter(path, config.arch)
    matrix_type, file_type = FILE_TYPES[trained.gguf_dtype]
    writer.add_type("model")
    writer.add_name(trained.name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_shape(writer, config)
    remark = add_vocabulary(writer, trained.tokenizer)
    for name, weight in their_weights(trained.model).items():
        kind = tensor_type(name, weight, matrix_type)
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    except OSError as error:
        raise UserError(f"cannot write {short_path(final)}: {error.strerror or error}") from None
    return f'llama-completion -m {short_path(final)} -p "Once upon a time"{remark}'


def add_shape(writer: GGUFWriter, config: GPTConfig) -> None:
    """The keys of the model's shape."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    if config.arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(config.n_head)
        writer.add_key_length(config.head_width)
        writer.add_value_length(config.head_width)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(config.rope_theta)


def add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer) -> str:
    """The keys of the vocabulary.

    Returns:
        a remark about what llama.cpp encodes otherwise; empty if there is nothing.
    """
    if tokenizer.end_of_text is None:
        raise NotExportable(
            "a vocabulary of characters has no end of text, without which llama.cpp cannot begin"
        )
    if tokenizer.pattern is None or tokenizer.pattern not in PATTERNS:
        raise NotExportable(
            "this vocabulary cuts text into words by a pattern that llama.cpp may not have: "
            f"{tokenizer.pattern}"
        )
    end = tokenizer.end_of_text
    pairs = [f"{spell(a)} {spell(b)}" for a, b in merges(tokenizer.tokens)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PATTERNS[tokenizer.pattern])
    writer.add_token_list([*map(spell, tokenizer.tokens), END_OF_TEXT])
    writer.add_token_types([TokenType.NORMAL] * end + [TokenType.CONTROL])
    # Bytes alone have no pairs, but llama.cpp wants some: one that no text has.
    writer.add_token_merges(pairs or [f"{END_OF_TEXT} {END_OF_TEXT}"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)
    if tokenizer.pattern != OLDER_PATTERN:
        return ""
    return (
        "\n  Its vocabulary is of an earlier version of this project; llama.cpp encodes"
        "\n  about one story of a hundred otherwise (docs/export.md)."
    )


def their_names(name: str, arch: str) -> list[str]:
    """llama.cpp's names of one of our weights."""
    module, _, kind = name.rpartition(".")
    if module in NAMES:
        return [f"{theirs}.{kind}" for theirs in NAMES[module]]
    _, layer, module = module.split(".", 2)
    names = (BOTH | NAMES_IN_BLOCKS[arch])[module]
    return [f"blk.{layer}.{theirs}.{kind}" for theirs in names]


def our_shapes(config: GPTConfig) -> dict[str, torch.Size]:
    """Names and shapes of our weights; all biases are among them where llama.cpp has biases."""
    with torch.device("meta"):
        model = GPT(dataclasses.replace(config, bias=config.arch == "gpt2"))
    return {name: weight.shape for name, weight in model.state_dict().items()}


def their_weights(model: GPT) -> dict[str, Tensor]:
    """The weights under llama.cpp's names, in float32; biases that the model has not are zeros."""
    weights, theirs = model.state_dict(), {}
    for name, shape in our_shapes(model.config).items():
        weight = weights[name].float() if name in weights else torch.zeros(shape)
        if name == "wte.weight":
            weight = weight[: model.config.vocab_size]
        names = their_names(name, model.config.arch)
        theirs |= dict(zip(names, weight.chunk(len(names)), strict=True))
    return theirs


def tensor_type(
    name: str, weight: Tensor, matrix_type: GGMLQuantizationType
) -> GGMLQuantizationType:
    """How a weight is stored: ggml adds vectors and positions in float32 only."""
    if weight.dim() < 2 or name == "position_embd.weight":
        return GGMLQuantizationType.F32
    if matrix_type == GGMLQuantizationType.Q8_0 and weight.shape[1] % BLOCK_OF_Q8_0:
        return GGMLQuantizationType.F16
    return matrix_type


def read(path: Path, gelu: Literal["erf", "tanh"] = "tanh") -> GPT:
    """The model of a file that `write` made; its weights are rounded as they are in the file.

    Args:
        gelu: of arch="gpt2"; llama.cpp computes the approximation by tanh.
    """
    reader = GGUFReader(path)
    fields = {name.partition(".")[2]: field.contents() for name, field in reader.fields.items()}
    arch = fields["architecture"]
    config = GPTConfig(
        vocab_size=fields["vocab_size"],
        block_size=fields["context_length"],
        n_layer=fields["block_count"],
        n_head=fields["attention.head_count"],
        n_embd=fields["embedding_length"],
        bias=arch == "gpt2",
        arch=arch,
        head_dim=fields.get("attention.key_length"),
        rope_theta=fields.get("rope.freq_base", GPTConfig.rope_theta),
        gelu=gelu,
    )
    theirs = {
        tensor.name: torch.from_numpy(
            np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        )
        for tensor in reader.tensors
    }
    model = GPT(config).eval()
    weights = {}
    for name in model.state_dict():
        weights[name] = torch.cat([theirs[their] for their in their_names(name, arch)])
    padding = torch.zeros(config.padded_vocab_size - config.vocab_size, config.n_embd)
    weights["wte.weight"] = torch.cat([weights["wte.weight"], padding])
    model.load_state_dict(weights)
    return model


def verify(path: Path, trained: TrainedModel) -> tuple[float, float]:
    """By how much the logits of the exported model differ at most, and how much is allowed."""
    return trained.difference(read(path, trained.model.config.gelu)), TOLERANCE[trained.gguf_dtype]
