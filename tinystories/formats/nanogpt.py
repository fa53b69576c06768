"""Checkpoints of nanoGPT (github.com/karpathy/nanoGPT), both ways. Its GPT is ours of arch="gpt2".

Its ckpt.pt is a dict that torch.save wrote: model (the weights, "transformer." before our names,
and lm_head.weight, which is wte), optimizer (of AdamW), model_args (the shape), iter_num,
best_val_loss and config (the settings). The tokenizer is not in it: it is GPT-2's, unless a
meta.pkl in the dataset's folder holds another. Exported checkpoints have our vocabulary.json
beside them.
"""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from configurator import ROOT, UserError, check
from model import GPT, GPTConfig
from tinystories.dataset import write_vocabulary
from tinystories.files import atomic_write
from tinystories.formats.trained import TrainedModel
from tinystories.tokenizer import GPT2_VOCAB_SIZE, VOCABULARY, Tokenizer, gpt2, read_meta_pkl

PROGRAM = "nanoGPT"
EXPORT = "nanogpt"  # the folder that `write` makes
TOLERANCE = 0.0  # of `verify`
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
DEFAULTS = {"bias": True, "dropout": 0.0}  # of model_args; older versions do not write them
VOCABULARIES = dict.fromkeys(VOCABULARY, Tokenizer.load) | {"meta.pkl": read_meta_pkl}

# From nanoGPT -------------------------------------------------------------------------------


def recognizes(state: dict) -> bool:
    """Whether a checkpoint is one of nanoGPT."""
    return {"model", "model_args"} <= state.keys()


def convert(state: dict, path: Path) -> dict:
    """A checkpoint of nanoGPT in the form of `run.load_checkpoint`; the logits are the same.

    Raises:
        UserError: the model is not nanoGPT's, or its tokenizer is not found.
    """
    config = state.get("config")
    name = config.get("dataset") if isinstance(config, dict) else None
    datasets = dataset_folders(path, name) if isinstance(name, str) else []
    shape = read_shape(state["model_args"], path)
    tokenizer = find_tokenizer(path, shape["vocab_size"], datasets)
    try:
        model_config = GPTConfig(**shape | {"vocab_size": tokenizer.vocab_size})
    except UserError as error:
        raise UserError(f"{path}: model_args: {error}") from None
    converted: dict[str, object] = {
        "model_config": dataclasses.asdict(model_config),
        "model": convert_weights(state["model"], shape["vocab_size"], model_config, path),
        "tokenizer": tokenizer.fingerprint,
    }
    for ours, theirs in (("step", "iter_num"), ("val_loss", "best_val_loss")):
        value = state.get(theirs)
        value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        converted[ours] = value if isinstance(value, int | float) else None
    bins = ("train.bin", "val.bin")
    prepared = [folder for folder in datasets if all((folder / name).is_file() for name in bins)]
    dataset = str(prepared[0]) if prepared else None
    return converted | {"foreign_tokenizer": tokenizer, "dataset": dataset}


def dataset_folders(path: Path, name: str) -> list[Path]:
    """Where the dataset of a checkpoint can be: in nanoGPT's data/, next to out_dir, or in ours."""
    return [path.resolve().parent.parent / "data" / name, ROOT / "data" / name]


def read_shape(model_args: object, path: Path) -> dict:
    """The settings of GPTConfig in model_args; raises UserError if they are not nanoGPT's."""
    names = {*SHAPE, *DEFAULTS}
    if not isinstance(model_args, dict) or not model_args.keys() >= set(SHAPE):
        raise UserError(f"{path} has model_args as nanoGPT, but not its {', '.join(SHAPE)}")
    if others := [str(name) for name in model_args if name not in names]:
        raise UserError(f"{path}: model_args has {others[0]}, which nanoGPT's model does not have")
    return check(GPTConfig, DEFAULTS | model_args, f"{path}: model_args: ")


def find_tokenizer(path: Path, vocab_size: int, datasets: list[Path]) -> Tokenizer:
    """The tokenizer of the checkpoint `path`; raises UserError if it is not found."""
    for folder in (path.parent, *datasets):
        for name, load in VOCABULARIES.items():
            if not (folder / name).is_file():
                continue
            tokenizer = load(folder / name)
            if vocab_size in (tokenizer.vocab_size, padded_size(tokenizer.vocab_size)):
                return tokenizer
    if vocab_size in (GPT2_VOCAB_SIZE, padded_size(GPT2_VOCAB_SIZE)):
        return gpt2()
    raise UserError(
        f"{path} has a vocabulary of {vocab_size:,} ids: not GPT-2's, and no "
        f"{' or '.join(VOCABULARIES)} of that size is beside it or in the folder of its dataset"
    )


def padded_size(vocab_size: int) -> int:
    """Rows of the embedding for so many ids."""
    return GPTConfig(vocab_size).padded_vocab_size


