"""Words that bend: which words of a text are a verb, a noun or an adjective in one of its forms.

    missing_words("Two puppies hopped.", ["hop", "puppy", "small"])    # ["small"]

Regular forms are made by rules, as English spells them (hop: hops, hopped, hopping). An entry may
have irregular ones behind a slash: go/went/gone.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from configurator import ROOT, UserError

KINDS = ("verbs", "nouns", "adjectives")
LISTS = ROOT / "prompts" / "words.txt"


def read_words(path: Path = LISTS) -> dict[str, list[str]]:
    """The entries of a file by kind; raises UserError for one that is missing or of another form.

    A line "# verbs", perhaps with a remark behind a colon, begins the verbs.
    """
    words = {kind: [] for kind in KINDS}
    kind = ""
    for line in read_text(path).splitlines():
        if line.startswith("#"):
            kind = line.strip("# ").partition(":")[0]
        elif entries := line.split():
            words.setdefault(kind, []).extend(entries)
    if list(words) != list(KINDS) or not all(words.values()):
        kinds = "'# verbs', '# nouns' and '# adjectives'"
        raise UserError(f"{path}: words stand below lines {kinds}")
    return words


def read_text(path: Path) -> str:
    """A file of the prompts; raises UserError where it cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the prompts in {path.parent} are not UTF-8; save them as UTF-8") from None


def plain(entry: str) -> str:
    """The word itself, of an entry that may have irregular forms: go of go/went/gone."""
    return entry.partition("/")[0]


def words_in(text: str) -> set[str]:
    """The words of a text, in lower case. A combining mark belongs to its letter."""
    text = text.lower()
    if text.isascii():
        return set(re.findall("[a-z]+", text))
    letters = "".join(c if unicodedata.category(c)[0] in "LM" else " " for c in text)
    return {re.sub(r"^\W+", "", word) for word in letters.split()} - {""}


def missing_words(story: str, entries: Sequence[str]) -> list[str]:
    """Which of a verb, a noun and an adjective the story does not have, in any form."""
    found = words_in(story)
    pairs = zip(KINDS, entries, strict=True)
    return [plain(entry) for kind, entry in pairs if not found & forms(entry.lower(), kind)]


@cache
def forms(entry: str, kind: str) -> frozenset[str]:
    """A word in lower case, and its inflected forms."""
    word, *irregular = entry.split("/")
    soft = re.sub(r"(?<![aeiou])y$", "i", word)  # carry: carries, carried; happy: happily
    stem = word.removesuffix("e") if soft == word else soft  # bake: baked
    running = re.sub(r"(?<![eoy])e$", "", re.sub("ie$", "y", word))  # bake: baking; lie: lying
    if re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", word):  # hop: hopped; but open: opened
        stem = running = word + word[-1]
    plural = soft + ("es" if soft != word or re.search("(s|x|z|ch|sh|o)$", word) else "s")
    adverb = re.sub(r"(?<=[^aeiou])le$", "", soft)  # gentle: gently
    adverb = re.sub("ll$", "l", re.sub("ic$", "ical", adverb)) + "ly"  # full: fully
    past = {stem + "ed"} if len(irregular) < 2 else set()  # seed is none of see/saw/seen
    regular = {
        "verbs": {plural, running + "ing"} | past,
        "nouns": {plural, word + "s"},  # heroes; pianos
        "adjectives": {stem + "er", stem + "est", adverb},
    }
    return frozenset({word, *irregular} | regular[kind])


class Lexicon:
    """The words of a file, to find in texts in any form."""

    def __init__(self, entries: dict[str, list[str]]):
        self.entries: dict[str, set[tuple[str, str]]] = {}  # (entry, kind) by word
        self.kinds: dict[str, set[tuple[str, str]]] = {}  # (entry, kind) by form
        for kind, values in entries.items():
            for entry in values:
                self.entries.setdefault(plain(entry), set()).add((entry, kind))
                for form in forms(entry, kind):
                    self.kinds.setdefault(form, set()).add((entry, kind))

    def occurs(self, word: str, found: set[str]) -> bool:
        """Whether a word is among those found in a text, in any form.

        The forms are those of its kinds in the file; of another word, those of all three kinds.
        Of several words, as ice cream, each has to be there as it is.
        """
        word = word.lower()
        if len(parts := words_in(word)) > 1:
            return parts <= found
        kinds = self.entries.get(word) or {(word, kind) for kind in KINDS}
        return any(found & forms(entry, kind) for entry, kind in kinds)

    def certain(self, found: Iterable[str]) -> dict[str, list[str]]:
        """The words of the file in a text, by kind, where the form can be of one word only.

        So "saw" counts neither as the tool nor as a form of "see". Of verbs only past forms and
        those in -ing count, since the others often are nouns, and of adjectives no adverbs.
        """
        words = {kind: [] for kind in KINDS}
        for form in sorted(found):
            meanings = self.kinds.get(form, ())
            if len(meanings) == 1:
                ((entry, kind),) = meanings
                word = plain(entry)
                in_doubt = {
                    "verbs": form == word or form[-1] == "s",
                    "adjectives": form[-2:] == "ly",
                }
                if not in_doubt.get(kind):
                    words[kind].append(word)
        return words
