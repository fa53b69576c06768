"""Folders of Hugging Face's transformers, both ways: config.json, *.safetensors, tokenizer.json.

transformers opens what is written here without code of ours. Weights are read from safetensors
only, never from a pickle.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from configurator import UserError
from model import GPT, GPTConfig
from tinystories.files import atomic_write, read_json, write_json
from tinystories.formats import hf_tokenizer
from tinystories.formats.hf_card import model_card
from tinystories.formats.hf_config import (
    CLASSES,
    PREFIXES,
    config_here,
    config_there,
    has_no_place,
    is_transposed,
    model_type,
    names_there,
    query_scale,
    shapes_here,
)
from tinystories.formats.trained import NotExportable, TrainedModel

PROGRAM = "Hugging Face"
EXPORT = "hf"  # the folder that `write` makes
TOLERANCE = 1e-3  # of `verify`: sums in another order; 1e-6 in small models, 1e-4 in large ones
# Causal masks that older versions stored with the weights.
MASKS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")

# To Hugging Face ----------------------------------------------------------------------------


def check_exportable(config: GPTConfig) -> None:
    """Raises NotExportable for a model that transformers has no class for."""
    if model_type(config) == "gpt_neo" and config.bias:
        raise NotExportable(
            "this model has attention_window and bias: transformers has windows in GPT-Neo, whose "
            "queries have no bias, and none in GPT-2"
        )


def weights_there(model: GPT) -> dict[str, Tensor]:
    """The tensors of model.safetensors; the output head is tied to the embedding and left out."""
    config, kind, weights = model.config, model_type(model.config), {}
    ours = {name: weight.detach().float().cpu() for name, weight in model.state_dict().items()}
    if config.arch == "gpt2":  # it always has biases there
        shapes = shapes_here(dataclasses.replace(config, bias=True))
        ours = {name: torch.zeros(shape) for name, shape in shapes.items()} | ours
    for name, weight in ours.items():
        if has_no_place(name, kind):
            continue
        if name == "wte.weight":
            weight = weight[: config.vocab_size]
        names = names_there(name, kind)
        parts = [part.T if is_transposed(name, kind) else part for part in weight.chunk(len(names))]
        if kind == "gpt_neo" and len(parts) == 3:
            parts[0] = parts[0] * query_scale(config)
        weights |= {there: part.contiguous() for there, part in zip(names, parts, strict=True)}
    return weights


def write(path: Path, final: Path, trained: TrainedModel) -> str:
    """Write a folder that transformers opens; the same bytes every time.

    Args:
        path: the folder to make.
        final: where it will be.

    Returns:
        how to use it.
    """
    config, tokenizer = trained.model.config, trained.tokenizer
    first, end = tokenizer.first_id, tokenizer.end_of_text
    generation = {"bos_token_id": first, "eos_token_id": end, "pad_token_id": end}
    # As sample.py generates; transformers would take only the 50 most probable tokens.
    generation |= {"do_sample": True, "max_length": config.block_size}
    generation |= {"temperature": 0.8, "top_k": 0}
    path.mkdir()
    atomic_write(path / "model.safetensors", save(weights_there(trained.model), {"format": "pt"}))
    write_json(path / "config.json", config_there(config, first, end))
    write_json(path / "generation_config.json", generation)
    write_json(path / "tokenizer.json", hf_tokenizer.to_json(tokenizer))
    write_json(path / "tokenizer_config.json", hf_tokenizer.to_config(tokenizer, config.block_size))
    card = model_card(trained, CLASSES[model_type(config)])
    atomic_write(path / "README.md", card.encode(errors="replace"))
    return "transformers opens it, as its README.md shows; --push=user/name uploads it"


def verify(path: Path, trained: TrainedModel) -> tuple[float, float]:
    """By how much the logits of the exported model differ at most, and how much is allowed.

    It is read by transformers where that is installed, else by `convert`.

    Raises:
        UserError: its tokenizer gives other ids.
    """
    stories = trained.own_stories()
    if importlib.util.find_spec("transformers"):
        model, encode = open_with_transformers(path)
    else:
        model, encode = open_here(path)
    for ids in stories:
        text = trained.tokenizer.decode(ids[1:].numpy())
        if encode(text) != [trained.tokenizer.first_id, *trained.tokenizer.encode(text)]:
            raise UserError("the exported tokenizer gives other ids; nothing was written")
    with torch.inference_mode():
        ours = [trained.model(ids[None]) for ids in stories]
        theirs = [model(ids[None]) for ids in stories]
    pairs = zip(ours, theirs, strict=True)
    differences = [
        (one - getattr(other, "logits", other)).abs().max().item() for one, other in pairs
    ]
    return max(differences), TOLERANCE


def open_here(path: Path) -> tuple[torch.nn.Module, Callable[[str], list[int]]]:
    """An exported model as ours, and how its tokenizer encodes."""
    state = convert(path / "model.safetensors")
    model, tokenizer = GPT(GPTConfig(**state["model_config"])), state["foreign_tokenizer"]
    model.load_state_dict(state["model"])
    return model.eval(), lambda text: [tokenizer.first_id, *tokenizer.encode(text)]


def open_with_transformers(path: Path) -> tuple[torch.nn.Module, Callable[[str], list[int]]]:
    """An exported model, and how its tokenizer encodes.

    Raises:
        UserError: transformers is of a version that cannot open it.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    except Exception as error:  # old versions fail in ways of their own
        text = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise UserError(
            f"the installed transformers cannot open the export ({text}); use 4.57 or newer, or "
            "--verify=False"
        ) from None
    return model.eval(), lambda text: tokenizer.encode(text)


