"""Text to token ids and back: three byte-level BPE vocabularies, and nanoGPT's characters.

    gpt2()                        GPT-2's own, 50,257 ids
    gpt2_top(stories, 10_000)     the GPT-2 tokens that the stories use most
    train_bpe(stories, 4096)      trained on the stories
    read_meta_pkl(path)           the characters of a dataset that nanoGPT prepared

tiktoken runs the first three, so they encode equally fast, and all of them are lossless.

How a byte-pair encoding works: a pattern cuts the text into words; a word starts out as its UTF-8
bytes; then, again and again, the two neighbours whose joint string has the lowest rank in the
vocabulary become one token, until no two neighbours make a known string. Let "th" have rank 256,
"he" 257 and "the" 258: "the" becomes t h e, th e, the, although "he" is known as well, and "then"
becomes the n. A rank is a priority and also the id: what was learned first comes first.
Ranks 0 to 255 are the single bytes, so every text can be encoded.
"""

import base64
import codecs
import functools
import io
import json
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import rustbpe
import tiktoken
import tiktoken.load

from configurator import UserError
from tinystories.files import atomic_write, checksum, read_whole
from tinystories.parallel import batches, parallel_map

BPE_KINDS = ("gpt2", "bpe")
END_OF_TEXT = "<|endoftext|>"  # name of the id that follows each story; text never encodes to it
MIN_VOCAB_SIZE = 257  # every byte and end of text
MAX_VOCAB_SIZE = 65_536  # ids are stored as uint16
GPT2_VOCAB_SIZE = 50_257
DOWNLOAD_SECONDS = 30  # without an answer
FORMAT_VERSION = 1
# Where a folder has its tokenizer; earlier versions wrote the second, which is Hugging Face's name.
VOCABULARY = ("vocabulary.json", "tokenizer.json")

# How a trained vocabulary cuts text into words: GPT-2's pattern, but line ends stay with the
# punctuation before them and empty lines in one piece, as in GPT-4. Paragraphs of stories end in
# ."\n, so that saves 1.5 % of the tokens at 4,096 ids. GPT-4's other change, an opening quote that
# joins its word, saves 0.1 % more and is left out: each word would be learned again with a quote.
# Every digit is a word: so llama.cpp and transformers give the same tokens (docs/export.md), at
# 0.004 % more of them. A stored vocabulary keeps the pattern that it was trained with.
STORY_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The regex engines in Rust panic on a million spaces in a row, so very long text is cut into chunks
# before. A chunk ends before a space where it can: every pattern cuts there anyway.
MAX_ENCODE_CHARS = 500_000  # characters
_CHUNK = rf".{{1,{MAX_ENCODE_CHARS}}}"
_ENCODE_CHUNKS = re.compile(rf"{_CHUNK}(?:(?<=\S)(?= )|\Z)|{_CHUNK}", re.DOTALL)


