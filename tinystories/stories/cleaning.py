"""Cleaning: repair what is garbled in a story, drop what is broken or a duplicate.

    story, rules = clean_story(text)    # None if the story is dropped

`clean_story` looks at one text alone; `cleaned` also compares the stories of a dataset.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Set

from tinystories.stories import instruct

RULES = {
    "mojibake": "letters garbled by a wrong encoding, repaired",
    "punctuation": "curly quotes, long dashes and ellipses made plain",
    "spaces": "spaces and line breaks made regular",
    "empty": "dropped, holds no story",
    "short": "dropped, too short for a story",
    "unrepairable": "dropped, characters lost beyond repair",
    "starts_midway": "dropped, starts in the middle of a sentence",
    "ends_midway": "dropped, ends in the middle of a sentence",
    "duplicate": "dropped, the same text came before",
    "in_validation": "dropped from train, occurs in validation",
    "near_duplicate": "dropped, nearly the same as a story that came before",
    "near_validation": "dropped from train, nearly the same as a validation story",
    "not_selected": "dropped, adds less than those that --select keeps",
}
BY_SETTING = ("near_duplicate", "near_validation", "not_selected")  # without them nothing drops

MIN_BYTES = 60  # UTF-8: about ten English words, or twenty Chinese characters


def clean_story(
    text: str, *, repair_only: bool = False, records: bool = False
) -> tuple[str | None, tuple[str, ...]]:
    """The cleaned text and the RULES that changed it, or None and the rule that dropped it.

    Args:
        repair_only: drop only empty texts, as for validation, so that losses stay comparable with
            those that others measured on the same stories.
        records: header lines precede the story; they are repaired, but no rule drops them.
    """
    changed = []
    for rule, repair in _REPAIRS.items():
        before, text = text, repair(text)
        if text != before:
            changed.append(rule)
    rule = _rejection_rule(text, _story_of(text) if records else text, repair_only)
    return (None, (rule,)) if rule else (text, tuple(changed))


def cleaned(
    texts: Iterable[str],
    split: str,
    records: bool,
    seen: dict[str, set[int]],
    counts: Counter[str],
    earlier: Set[int] = frozenset(),
) -> Iterator[str]:
    """Clean the texts of a split, and drop training stories that came before.

    `seen` gets the digests of the stories of each split. Split "val" has to come first, since its
    stories are excluded from "train", with other header lines, too. `counts` counts the texts that
    a rule changed or dropped. `earlier` are the validation stories of other sources.
    """
    for text in texts:
        story, rules = clean_story(text, repair_only=split == "val", records=records)
        counts.update(rules)
        if story is None:
            continue
        whole = digest(story)
        own = instruct.story_of(story)  # of a record; else it is the story
        key = whole if own is story else digest(own)
        if (whole if split == "train" else key) in (seen["train"] if split == "train" else earlier):
            counts["duplicate"] += 1
        elif split == "train" and key in seen["val"]:
            counts["in_validation"] += 1
        else:
            seen[split].add(whole if split == "train" else key)
            yield story


def digest(text: str) -> int:
    """A 64-bit hash of a text: to find exact duplicates, and to choose validation stories.

    64 bits, since millions are held in memory. The probability that any two of n = 3 million
    different stories have the same hash is n² / 2⁶⁵ = 1 in 4 million (birthday bound).
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# UTF-8 read as Windows-1252 shows as a letter from Â to ô, followed by what its continuation
# bytes (80 to BF) look like in it. Bytes read as Latin-1 show as C1 control characters.
_TAIL = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_GARBLED = re.compile(f"[\x80-\x9f]|[Â-ß]{_TAIL}|[à-ï]{_TAIL}{{2}}|[ð-ô]{_TAIL}{{3}}|â€")
# A closing quote is the bytes E2 80 9D. Windows-1252 has no letter for 9D, so it was lost and
# "Hi!â€ is left. We add the byte, because ftfy would take the space after it for the lost byte and
# read a dagger. Before a letter the mark may also have been an apostrophe, so we leave it.
_CUT_QUOTE = re.compile(r"â€(?=â€|[\s!-/:-@\[-`{-~]|$)")


def _fix_mojibake(text: str) -> str:
    """Undo a wrong decoding if the text shows signs of one."""
    if text.isascii() or not _GARBLED.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(_CUT_QUOTE.sub("â€\x9d", text))


