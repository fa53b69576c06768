"""What transformers calls our models: their types, settings and parameters.

model_type   is our
gpt2         arch="gpt2"
gpt_neo      arch="gpt2" whose odd layers have an attention window
qwen3        arch="qwen3"
"""

import re
from pathlib import Path

import torch

from configurator import UserError, check
from model import GPT, GPTConfig

GELUS = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
ACTIVATIONS = {"erf": "gelu", "tanh": "gelu_new"}
CLASSES = {"gpt2": "GPT2LMHeadModel", "gpt_neo": "GPTNeoForCausalLM", "qwen3": "Qwen3ForCausalLM"}
PREFIXES = {"gpt2": "transformer.", "gpt_neo": "transformer.", "qwen3": "model."}  # of all weights
# The names of the settings that are numbers here and there.
SETTINGS = {
    "gpt2": {
        "block_size": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
    },
    "gpt_neo": {
        "block_size": "max_position_embeddings",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "n_embd": "hidden_size",
    },
    "qwen3": {
        "block_size": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_embd": "hidden_size",
    },
}
# Modules that have other names there; several of theirs lie in one of ours, one below the other.
MODULES = {
    "gpt2": {},
    "gpt_neo": {
        "attn.c_attn": [f"attn.attention.{name}_proj" for name in "qkv"],
        "attn.c_proj": ["attn.attention.out_proj"],
    },
    "qwen3": {
        "wte": ["embed_tokens"],
        "ln_1": ["input_layernorm"],
        "attn.c_attn": [f"self_attn.{name}_proj" for name in "qkv"],
        "attn.c_proj": ["self_attn.o_proj"],
        "attn.q_norm": ["self_attn.q_norm"],
        "attn.k_norm": ["self_attn.k_norm"],
        "ln_2": ["post_attention_layernorm"],
        "mlp.c_fc": ["mlp.gate_proj", "mlp.up_proj"],
        "mlp.c_proj": ["mlp.down_proj"],
        "ln_f": ["norm"],
    },
}


# config.json --------------------------------------------------------------------------------