class Tokenizer:
    """A byte-pair vocabulary: what decides how text becomes ids, and tiktoken doing it.

    Attributes:
        vocab_size: how many ids there are, single bytes and end of text included.
        end_of_text: the id that follows every story, always the last one; None in a vocabulary
            of characters, which has no such id.
        first_id: the id before a text, with which generation begins: end of text, if there is one.
        token_bytes: the bytes of every id; none for end of text.
        lossless: decoding gives back every text, so that its bytes can be counted on its ids.
    """

    end_of_text: int | None
    lossless = True

    def __init__(self, kind: str, pattern: str, tokens: Sequence[bytes]):
        """Build a tokenizer; raises ValueError for tokens or a pattern that make none.

        Args:
            kind: "gpt2" (all of GPT-2's tokens or some of them) or "bpe" (trained).
            pattern: the regular expression whose matches are the words that merging stays within.
            tokens: the bytes of every token but end of text; the position is rank and id.
        """
        distinct = set(tokens)
        if kind not in BPE_KINDS:
            raise ValueError(f"its kind is {kind!r}")
        if len(distinct) < len(tokens) or b"" in distinct:
            raise ValueError("a token is empty or occurs twice")
        if not distinct.issuperset(bytes([byte]) for byte in range(256)):
            raise ValueError("single bytes are missing")
        if len(tokens) >= MAX_VOCAB_SIZE:
            raise ValueError(f"more than {MAX_VOCAB_SIZE} ids")
        self.kind = kind
        self.pattern = pattern
        self.tokens = tuple(tokens)
        self.end_of_text = self.first_id = len(self.tokens)
        self.vocab_size = len(self.tokens) + 1
        self.token_bytes = (*self.tokens, b"")
        self._encoding = tiktoken.Encoding(
            kind,
            pat_str=pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.tokens)},
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text; never end of text, whatever the text spells.

        Lone surrogates, which no UTF-8 file can hold, become U+FFFD, the replacement character.
        """
        chunks = _ENCODE_CHUNKS.findall(text)
        return list(chain.from_iterable(map(self._encoding.encode_ordinary, chunks)))

    def can_encode(self, text: str) -> bool:
        """Whether `encode` has ids for all of a text."""
        return True

    def encode_stories(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of many stories, each followed by end of text: a uint16 array of shape (ids,).

        The fast path for preparing data. Rust gets all stories in one call, which is faster than
        one call per story, and releases the GIL meanwhile, so that threads run in parallel.
        """
        joined = "".join(text + END_OF_TEXT for text in texts)
        ordinary = joined.count(END_OF_TEXT) == len(texts)  # else a story spells that name
        if ordinary and max(map(len, texts), default=0) <= MAX_ENCODE_CHARS:
            try:
                ids = self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT})
                return ids.astype(np.uint16)
            except UnicodeEncodeError:  # lone surrogates: encode() knows what to do
                pass
        ids = chain.from_iterable((*self.encode(text), self.end_of_text) for text in texts)
        return np.fromiter(ids, np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; end of text becomes "", invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """UTF-8 of some ids, perhaps cut within a character; raises UserError for unknown ids."""
        ids = np.asarray(ids).ravel()
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"ids are integers, not {ids.dtype}")
        outside = ids[(ids < 0) | (ids >= self.vocab_size)]
        if outside.size:
            raise UserError(
                f"id {outside[0]} is outside this tokenizer's vocabulary of {self.vocab_size}: "
                "decode these ids with the tokenizer that made them"
            )
        return b"".join([self.token_bytes[i] for i in ids.tolist()])

    def stream_decoder(self, ids: Sequence[int]) -> Callable[[list[int], bool], str]:
        """A function (new ids, last) that returns the text which they add to that of `ids`.

        It keeps the bytes of a character until all are there, or these ids are the last.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda new, last: decoder.decode(b"".join([self.token_bytes[i] for i in new]), last)

    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes of each token, 0 for end of text: an int64 array of shape (vocab_size,)."""
        return np.array([len(token) for token in self.token_bytes], dtype=np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256 of all that determines the ids: equal fingerprints, equal ids for every text."""
        return checksum(self._identity())

    def _identity(self) -> dict:
        ranks = [base64.b64encode(token).decode() for token in self.tokens]
        return {"pattern": self.pattern, "end_of_text": self.end_of_text, "ranks": ranks}

    def save(self, path: str | os.PathLike) -> None:
        """Write everything to a JSON file, atomically; equal tokenizers give equal bytes."""
        stored = {"format_version": FORMAT_VERSION, "kind": self.kind}
        stored |= {"fingerprint": self.fingerprint, **self._identity()}
        atomic_write(Path(path), (json.dumps(stored, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Read what save() wrote; raises UserError for a file that is missing or damaged."""
        expected = {"format_version", "kind", "fingerprint", "pattern", "end_of_text", "ranks"}
        try:
            stored = json.loads(read_whole(Path(path)).decode())
            if not isinstance(stored, dict) or expected - stored.keys():
                raise ValueError("not written by this project")
            if stored["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {stored['format_version']}, not {FORMAT_VERSION}")
            tokens = [base64.b64decode(token, validate=True) for token in stored["ranks"]]
            if stored["kind"] == CharTokenizer.kind:
                tokenizer = CharTokenizer([token.decode() for token in tokens])
            else:
                tokenizer = cls(stored["kind"], stored["pattern"], tokens)
            if stored["end_of_text"] != tokenizer.end_of_text:
                raise ValueError("end of text has another id")
            if stored["fingerprint"] != tokenizer.fingerprint:
                raise ValueError("its fingerprint does not match")
            return tokenizer
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror}") from None
        except (ValueError, TypeError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"{path} is not a complete tokenizer ({reason}): "
                "copy it again or prepare the data again"
            ) from None