_SPACES = " \t\xa0\u2000-\u200a\u202f\u205f"  # not U+3000, which indents paragraphs in Chinese
_MARKS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―", "-"),
        "…": "...",
        **dict.fromkeys("\xad\u200b\u2060\ufeff"),  # invisible: deleted
    }
)
_MARK = re.compile(f"[{''.join(map(chr, _MARKS))}]")
_FOREIGN = re.compile(f"[^\0-\x7f{_SPACES}{''.join(map(chr, _MARKS))}]")
_PAUSE = re.compile(rf"(?<=[^\s\"'“‘])[{_SPACES}]*[–—―][{_SPACES}]*(?=[^\W\d])")  # between words


def _normalize_punctuation(text: str) -> str:
    """Write quotes, dashes and ellipses in ASCII, except in texts of another alphabet.

    Up to 1 in 200 other characters (a café, a heart) is normal in English. Texts with more keep
    their marks, which belong to their language, such as the dash that opens speech in Spanish.
    """
    plain = text.isascii() or not _MARK.search(text)
    if plain or len(_FOREIGN.findall(text)) * 200 > len(text):
        return text
    return _PAUSE.sub(" - ", text).translate(_MARKS)


_CONTROL = re.compile(r"[\0-\x09\x0b-\x1f\x7f]")  # in ASCII, without the line break


def _normalize_whitespace(text: str) -> str:
    """One space between words, none around line breaks, one empty line between paragraphs."""
    if text.isascii() and not _CONTROL.search(text):  # fast path: most stories need no change
        untidy = "  " in text or " \n" in text or "\n " in text or "\n\n\n" in text
        if not untidy and text.strip() == text:
            return text
    text = re.sub("\r\n?|[\v\f\u2028\u2029]", "\n", text)
    text = re.sub(" ?\n ?", "\n", re.sub(f"[{_SPACES}]+", " ", text))
    return re.sub("\n{3,}", "\n\n", text).strip(" \n")


_REPAIRS = {  # in this order, since repaired mojibake may be a curly quote or a no-break space
    "mojibake": _fix_mojibake,
    "punctuation": _normalize_punctuation,
    "spaces": _normalize_whitespace,
}


def _story_of(record: str) -> str:
    """The story after the header lines of an instruct record, or "" if it has none."""
    if start := instruct.MARK.search(record):
        return instruct.only_story(record[start.end() :])
    return "" if instruct.ASKING.match(record) else record


_BROKEN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]|â€")
_OPENERS = "\"'“”„‘’‚«»‹›「『《〈【（([{—–-¿¡ \n\u200e\u200f\u2067"
_MID_START = frozenset(".,;:!?…)]}、。，．；：！？」』》〉】）")
# "Spot. Spot saw a shiny car": the tail of "Once there was a dog named Spot. Spot saw ..."
_ECHO = re.compile(r"(\w+)\. \1\b")
_CLOSERS = "\"'“”‘’«»‹›」』》〉】）)]}*_~ \n\u200e\u200f\u2069"
_ENDS = frozenset(".!?…。．！？｡‼⁇⁈⁉؟۔।॥։።။។།")
_THE_END = re.compile(r"(?:^|[\n.!?…\"'”’]) *(?:the end|fin|fine|fim|ende)$", re.IGNORECASE)


def _rejection_rule(text: str, story: str, repair_only: bool) -> str | None:
    """The rule that drops a repaired text, or None."""
    if not story:
        return "empty"
    if repair_only:
        return None
    if _CONTROL.search(text) or (not text.isascii() and _is_broken(text)):
        return "unrepairable"
    if len(story) < MIN_BYTES and len(story.encode()) < MIN_BYTES:
        return "short"
    first = story.lstrip(_OPENERS)[:1]
    if _ECHO.match(story) or first == "" or first.islower() or first in _MID_START:
        return "starts_midway"
    if _ends_midway(story):
        return "ends_midway"
    return None


def _is_broken(text: str) -> bool:
    """Whether lost characters remain after the repair."""
    if _BROKEN.search(text):
        return True
    if not _GARBLED.search(text):
        return False
    from ftfy.badness import is_bad

    return is_bad(text)  # «CAFÉ» only looks like mojibake


def _ends_midway(story: str) -> bool:
    """Whether the last sentence ends without a mark, emoji or "The End"."""
    story = story.rstrip(_CLOSERS)
    last = story[-1:]
    thai_or_lao = "\u0e00" <= last <= "\u0eff"  # they end a sentence with a space
    if last in _ENDS or thai_or_lao or _THE_END.search(story):
        return False
    return last.isascii() or unicodedata.category(last) not in ("So", "Sk", "Mn", "Cf")