def config_there(config: GPTConfig, first_id: int, end_of_text: int | None) -> dict:
    """The content of config.json."""
    kind = model_type(config)
    theirs = {name: getattr(config, ours) for ours, name in SETTINGS[kind].items()}
    theirs |= {
        "architectures": [CLASSES[kind]],
        "bos_token_id": first_id,
        "dtype": "float32",
        "eos_token_id": end_of_text,
        "model_type": kind,
        "pad_token_id": end_of_text,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",  # dtype, for transformers 4
        "vocab_size": config.vocab_size,
    }
    windowed = [bool(config.attention_window and layer % 2) for layer in range(config.n_layer)]
    if kind == "qwen3":
        rope_theta = config.rope_theta
        theirs |= {
            "attention_bias": False,
            "attention_dropout": config.dropout,
            "head_dim": config.head_width,
            "hidden_act": "silu",
            "intermediate_size": config.mlp_width,
            "layer_types": [("full", "sliding")[local] + "_attention" for local in windowed],
            "num_key_value_heads": config.n_head,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": rope_theta, "rope_type": "default"},
            "rope_theta": rope_theta,  # for transformers 4
            "sliding_window": config.attention_window,
            "use_sliding_window": config.attention_window is not None,
        }
        return dict(sorted(theirs.items()))
    theirs |= {"activation_function": ACTIVATIONS[config.gelu], "layer_norm_epsilon": 1e-5}
    if kind == "gpt2":
        theirs |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout)
    else:
        dropouts = ("attention_dropout", "embed_dropout", "resid_dropout")
        theirs |= dict.fromkeys(dropouts, config.dropout)
        types = [[["global", "local"], config.n_layer // 2], [["global"], config.n_layer % 2]]
        theirs |= {"attention_types": [row for row in types if row[1]]}
        theirs |= {"window_size": config.attention_window}
    return dict(sorted(theirs.items()))


def config_here(theirs: dict, source: Path) -> GPTConfig:
    """Our shape of a model of theirs; raises UserError for settings that ours cannot have.

    Args:
        theirs: the content of config.json, which is the file `source`.
    """
    kind = theirs.get("model_type")
    if kind not in CLASSES:
        raise UserError(f"{source}: model_type={kind}; {', '.join(CLASSES)} can be read")
    names = SETTINGS[kind] | {"vocab_size": "vocab_size"}
    if missing := [name for name in names.values() if name not in theirs]:
        raise UserError(f"{source} has no {missing[0]}")
    ours = {name: theirs[there] for name, there in names.items()}
    ours = check(GPTConfig, ours, f"{source}: ") | {"arch": "gpt2"}
    if kind == "qwen3":
        rope = theirs.get("rope_parameters") or theirs
        ours |= {"arch": "qwen3", "rope_theta": rope.get("rope_theta", 10_000.0)}
        width = theirs.get("head_dim", 128)
        ours["head_dim"] = None if width * ours["n_head"] == ours["n_embd"] else width
    else:
        ours["gelu"] = GELUS.get(str(theirs.get("activation_function", "gelu_new")), "erf")
    ours["attention_window"] = attention_window(theirs, ours["n_layer"], ours["block_size"], source)
    ours = check(GPTConfig, ours, f"{source}: ")
    try:
        config = GPTConfig(**ours)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    for name, allowed in only_values(config, kind).items():
        if name in theirs and theirs[name] not in allowed:
            wanted = " or ".join(str(value) for value in allowed if value is not None)
            raise UserError(f"{source}: {name}={theirs[name]}; a model here has {wanted or 'none'}")
    return config


def only_values(config: GPTConfig, kind: str) -> dict[str, list]:
    """The settings of theirs that ours has no choice of, with the values that it can hold."""
    if kind == "qwen3":
        rope = {"rope_type": "default", "rope_theta": config.rope_theta}
        return {
            "tie_word_embeddings": [True],
            "num_key_value_heads": [config.n_head, None],
            "intermediate_size": [config.mlp_width],
            "hidden_act": ["silu"],
            "rms_norm_eps": [1e-6],
            "attention_bias": [False],
            "rope_scaling": [None, rope, {"rope_type": "default"}],
            "rope_parameters": [None, rope],
            "attn_logit_softcapping": [None],
            "final_logit_softcapping": [None],
            "quantization_config": [None],
        }
    return {
        "tie_word_embeddings": [True],
        "n_inner": [None, config.mlp_width],
        "intermediate_size": [None, config.mlp_width],
        "activation_function": list(GELUS),
        "layer_norm_epsilon": [1e-5],
        "scale_attn_weights": [True],
        "scale_attn_by_inverse_layer_idx": [False],
        "add_cross_attention": [False],
        "quantization_config": [None],
    }


def attention_window(theirs: dict, layers: int, block_size: int, source: Path) -> int | None:
    """The window of every second layer; None where all see everything.

    Raises UserError for windows in other layers.
    """
    if theirs["model_type"] == "gpt2":
        return None
    if theirs["model_type"] == "gpt_neo":
        name, size = "attention_types", theirs.get("window_size", 256)
        types = [kind for group, times in theirs[name] for kind in group * min(times, layers)]
    else:
        name, size = "layer_types", theirs.get("sliding_window")
        size = size if theirs.get("use_sliding_window") else None
        types = theirs.get(name) or ["sliding_attention"]  # without it, the last layers have one
    local = [kind in ("local", "sliding_attention") for kind in types]
    if not any(local) or size is None or size >= block_size:
        return None
    if len(local) != layers or any(one != layer % 2 for layer, one in enumerate(local)):
        raise UserError(f"{source}: {name}: a model here has windows in every second layer")
    return size


# Parameters ---------------------------------------------------------------------------------


def model_type(config: GPTConfig) -> str:
    """What transformers calls such a model."""
    return "gpt_neo" if config.arch == "gpt2" and config.attention_window else config.arch


def names_there(name: str, kind: str) -> list[str]:
    """The tensors of a model of type `kind` that lie in our parameter `name`."""
    module, _, what = name.rpartition(".")
    block = "".join(re.findall(r"^h\.\d+\.", module))
    module = module.removeprefix(block)
    prefix = PREFIXES[kind]
    if kind == "qwen3":
        block = block.replace("h.", "layers.")
    return [f"{prefix}{block}{other}.{what}" for other in MODULES[kind].get(module, [module])]


def is_transposed(name: str, kind: str) -> bool:
    """Whether transformers stores our parameter `name` by columns: its Conv1D of GPT-2."""
    return kind == "gpt2" and name.endswith(".weight") and ".c_" in name


def has_no_place(name: str, kind: str) -> bool:
    """Whether transformers has nothing like our parameter `name`: the biases of GPT-Neo's queries.

    Those of its keys and values neither.
    """
    return kind == "gpt_neo" and name.endswith("c_attn.bias")


def query_scale(config: GPTConfig) -> float:
    """What GPT-Neo's queries are multiplied with here: it does not divide scores by sqrt(D)."""
    return config.head_width**-0.5


def shapes_here(config: GPTConfig) -> dict[str, torch.Size]:
    """The shape of each parameter of our model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in GPT(config).state_dict().items()}