# From Hugging Face --------------------------------------------------------------------------


def find_weights(folder: Path) -> Path | None:
    """The first file of weights in a folder of transformers; None if it is no such folder.

    Raises:
        UserError: it has pickles only.
    """
    if not (folder / "config.json").is_file():
        return None
    names = ("model.safetensors", "model-*.safetensors")
    if found := [path for name in names for path in sorted(folder.glob(name))]:
        return found[0]
    if pickles := sorted(folder.glob("pytorch_model*.bin")):
        raise UserError(
            f"{folder} has its weights only in {pickles[0].name}, a pickle, which can run code; "
            "model.safetensors can be read"
        )
    return None


def convert(path: Path) -> dict:
    """A folder of transformers in the form of `run.load_checkpoint`; the logits are the same.

    Args:
        path: its file of weights, or the first of several.

    Raises:
        UserError: a file is damaged, or the model has what ours has not.
    """
    source = path.parent / "config.json"
    theirs = read_json(source, bool, "copy or download it again")
    try:
        config = config_here(theirs, source)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is not that of a model ({error!r})") from None
    tokenizer = hf_tokenizer.read(path.parent, config.vocab_size)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    weights = read_weights(path, theirs["model_type"])
    if config.arch == "gpt2":
        biases = {name for name in weights if name.endswith(".bias")}
        if any(weights[name].any() for name in biases):
            config = dataclasses.replace(config, bias=True)
        else:  # as in a model without biases that was exported
            weights = {name: weight for name, weight in weights.items() if name not in biases}
    return {
        "model_config": dataclasses.asdict(config),
        "model": weights_here(weights, config, theirs, path),
        "tokenizer": tokenizer.fingerprint,
        "foreign_tokenizer": tokenizer,
        "dataset": None,
    }


def read_weights(path: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of a folder by their full names, in float32; raises UserError for damaged files.

    The output head is compared with the embedding and left out.
    """
    whole = path.name == "model.safetensors"
    files = [path] if whole else sorted(path.parent.glob("model-*.safetensors"))
    weights, prefix = {}, PREFIXES[kind]
    for file in files:
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{file} is damaged or cut short ({error})") from None
        weights |= {prefix + name.removeprefix(prefix): w.float() for name, w in tensors.items()}
    head = weights.pop(f"{prefix}lm_head.weight", None)
    embedding = weights.get(names_there("wte.weight", kind)[0])
    if head is not None and (embedding is None or not torch.equal(head, embedding)):
        raise UserError(f"{path}: its lm_head is not tied to the embedding, as ours is")
    return {name: weight for name, weight in weights.items() if not name.endswith(MASKS)}


def weights_here(theirs: dict, config: GPTConfig, their_config: dict, path: Path) -> dict:
    """Our state dict; raises UserError if the tensors do not fit `config`."""
    kind, rows = their_config["model_type"], their_config["vocab_size"]
    if config.n_layer > len(theirs):  # before such a model is built
        raise UserError(f"{path} has fewer layers than the {config.n_layer} of config.json")
    waiting, ours = dict(theirs), {}
    for name, shape in shapes_here(config).items():
        if has_no_place(name, kind):
            ours[name] = torch.zeros(shape)
            continue
        names = names_there(name, kind)
        length = rows if name == "wte.weight" else shape[0] // len(names)
        wanted, parts = torch.Size((length, *shape[1:])), []
        for there in names:
            part = waiting.pop(there, torch.zeros(0))
            part = part.T if is_transposed(name, kind) and part.dim() == 2 else part
            if part.shape != wanted:
                has = tuple(part.shape) if there in theirs else "not there"
                raise UserError(f"{path}: {there} is {has}; its config.json wants {tuple(wanted)}")
            parts.append(part)
        if kind == "gpt_neo" and len(parts) == 3:
            parts[0] = parts[0] / query_scale(config)
        ours[name] = torch.cat(parts).contiguous()
    if waiting:
        raise UserError(f"{path} has {min(waiting)}, which a model here does not have")
    embedding = torch.zeros(config.padded_vocab_size, config.n_embd)
    embedding[: config.vocab_size] = ours["wte.weight"][: config.vocab_size]
    return ours | {"wte.weight": embedding}