def convert_weights(weights: object, vocab_size: int, config: GPTConfig, path: Path) -> dict:
    """nanoGPT's state dict as ours, in float32; raises UserError if it does not fit `config`."""
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{path}: its model is not a state dict")
    # torch.compile adds the first prefix; before PyTorch 2 the causal mask was stored, too.
    named = {str(name).removeprefix("_orig_mod."): w for name, w in weights.items()}
    named = {
        name.removeprefix("transformer."): weight.float()
        for name, weight in named.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    embedding = named.get("wte.weight")
    head = named.pop("lm_head.weight", embedding)
    if embedding is not None and head is not None and not torch.equal(head, embedding):
        raise UserError(f"{path}: its lm_head is not tied to wte, as nanoGPT's and ours are")
    if config.n_layer > len(named):  # before such a model is built
        raise UserError(f"{path}: model_args says {config.n_layer} layers; the weights have fewer")
    with torch.device("meta"):  # shapes alone
        shapes = {name: weight.shape for name, weight in GPT(config).state_dict().items()}
    shapes["wte.weight"] = torch.Size((vocab_size, config.n_embd))
    for name in [*shapes, *named]:
        has = tuple(named[name].shape) if name in named else "no such weight"
        wants = tuple(shapes[name]) if name in shapes else "no such weight"
        if has != wants:
            raise UserError(f"{path}: {name}: it has {has}, and nanoGPT's model {wants}")
    rows = torch.zeros(config.padded_vocab_size, config.n_embd)
    rows[:vocab_size] = named["wte.weight"]
    return named | {"wte.weight": rows}


# To nanoGPT ---------------------------------------------------------------------------------


def check_exportable(config: GPTConfig) -> None:
    """Raises UserError for a model that nanoGPT cannot hold."""
    for name in ("arch", "attention_window", "gelu"):
        if (value := getattr(config, name)) != getattr(GPTConfig, name):
            raise UserError(f"this model has {name}={value}, and nanoGPT's model has no such thing")


def write(path: Path, final: Path, trained: TrainedModel) -> str:
    """Write a folder with ckpt.pt for nanoGPT's sample.py and train.py, and what goes with it.

    Args:
        path: the folder to make.
        final: where it will be.

    Returns:
        how to use it.
    """
    model, tokenizer, state = trained.model, trained.tokenizer, trained.state
    rows = tokenizer.vocab_size  # the padding is never trained here, but nanoGPT may sample from it
    named = model.state_dict()
    named["wte.weight"] = named["wte.weight"][:rows].clone()
    weights = {f"transformer.{name}": weight for name, weight in named.items()}
    progress = state.get("progress", {})
    checkpoint = {
        "model": weights | {"lm_head.weight": weights["transformer.wte.weight"]},
        "optimizer": adamw_state(named.values(), rows, state, trained.settings),
        "model_args": {name: getattr(model.config, name) for name in (*SHAPE, *DEFAULTS)},
        "iter_num": progress.get("step", state.get("step")) or 0,
        "best_val_loss": progress.get("best_val", state.get("val_loss")) or 1e9,
        "config": dict(trained.settings),
    }
    path.mkdir()
    write_vocabulary(path, tokenizer)
    if (tokenizer.kind, rows) != ("gpt2", GPT2_VOCAB_SIZE):
        # sample.py looks for meta.pkl in data/ and this folder, and an absolute one wins.
        checkpoint["config"]["dataset"] = str(final.resolve())
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    atomic_write(path / "ckpt.pt", buffer.getbuffer())
    return f"in nanoGPT's folder:\n    python sample.py --out_dir={final.resolve()}"


def verify(path: Path, trained: TrainedModel) -> tuple[float, float]:
    """By how much the logits of the exported model differ at most, and how much is allowed."""
    state = torch.load(path / "ckpt.pt", weights_only=True)
    converted = convert(state, path / "ckpt.pt")
    model = GPT(GPTConfig(**converted["model_config"])).eval()
    model.load_state_dict(converted["model"])
    return trained.difference(model), TOLERANCE


def adamw_state(weights: Iterable[Tensor], rows: int, state: dict, settings: dict) -> dict:
    """The state of nanoGPT's AdamW: that of the run, or of a new one where it has none to give.

    Args:
        weights: in the order of the model's parameters.
        rows: of the embedding, which is the first of them.
    """
    weights = list(weights)
    decays = (settings.get("weight_decay", 0.1), 0.0)
    parts = ([w for w in weights if w.dim() >= 2], [w for w in weights if w.dim() < 2])
    groups = [{"params": p, "weight_decay": d} for p, d in zip(parts, decays, strict=True)]
    betas = (settings.get("beta1", 0.9), settings.get("beta2", 0.95))
    exported = torch.optim.AdamW(groups, betas=betas).state_dict()
    if "optimizer" in state and "muon" not in state:
        moments = dict(state["optimizer"]["state"])
        if 0 in moments:
            moments[0] = {
                name: value[:rows].clone() if value.dim() else value
                for name, value in moments[0].items()
            }
        exported["state"] = moments
    return exported
