"""Published models as they are: any causal language model that transformers can load.

    hf:NAME            on the Hugging Face hub, for example hf:roneneldan/TinyStories-33M
    hf:NAME@REVISION   a branch, tag or commit of it
    hf:FOLDER          a folder with config.json, weights and tokenizer

Nothing is converted: a CausalLM computes with the model itself and has what evaluation and
generation use of a GPT; a PublishedTokenizer is the same for its tokenizer. Weights are read from
safetensors only, and code in a model's folder is never run. The package transformers is imported
when such a model is loaded, and only then.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor
from torch.nn import functional as F

from configurator import ROOT, UserError
from model import LanguageModel
from tinystories import hub
from tinystories.files import sha256_of
from tinystories.tokenizer import GPT2_VOCAB_SIZE, Tokenizer, gpt2

PREFIX = "hf:"  # of names
FILES = ["*.json", "model*.safetensors", "*.model", "*.txt"]  # what a model consists of
MAX_WINDOW = 2048  # tokens: stories are shorter, and attention takes their square
PAPER_WINDOW = 512  # with which the TinyStories paper trained; its configs say 2,048
PIECE_LOGITS = 2**25  # at most at a time in a loss: 128 MB in float32
LAST_MATRICES = {  # of the two parts of a block
    "attention": r"(self_)?att(n|ention)(\.attention)?\.(c_proj|o_proj|out_proj|dense)",
    "mlp": r"mlp\.(c_proj|down_proj|dense_4h_to_h)",
}
MANY = 8  # tokens that a next one needs before it to become text

# Names --------------------------------------------------------------------------------------


def is_published(name: str) -> bool:
    """Whether a name is one of a published model, not of a run."""
    return name.startswith(PREFIX)


def results_folder(name: str) -> Path:
    """Where results about a published model are kept: out/hf/OWNER--NAME.

    The model's own folder is not ours. A hash tells apart folders that have the same name.
    """
    path = model_path(name)
    if not path.is_absolute():
        return ROOT / "out" / "hf" / re.sub("[/@]", "--", str(path))
    digest = hashlib.sha256(str(path).encode()).hexdigest()
    return ROOT / "out" / "hf" / f"{path.name}-{digest[:8]}"


def model_path(name: str) -> Path:
    """The folder of a published model; of one on the hub its name there, as a relative path."""
    folder = _local_folder(name)
    return folder.resolve() if folder else Path(name.removeprefix(PREFIX))


def find(name: str) -> Path:
    """The folder with a published model, downloaded if it is on the hub and not in its cache.

    Raises:
        UserError: it is not found, or lacks config.json or weights in safetensors.
    """
    folder = _local_folder(name)
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    if folder is None:
        if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", repo):
            raise UserError(f"{name}: there is no such folder, and it is no name on the hub")
        advice = "or name a folder: hf:FOLDER"
        options = {"ignore_patterns": "*/*"}  # the same model in other forms
        folder = hub.download(repo, revision or "main", FILES, "model", advice, **options)
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} has no config.json: it is not a model of transformers")
    if not list(folder.glob("model*.safetensors")):
        raise UserError(
            f"{name} has no weights in safetensors, and no others are read, as pickles can run "
            "code; name a revision that has them (hf:NAME@REVISION; for many models the hub's "
            "converter has opened a pull request: hf:NAME@refs/pr/NUMBER)"
        )
    return folder


def _local_folder(name: str) -> Path | None:
    """The folder that a name means; None if it is of a model on the hub."""
    path = name.removeprefix(PREFIX)
    folder = ROOT / os.path.expanduser(path)
    return folder if path and folder.is_dir() else None


# The model ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What generation has to know of a model."""

    vocab_size: int
    block_size: int
    n_head: int = 0  # as its config says; 0: it does not


@dataclass
class Cache:
    """What the model keeps of the tokens that it has read; `past` is the model's own."""

    length: int = 0
    ids: Tensor | None = None  # (B, length), if the model has no cache of keys and values
    past: Any = None