class CharTokenizer(Tokenizer):
    """A vocabulary of characters, one id each, as in nanoGPT's data/shakespeare_char.

    It has no end of text: a dataset is one text. Generation begins with a line break, as in
    nanoGPT's sample.py, or with id 0 where there is none.
    """

    kind = "char"
    pattern = None
    end_of_text = None

    def __init__(self, characters: Sequence[str]):
        """Build a tokenizer; raises ValueError unless all are single and different characters."""
        self.ids = {character: id for id, character in enumerate(characters)}
        if not 0 < len(characters) == len(self.ids) <= MAX_VOCAB_SIZE:
            raise ValueError("a character occurs twice, or there is none")
        if any(len(character) != 1 for character in characters):
            raise ValueError("an entry is not a single character")
        self.tokens = self.token_bytes = tuple(character.encode() for character in characters)
        self.vocab_size = len(self.tokens)
        self.first_id = self.ids.get("\n", 0)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; raises UserError for a character that has no id."""
        try:
            return [self.ids[character] for character in text]
        except KeyError as unknown:
            raise UserError(
                f"the character {unknown} is not in the vocabulary: its {self.vocab_size} "
                f"characters are {''.join(self.ids)[:100]!r}"
            ) from None

    def can_encode(self, text: str) -> bool:
        """Whether all characters of a text are in the vocabulary."""
        return self.ids.keys() >= set(text)

    def encode_stories(self, texts: Sequence[str]) -> np.ndarray:
        """The ids of texts, each followed by a line break: a uint16 array of shape (ids,)."""
        end = [self.ids["\n"]] if "\n" in self.ids else []
        ids = chain.from_iterable((*self.encode(text), *end) for text in texts)
        return np.fromiter(ids, np.uint16)


class _DataUnpickler(pickle.Unpickler):
    """Reads numbers, texts and containers. Without names, nothing in a pickle can be called."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")


def read_meta_pkl(path: Path) -> CharTokenizer:
    """The vocabulary in the meta.pkl of nanoGPT's prepare.py; executes nothing in it.

    Raises UserError for a file that holds anything but a vocabulary of characters.
    """
    try:
        data = read_whole(path)
        for operation, argument, _ in pickletools.genops(data):
            if "PUT" in operation.name and int(argument or 0) > len(data):
                raise ValueError("it would fill the memory")
        meta = _DataUnpickler(io.BytesIO(data)).load()
        itos, stoi = meta["itos"], meta["stoi"]
        characters = [itos[id] for id in range(meta["vocab_size"])]
        if stoi != {character: id for id, character in enumerate(characters)}:
            raise ValueError("stoi and itos do not agree")
        return CharTokenizer(characters)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # a crafted file can make the reader fail in any way it likes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(
            f"{path} is not a vocabulary of characters as nanoGPT writes it ({reason}): "
            "prepare the dataset again"
        ) from None


def write_meta_pkl(path: Path, tokenizer: Tokenizer) -> None:
    """Write the meta.pkl that nanoGPT reads: train.py the size, sample.py the two tables.

    Its sample.py looks up a prompt character by character, so it finds the tokens that are one
    character; ids that are only a part of a character decode to U+FFFD.
    """
    itos = {id: token.decode(errors="replace") for id, token in enumerate(tokenizer.token_bytes)}
    if tokenizer.end_of_text is not None:
        itos[tokenizer.end_of_text] = END_OF_TEXT
    stoi = {text: id for id, text in itos.items() if "\ufffd" not in text}
    meta = {"vocab_size": tokenizer.vocab_size, "itos": itos, "stoi": stoi}
    atomic_write(path, pickle.dumps(meta, protocol=4))


def gpt2() -> Tokenizer:
    """GPT-2's own encoding; raises UserError where it is not cached and cannot be downloaded.

    tiktoken downloads it once and caches it in the folder that TIKTOKEN_CACHE_DIR names.
    """
    tiktoken.load.read_file = _download
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # the exceptions of requests are OSErrors
        raise UserError(
            f"cannot find or download the GPT-2 encoding ({type(error).__name__}): try again, set "
            "TIKTOKEN_CACHE_DIR to a folder where tiktoken has cached it, or use --tokenizer=bpe"
        ) from None
    ranks = encoding._mergeable_ranks  # private, but tiktoken's README uses both
    return Tokenizer("gpt2", encoding._pat_str, sorted(ranks, key=ranks.__getitem__))


def _download(blobpath: str) -> bytes:
    """In place of tiktoken's function, which waits forever for a server that does not answer."""
    import requests  # only here: it takes 0.1 s

    return requests.get(blobpath, timeout=DOWNLOAD_SECONDS).content  # tiktoken has its checksum


