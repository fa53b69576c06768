"""One web page that generates stories with a trained model, for people without Python.

The page has the model in it: its matrices as int8, each row with a scale, everything else as
float32. Its sources are in page/: what is shown (page.html, page.css, page.js), the model in
JavaScript (tokenizer.js, model.js, generate.js), and the product of a matrix and a vector in
WebAssembly (kernel.wat, assembled in kernel.js). `render` puts them together, `read` takes a page
apart again.
"""

import base64
import csv
import dataclasses
import html
import itertools
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model import GPT, GPTConfig
from tinystories.files import atomic_write
from tinystories.formats.trained import NotExportable, TrainedModel
from tinystories.tokenizer import Tokenizer

EXPORT = "{name}.html"  # the file that `write` makes
# Of `verify`. Rounding to int8 moved logits of four trained models by 0.05 to 0.12, their loss by
# 0.0002 nats at most; larger models, not measured, may move more. Another model differs by more.
TOLERANCE = 1.0
SOURCES = Path(__file__).parent / "page"
SCRIPTS = ("kernel.js", "tokenizer.js", "model.js", "generate.js")  # of the model
DATA = re.compile(r'<script type="\S+" id="(page|weights)">\n(.*)\n</script>')

# What a pattern of a tokenizer may consist of, so that it means the same in JavaScript.
_ITEM = r"\\[srntS]|\\[pP]\{[A-Z][a-z]?\}|\[\^?(?:\\[srntS]|\\[pP]\{[A-Z][a-z]?\}|[\w ',!-])+\]"
_POSSESSIVE = re.compile(rf"({_ITEM})([*+?])\+")
_PORTABLE = re.compile(
    rf"(?:{_ITEM}|[\w ']|\((?:\?[:!=])?|\)|[|$]|[*+?](?![*+])|\{{\d+(?:,\d*)?\}}(?![*+]))*"
)


def check_exportable(config: GPTConfig) -> None:
    """The page has every part of our models."""


def write(path: Path, final: Path, trained: TrainedModel) -> str:
    """Write the page.

    Args:
        path: the file to make.
        final: where it will be.

    Returns:
        how to use it.

    Raises:
        UserError: the tokenizer's pattern cannot be translated for JavaScript.
    """
    weights, tensors = pack(trained.model)
    page = describe(trained) | {
        "config": dataclasses.asdict(trained.model.config),
        "tokenizer": describe_tokenizer(trained.tokenizer),
        "tensors": tensors,
    }
    atomic_write(path, render(page, weights).encode(errors="replace"))
    return "open it in a browser; it needs no network, and can be sent as it is"


def verify(path: Path, trained: TrainedModel) -> tuple[float, float]:
    """By how much the logits of the model in the page differ at most, and how much is allowed."""
    page, weights = read(path.read_text(encoding="utf-8"))
    return trained.difference(unpack(page, weights)), TOLERANCE


# The page -----------------------------------------------------------------------------------


def render(page: dict, weights: bytes) -> str:
    """The page of a model; equal arguments give equal bytes.

    Args:
        page: name, about (what the model is, a sentence), config (of GPTConfig), tokenizer and
            tensors (shapes by name, in the order of the weights).
        weights: as `pack` makes them.
    """
    sources = {path.name: path.read_text(encoding="utf-8") for path in SOURCES.iterdir()}
    parts = {
        "name": html.escape(page["name"]),
        "about": html.escape(page["about"]),
        "style": sources["page.css"],
        # No "<" at all, so that nothing in it can end the script or begin a comment.
        "page": json.dumps(page, separators=(",", ":")).replace("<", "\\u003c"),
        "weights": base64.b64encode(weights).decode(),
        "model": "\n".join(sources[name] for name in SCRIPTS),
        "script": sources["page.js"],
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]].strip(), sources["page.html"])


def read(text: str) -> tuple[dict, bytes]:
    """What `render` made a page of: (page, weights)."""
    parts = dict(DATA.findall(text))
    return json.loads(parts["page"]), base64.b64decode(parts["weights"])


