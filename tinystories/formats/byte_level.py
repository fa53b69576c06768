"""A byte-pair vocabulary as GPT-2's files spell it: printable tokens, and the pairs to merge.

tiktoken, which encodes here, merges any two neighbours whose joint string is a token, lowest rank
first. Other programs merge listed pairs, first in the list first. One pair for each token makes
them the same: where a token comes out of a longer text, nothing was merged across its borders, so
within them the same merges happened in the same order as in the token alone. The last of those is
its pair.
"""

from collections.abc import Sequence
from itertools import pairwise

# GPT-2's files hold printable characters only. Bytes that print in Latin-1 stand for themselves,
# the others, in order, for the characters from U+0100.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_SPELLING = {byte: byte for byte in _PRINTABLE} | {b: 0x100 + i for i, b in enumerate(_OTHERS)}
_BYTES = {chr(character): byte for byte, character in _SPELLING.items()}


def spell(token: bytes) -> str:
    """A token in printable characters, one for each byte."""
    return token.decode("latin-1").translate(_SPELLING)


def unspell(text: str) -> bytes:
    """The token that is spelled so; raises KeyError for a character that spells no byte."""
    return bytes(_BYTES[character] for character in text)


def merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pairs that make the tokens of more than one byte, in the order of the tokens.

    A token that its own bytes do not merge into has none. (tiktoken gives its id only to a word
    that is just this token.)
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = (_last_merge(token, ranks) for token in tokens if len(token) > 1)
    return [pair for pair in pairs if pair]


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        candidates = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        lowest = min(candidates)
        if lowest == len(ranks):
            return None
        i = candidates.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