def gpt2_top(stories: Iterable[str], vocab_size: int) -> Tokenizer:
    """GPT-2's encoding cut to the tokens that the stories use most.

    The TinyStories paper (Eldan and Li, 2023) cut its vocabulary to 10,000 in this way: embeddings
    of words that occur in no story would only make a small model large. A token is kept together
    with the tokens on its merge path, since a vocabulary with " stories" but without " st" could
    never reach it. Text whose GPT-2 tokens are all kept is encoded exactly as by GPT-2; other text
    becomes smaller tokens, at worst bytes.

    Args:
        stories: read once, a few megabytes at a time, on all cores.
        vocab_size: how many ids, single bytes and end of text included. Stories with fewer
            different tokens give a smaller vocabulary.
    """
    check_size(vocab_size, GPT2_VOCAB_SIZE)
    full = gpt2()
    counts = np.zeros(full.vocab_size, dtype=np.int64)
    for ids in parallel_map(full.encode_stories, batches(stories)):
        counts += np.bincount(ids, minlength=full.vocab_size)
    counts[full.end_of_text] = 0
    ranks = {token: rank for rank, token in enumerate(full.tokens)}
    by_frequency = np.argsort(-counts, kind="stable")  # stable: the lower rank wins a tie
    candidates = [full.tokens[i] for i in by_frequency if counts[i]]
    kept = _select_tokens(candidates, ranks, vocab_size - 1)
    return Tokenizer("gpt2", full.pattern, sorted(kept, key=ranks.__getitem__))


def train_bpe(stories: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a BPE vocabulary: merge the most frequent pair of neighbours, again and again.

    Equal stories give an equal vocabulary, on any number of cores: ties go to the lower ids.
    rustbpe does the training (in parallel, in bounded memory), tiktoken the encoding.

    Args:
        stories: read once, about a thousand at a time, on all cores.
        vocab_size: how many ids, single bytes and end of text included; 257 means bytes alone.
            Stories that run out of pairs to merge give a smaller vocabulary.
    """
    check_size(vocab_size, MAX_VOCAB_SIZE)
    trainer = rustbpe.Tokenizer()
    # Without lone surrogates and cut to lengths that rustbpe can take.
    texts = (story.encode(errors="replace").decode() for story in stories)
    chunks = chain.from_iterable(map(_ENCODE_CHUNKS.findall, texts))
    trainer.train_from_iterator(chunks, vocab_size - 1, buffer_size=1024, pattern=STORY_PATTERN)
    tokens = (bytes(token) for token, _ in trainer.get_mergeable_ranks())
    # rustbpe merges pairs, tiktoken knows strings: where two pairs spell one, keep the first.
    return Tokenizer("bpe", STORY_PATTERN, list(dict.fromkeys(tokens)))


def check_size(vocab_size: int, largest: int) -> None:
    """Raise UserError unless a vocabulary can have this size: 257 to `largest` ids."""
    if not MIN_VOCAB_SIZE <= vocab_size <= largest:
        why = "all that GPT-2 has" if largest == GPT2_VOCAB_SIZE else "ids are stored in 16 bits"
        raise UserError(
            f"vocab_size={vocab_size} is out of range: {MIN_VOCAB_SIZE} "
            f"(every byte and end of text) to {largest} ({why})"
        )


def _select_tokens(candidates: list[bytes], ranks: dict[bytes, int], size: int) -> set[bytes]:
    """All single bytes and, with their merge paths, as many candidates as fit into `size` tokens.

    Greedy: candidates are taken in order, and one whose merge path does not fit is skipped. Slots
    that are left in the end are filled with the first tokens of the skipped paths.
    """
    kept = {bytes([byte]) for byte in range(256)}
    skipped = []
    for token in candidates:
        if len(kept) == size:
            return kept
        missing = _merge_path(token, ranks) - kept
        if len(kept) + len(missing) <= size:
            kept |= missing
        else:
            skipped.append(missing)
    for missing in skipped:
        room = size - len(kept)
        kept.update(sorted(missing - kept, key=ranks.__getitem__)[:room])
    return kept


def _merge_path(token: bytes, ranks: dict[bytes, int]) -> set[bytes]:
    """The token and all tokens that exist at some point of its merging."""
    parts = [token[i : i + 1] for i in range(len(token))]
    path = set(parts)
    while len(parts) > 1:
        pairs = [parts[i] + parts[i + 1] for i in range(len(parts) - 1)]
        i = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], GPT2_VOCAB_SIZE))
        parts[i : i + 2] = [pairs[i]]
        path.add(pairs[i])
    return path