def describe(trained: TrainedModel) -> dict:
    """The name of the model and a sentence about it, in which unknown things are left out."""
    about = f"A language model of {trained.model.count_parameters() / 1e6:.2f} million parameters"
    if dataset := trained.settings.get("dataset"):
        about += f", trained on {Path(dataset).name}"
    if (bits := bits_per_byte(trained)) is not None:
        about += f"; {bits:.3f} bits per byte on stories that it has not seen"
    return {"name": trained.name, "about": f"{about}."}


def bits_per_byte(trained: TrainedModel) -> float | None:
    """The validation loss of the checkpoint, from the log of its run; None where it is not."""
    progress = trained.state.get("progress", trained.state)
    average = trained.state.get("average") is True  # of best.pt: it has the averaged weights
    column = "ema_val_bits_per_byte" if average else "val_bits_per_byte"
    try:
        with open(trained.folder / "log.csv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row[column] and int(row["step"]) == progress["step"]:
                    return float(row[column])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # no log, or one of another program
    return None


# The tokenizer ------------------------------------------------------------------------------


def describe_tokenizer(tokenizer: Tokenizer) -> dict:
    """A tokenizer as tokenizer.js takes it."""
    return {
        "pattern": tokenizer.pattern and javascript_pattern(tokenizer.pattern),
        "tokens": [base64.b64encode(token).decode() for token in tokenizer.tokens],
        "end_of_text": tokenizer.end_of_text,
        "first_id": tokenizer.first_id,
    }


def javascript_pattern(pattern: str) -> str:
    r"""A pattern of tiktoken for JavaScript's flag u: the same matches.

    JavaScript has no possessive quantifiers: x++ becomes (?=(?<p1>x+))\k<p1>, since a lookahead
    is never tried again. Its \s has U+FEFF and lacks U+0085.

    Raises:
        UserError: something in the pattern may have another meaning in JavaScript.
    """
    if not _PORTABLE.fullmatch(_POSSESSIVE.sub("", pattern)):
        raise NotExportable(f"the tokenizer's pattern has no known equal in JavaScript: {pattern}")
    numbers = itertools.count(1)
    pattern = _POSSESSIVE.sub(
        lambda match: "(?=(?<p{0}>{1}{2}))\\k<p{0}>".format(next(numbers), *match.groups()), pattern
    )
    return pattern.replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")


# The weights --------------------------------------------------------------------------------


def quantize(matrix: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (rows, columns) as int8, and the float32 scale of each row: w = int8 x scale."""
    weights = matrix.float().cpu().numpy()
    scales = np.abs(weights).max(axis=1) / np.float32(127)
    integers = np.round(weights / np.where(scales > 0, scales, 1)[:, None])
    return integers.astype(np.int8), scales.astype(np.float32)


def pack(model: GPT) -> tuple[bytes, dict]:
    """The weights without the padding of the embedding.

    Returns:
        all vectors and scales as float32, then all matrices as int8; and the shapes by name, in
        that order.
    """
    floats, integers, shapes = [], [], {}
    for name, weight in model.state_dict().items():
        weight = weight[: model.config.vocab_size] if name == "wte.weight" else weight
        shapes[name] = list(weight.shape)
        if weight.dim() == 2:
            matrix, scales = quantize(weight)
            integers.append(matrix.tobytes())
            floats.append(scales.astype("<f4").tobytes())
        else:
            floats.append(weight.float().cpu().numpy().astype("<f4").tobytes())
    return b"".join([*floats, *integers]), shapes


def unpack(page: dict, weights: bytes) -> GPT:
    """The model in a page, in evaluation mode."""
    config, shapes = GPTConfig(**page["config"]), page["tensors"]
    count = sum(shape[0] for shape in shapes.values())
    floats = np.frombuffer(weights, "<f4", count)
    integers = np.frombuffer(weights, np.int8, offset=4 * count)
    state = {}
    for name, shape in shapes.items():
        numbers, floats = floats[: shape[0]], floats[shape[0] :]
        if len(shape) == 2:
            size = shape[0] * shape[1]
            numbers = integers[:size].reshape(shape) * numbers[:, None]
            integers = integers[size:]
        state[name] = torch.tensor(numbers)
    rows = torch.zeros(config.padded_vocab_size, config.n_embd)
    rows[: config.vocab_size] = state["wte.weight"]
    model = GPT(config)
    model.load_state_dict(state | {"wte.weight": rows})
    return model.eval()