class CausalLM(LanguageModel):
    """A model of transformers.

    Where a text begins with another id than it ends with, the model may have learned either of the
    two as the end of a story: llama2.c puts only `begin` between stories. So their probabilities
    are added, and `end` has them all.
    """

    def __init__(self, model: Any, shape: Shape, begin: int, end: int):
        super().__init__()
        self.model, self.config, self.begin, self.end = model, shape, begin, end

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Like GPT.forward: logits (B, T, V), or with targets (B, T) the mean loss in nats."""
        if targets is not None:
            rows = max(1, PIECE_LOGITS // (idx.shape[1] * self.config.vocab_size))
            pieces = zip(idx.split(rows), targets.split(rows), strict=True)
            nats = [
                F.cross_entropy(
                    self(x).flatten(0, 1).float(), y.flatten(), ignore_index=-1, reduction="sum"
                )
                for x, y in pieces
            ]
            return torch.stack(nats).sum() / (targets >= 0).sum()
        known: dict[str, Any] = {"input_ids": idx}
        if cache is not None and cache.past is not None:
            known["past_key_values"] = cache.past
        elif cache is not None:
            cache.ids = idx if cache.ids is None else torch.cat([cache.ids, idx], dim=1)
            known["input_ids"] = cache.ids
        output = self.model(**known, use_cache=cache is not None)
        if cache is not None:
            cache.length += idx.shape[1]
            cache.past = output.get("past_key_values")
        return self.join_ends(output.logits[:, -idx.shape[1] :])

    def join_ends(self, logits: Tensor) -> Tensor:
        """The logits, where `end` has the probabilities of both ids that may end a story."""
        if self.begin != self.end:
            logits = logits.clone()
            logits[..., self.end] = logits[..., [self.begin, self.end]].logsumexp(-1)
            logits[..., self.begin] = -math.inf
        return logits

    def new_cache(self) -> Cache:
        return Cache()

    @property
    def h(self) -> nn.ModuleList:
        """The blocks, as GPT calls them; raises UserError where there is no list of them."""
        lists = (m for m in self.model.modules() if isinstance(m, nn.ModuleList))
        count = getattr(self.model.config, "num_hidden_layers", None)
        if (blocks := next((m for m in lists if len(m) == count), None)) is None:
            raise UserError("this model has no list of blocks: there is no way into it")
        return blocks

    @property
    def last_matrices(self) -> dict[str, str]:
        """The names of the matrices that end the attention and the MLP of a block."""
        names = [name for name, _ in self.h[0].named_modules()]
        found = {
            part: next((name for name in names if re.fullmatch(pattern, name)), None)
            for part, pattern in LAST_MATRICES.items()
        }
        if missing := [part for part, name in found.items() if name is None]:
            raise UserError(f"the {missing[0]} of this model ends in no matrix of a known name")
        return {part: name for part, name in found.items() if name is not None}

    def unembed(self, x: Tensor) -> Tensor:
        """The logits of a residual stream (B, T, C); raises UserError for an unknown last norm."""
        base = self.model.base_model
        norms = [getattr(base, name, None) for name in ("ln_f", "norm", "final_layer_norm")]
        if not (norm := next(filter(None, norms), None)):
            raise UserError("no lens: the last normalization of this model has no known name")
        return self.join_ends(self.model.get_output_embeddings()(norm(x)))

    def matmul_weights(self) -> list[Tensor]:
        """The weights of linear layers that are not an embedding, too."""
        modules = list(self.model.modules())
        embeddings = {id(m.weight) for m in modules if isinstance(m, nn.Embedding)}
        weights = [m.weight for m in modules if isinstance(m, nn.Linear)]
        return [weight for weight in weights if id(weight) not in embeddings]

    def count_parameters(self) -> int:
        """All parameters; those of GPT are without the position embedding."""
        return sum(p.numel() for p in self.model.parameters())


# The tokenizer ------------------------------------------------------------------------------


class PublishedTokenizer(Tokenizer):
    """A tokenizer of transformers. It may alter the text, so that bytes are counted on that."""

    kind = "published"
    pattern = None
    lossless = False

    def __init__(self, tokenizer: Any, first_id: int, end_of_text: int | None):
        self._tokenizer = tokenizer
        self.first_id, self.end_of_text = first_id, end_of_text
        self.vocab_size = len(tokenizer)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never end of text, whatever the text spells."""
        return self._encode_all([text])[0]

    def can_encode(self, text: str) -> bool:
        """Whether `encode` has ids for all of a text."""
        try:
            self._encode_all([text])
        except UserError:
            return False
        return True

    def encode_stories(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of many stories, each followed by end of text: int64, shape (ids,)."""
        end = () if self.end_of_text is None else (self.end_of_text,)
        stories = ((*ids, *end) for ids in self._encode_all(texts))
        return np.fromiter(chain.from_iterable(stories), np.int64)

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": True}
        plain = [text.encode(errors="replace").decode() for text in texts]  # no lone surrogates
        try:
            ids = self._tokenizer(plain, **options)["input_ids"]
        except Exception as error:  # the package tokenizers has one of its own only for this
            raise UserError(f"the model's tokenizer cannot encode this text: {error}") from None
        return [[id for id in story if id != self.end_of_text] for story in ids]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; end of text becomes ""."""
        kept = [int(id) for id in ids if id != self.end_of_text]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return self._tokenizer.decode(kept, **options)

    def stream_decoder(self, ids: Sequence[int]) -> Callable[[list[int], bool], str]:
        """Like Tokenizer.stream_decoder: what a token adds to the text of those before it."""
        known = list(ids)[-MANY:]
        shown = len(self.decode(known))

        def step(new: list[int], last: bool) -> str:
            nonlocal known, shown
            known += new
            text = self.decode(known)
            if text.endswith("\ufffd") and not last:  # bytes of its character are missing
                return ""
            piece, known = text[shown:], known[-MANY:]
            shown = len(self.decode(known))
            return piece

        return step


# Loading ------------------------------------------------------------------------------------


class Published(NamedTuple):
    """A published model with what belongs to it."""

    model: CausalLM  # in evaluation mode, float32, on the CPU
    tokenizer: Tokenizer
    files: str  # the name of its weights
    sha256: str  # of everything that was read


def load(name: str) -> Published:
    """Load a published model.

    Raises:
        UserError: it is not found or cannot be loaded, it would need its own code or weights from
            a pickle, it is not a causal language model, or transformers is not installed.
    """
    folder = find(name)
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{name} needs the package transformers: pip install transformers"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])[0]
            raise UserError(f"{name} is not a causal language model: it has no {missing}")
        vocab_size = check_causal(name, model)
        n_head = getattr(model.config, "num_attention_heads", None) or 0
        shape = Shape(vocab_size, context_window(name, model.config), n_head)
        tokenizer: Any = None
        if any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except UserError:
        raise
    except Exception as error:  # files, architectures and packages each have their own exceptions
        raise UserError(f"{name} {_why_not(error, transformers.__version__)}") from None
    if tokenizer is None and vocab_size == GPT2_VOCAB_SIZE:
        own = gpt2()  # as of the models of the TinyStories paper
    elif tokenizer is None:
        raise UserError(f"{name} has no tokenizer")
    else:
        own = wrap_tokenizer(name, tokenizer, model.config, vocab_size)
    end = own.first_id if own.end_of_text is None else own.end_of_text
    adapted = CausalLM(model, shape, own.first_id, end)
    weights = sorted(folder.glob("model*.safetensors"))
    files = sorted(path for pattern in FILES for path in folder.glob(pattern))
    return Published(adapted.eval(), own, weights[0].name, sha256_of(*files))


def _why_not(error: Exception, version: str) -> str:
    """The end of the sentence about a model that transformers fails to load."""
    text = " ".join(f"{error}".split())
    if "trust_remote_code" in text:
        return "needs code of its own, which is never run here"
    if "Unrecognized configuration class" in text:
        return "is not a causal language model"
    return f"cannot be loaded by transformers {version}: {type(error).__name__}: {text[:160]}"


def check_causal(name: str, model: Any) -> int:
    """The number of ids that a model predicts.

    Raises UserError if a prediction depends on a later token, as in BERT: transformers loads
    encoders as causal language models, too, and only warns.
    """
    ids = torch.arange(1, 9)[None]
    changed = ids.clone()
    changed[0, -1] = 0
    with torch.inference_mode():
        a, b = (model.eval()(input_ids=x, use_cache=False).logits[:, :-1] for x in (ids, changed))
    if (a - b).abs().max() > 1e-4 * a.std():
        raise UserError(f"{name} is not a causal language model: it reads the tokens it predicts")
    return a.shape[-1]


def context_window(name: str, config: Any) -> int:
    """The tokens that a model sees at once: as its config says, with two exceptions.

    At most MAX_WINDOW. And GPT-Neos trained as in the TinyStories paper know only their first 512
    positions, while their config keeps GPT-Neo's 2,048 = MAX_WINDOW.
    """
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    declared = [getattr(config, n, None) for n in names]
    window = min([MAX_WINDOW, *(n for n in declared if type(n) is int and n > 0)])
    in_the_paper = re.search("tiny-?stories", Path(name).name, re.IGNORECASE)
    of_gpt_neo = config.model_type == "gpt_neo" and window == MAX_WINDOW
    return PAPER_WINDOW if of_gpt_neo and in_the_paper else window


def wrap_tokenizer(name: str, tokenizer: Any, config: Any, vocab_size: int) -> PublishedTokenizer:
    """The tokenizer, with the ids that stand before and after a story.

    They are those for the beginning and the end of a text; where there is only one, both. Where
    neither tokenizer nor config has one for the end, as of characters, a story has none. Raises
    UserError if there is none, or the tokenizer has more ids than the model.
    """
    if tokenizer.vocab_size > vocab_size:  # ids that were added to it do not count
        raise UserError(
            f"{name} has a tokenizer of {tokenizer.vocab_size:,} ids for a model of {vocab_size:,}"
        )
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    if special == [None, None]:
        special = [config.bos_token_id, config.eos_token_id]
    flat = [id[0] if isinstance(id, list) else id for id in special]
    ids = [id for id in flat if id is not None and 0 <= id < vocab_size]
    if not ids:
        raise UserError(f"{name} has no id for the beginning or the end of a text")
    no_end = tokenizer.bos_token_id is tokenizer.eos_token_id is config.eos_token_id is None
    return PublishedTokenizer(tokenizer, ids[0], None if no_end else ids[-1])
