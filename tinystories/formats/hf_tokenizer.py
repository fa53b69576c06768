"""Our vocabularies as the tokenizer.json of Hugging Face's `tokenizers`, and back.

That library merges listed pairs (byte_level says why one for each token is enough). A token that
merges never reach is found only as a whole word (ignore_merges), as tiktoken does.
"""

from pathlib import Path

from configurator import UserError
from tinystories.files import read_json
from tinystories.formats.byte_level import merges, spell, unspell
from tinystories.tokenizer import END_OF_TEXT, GPT2_VOCAB_SIZE, CharTokenizer, Tokenizer, gpt2

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def split(pattern: str) -> dict:
    """The cutting of text into the matches of a regular expression and what is between them."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def to_json(tokenizer: Tokenizer) -> dict:
    """The content of tokenizer.json. It puts the first id, end of text, before every text."""
    end, added = tokenizer.end_of_text, []
    first = END_OF_TEXT if end is not None else tokenizer.token_bytes[tokenizer.first_id].decode()
    if isinstance(tokenizer, CharTokenizer):  # a word is a character; it fails for unknown ones
        cutting, decoder = split(r"[\s\S]"), {"type": "Fuse"}
        model = {"type": "WordLevel", "vocab": tokenizer.ids, "unk_token": ""}
    else:
        without_regex = BYTE_LEVEL | {"use_regex": False}
        steps = [split(tokenizer.pattern), without_regex]
        cutting, decoder = {"type": "Sequence", "pretokenizers": steps}, without_regex
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spell(token): id for id, token in enumerate(tokenizer.tokens)},
            "merges": [[spell(a), spell(b)] for a, b in merges(tokenizer.tokens)],
        }
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": end, "content": END_OF_TEXT, **flags, "special": True}]
    first_token = {"SpecialToken": {"id": first, "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": cutting,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first_token, text],
            "pair": [first_token, text, first_token, second],
            "special_tokens": {
                first: {"id": first, "ids": [tokenizer.first_id], "tokens": [first]}
            },
        },
        "decoder": decoder,
        "model": model,
    }


def to_config(tokenizer: Tokenizer, block_size: int) -> dict:
    """The content of tokenizer_config.json."""
    names = ("bos_token", "eos_token", "pad_token") if tokenizer.end_of_text is not None else ()
    return dict.fromkeys(names, END_OF_TEXT) | {
        "clean_up_tokenization_spaces": False,
        # Without this, GPT-2 gets token types too, and adds their embeddings.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": block_size,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def read(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model's folder, whose embedding has vocab_size rows.

    Without tokenizer.json it is GPT-2's, if the size is.

    Raises:
        UserError: there is none, or it is of a kind that ours cannot be.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        if vocab_size != GPT2_VOCAB_SIZE:
            raise UserError(f"{folder} has no tokenizer.json, and {vocab_size:,} ids: not GPT-2's")
        return gpt2()
    stored = read_json(path, lambda stored: stored["model"]["vocab"], "copy or download it again")
    try:
        tokenizer = _characters(stored) if stored["model"]["type"] == "WordLevel" else _bpe(stored)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no tokenizer that can be used here: {error}") from None
    if tokenizer.vocab_size > vocab_size:
        raise UserError(f"{path} has {tokenizer.vocab_size:,} ids, and the model {vocab_size:,}")
    return tokenizer


def _bpe(stored: dict) -> Tokenizer:
    """GPT-2's vocabulary, one that `to_json` wrote, or another that merges as it would."""
    model = stored["model"]
    if model["type"] != "BPE":
        raise ValueError(f"it is not byte-level BPE but {model['type']}")
    if stored.get("normalizer"):
        raise ValueError("it changes the text before (normalizer)")
    names = dict(model["vocab"])
    ids = {token["content"]: token["id"] for token in stored["added_tokens"]}
    end = names.pop(END_OF_TEXT, len(names))
    if ids != {END_OF_TEXT: end} or sorted(names.values()) != list(range(end)):
        raise ValueError(f"{END_OF_TEXT} is not the last id, or not the only special one")
    try:
        tokens = [unspell(name) for name in names]
    except KeyError:
        raise ValueError("its tokens are not byte-level") from None
    tokens.sort(key=dict(zip(tokens, names.values(), strict=True)).__getitem__)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if pairs != [[spell(a), spell(b)] for a, b in merges(tokens)]:
        raise ValueError("its merges are not in the order of the ids")
    steps = stored["pre_tokenizer"].get("pretokenizers") or [stored["pre_tokenizer"]]
    if any(step.get("add_prefix_space") for step in steps):
        raise ValueError("it adds a space before the text (add_prefix_space)")
    kinds = [(step["type"], step.get("use_regex", True)) for step in steps]
    if kinds == [("ByteLevel", True)]:  # which has GPT-2's pattern
        full = gpt2()
        return full if tuple(tokens) == full.tokens else Tokenizer("gpt2", full.pattern, tokens)
    pattern = steps[0].get("pattern", {}).get("Regex", "")
    if kinds[1:] != [("ByteLevel", False)] or steps[0] != split(pattern):
        raise ValueError("it cuts text into words in another way (pre_tokenizer)")
    # GPT-2 gives the first ids to the bytes that print; ours are in order.
    return Tokenizer("gpt2" if tokens[0] == b"!" else "bpe", pattern, tokens)


def _characters(stored: dict) -> Tokenizer:
    """A vocabulary of characters that `to_json` wrote."""
    vocab = stored["model"]["vocab"]
    tokenizer = CharTokenizer(sorted(vocab, key=vocab.__getitem__))
    if to_json(tokenizer) != stored:
        raise ValueError("it is not one of single characters")
    return tokenizer
