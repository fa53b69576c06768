"""Stories to order: what a language model is asked for, and which of its answers are stories.

    order = draw(prompts, seed=1337, number=0)
    story = read_answer(text, order, instruct=False)    # raises Dropped

As in the TinyStories paper (Eldan and Li 2023, arXiv 2305.07759, section 2): a verb, a noun and an
adjective make each story another one, and so do some features of stories, all drawn at random.
TinyStories-Instruct (section 4 there) puts them before the story, in lines of their own.
"""

import random
import re
from pathlib import Path
from typing import NamedTuple

from configurator import UserError
from tinystories.files import checksum
from tinystories.stories.cleaning import clean_story
from tinystories.stories.instruct import HEADERS, sentences, write
from tinystories.stories.words import KINDS, missing_words, plain, read_text, read_words

MAX_FEATURES = 3  # of one story
MAX_TITLE = 120  # characters

_THOUGHTS = re.compile(r"\s*<think>.*?</think>", re.DOTALL)  # of models that reason aloud
_SUMMARY = re.compile(r"(?:\A|\n)[ *#]*Summary[ *]*:[ *]*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?:i['’]?m|i am) (?:really |very |so )?(?:sorry|unable|afraid)\b|sorry,|i apologi[sz]e\b"
    r"|i (?:can ?not|can['’]t|will not|won['’]t)\b|as an? (?:ai|language model)\b",
    re.IGNORECASE,
)
_REMARK = re.compile(r"(?:sure|certainly|of course|okay|here)\b", re.IGNORECASE)
_MARKUP = re.compile(r"\*\*|```|</?\w+>|^ *(?:#|[-*•] |\d+[.)] )", re.MULTILINE)


class Prompts(NamedTuple):
    """What a folder of prompts holds."""

    words: dict[
        str, list[str]
    ]  # by kind; an entry is a word, perhaps with irregular forms: go/went
    features: dict[str, str]  # what each asks of a story, by its name
    template: str  # with {verb}, {noun}, {adjective} and {features}
    key: str  # a checksum of all of them


class Order(NamedTuple):
    """A story that is ordered."""

    number: int
    prompt: str
    words: tuple[str, ...]  # entries: a verb, a noun, an adjective
    features: tuple[str, ...]
    headers: tuple[str, ...]  # of its instruct record, in this order
    place: float  # of the random sentence in the story, in [0, 1)


class Dropped(Exception):
    """An answer that is no story as it was ordered; args[0] says why, in a few words."""


def read_prompts(folder: Path, instruct: bool) -> Prompts:
    """Read words.txt, features.txt and compose.txt, or compose_instruct.txt, of a folder.

    Raises UserError for a file that is missing or of another form.
    """
    form = "compose_instruct.txt" if instruct else "compose.txt"
    paths = [folder / name for name in ("words.txt", "features.txt", form)]
    texts = [read_text(path) for path in paths]
    words = read_words(paths[0])
    lines = [line.partition(":") for line in texts[1].splitlines() if line.strip()]
    features = {name.strip(): text.strip() for name, _, text in lines}
    if not all(features.values()):
        raise UserError(f"{paths[1]}: write each line as 'Name: what it asks of a story'")
    try:
        texts[2].format(verb="", noun="", adjective="", features="")
    except (LookupError, ValueError):
        fields = "{verb}, {noun}, {adjective} and {features}"
        raise UserError(f"{paths[2]}: it may have {fields}, no other braces") from None
    return Prompts(words, features, texts[2].strip(), checksum(texts))


def draw(prompts: Prompts, seed: int, number: int) -> Order:
    """Order number i of a seed, which depends on nothing else."""
    rng = random.Random(f"{seed} {number}")
    words = tuple(rng.choice(prompts.words[kind]) for kind in KINDS)
    count = rng.randint(0, min(MAX_FEATURES, len(prompts.features)))
    features = tuple(rng.sample(list(prompts.features), count))
    headers = tuple(rng.sample(HEADERS, rng.randint(1, len(HEADERS))))
    if not features and headers == ("Features",):
        headers = ("Summary",)
    verb, noun, adjective = map(plain, words)
    asked = "".join(f"{prompts.features[name]}\n" for name in features)
    prompt = prompts.template.format(verb=verb, noun=noun, adjective=adjective, features=asked)
    return Order(number, prompt, words, features, headers, rng.random())


def read_answer(text: str, order: Order, instruct: bool) -> str:
    """The story in an answer, or its record where `instruct`; raises Dropped if there is none."""
    text = _THOUGHTS.sub("", text).strip()
    if _REFUSAL.match(text):
        raise Dropped("refused")
    summary = ""
    if instruct:
        parts = _SUMMARY.split(text)
        if len(parts) != 2 or not all(part.strip() for part in parts):
            raise Dropped("wrong format")
        text, summary = parts[0], " ".join(parts[1].split())
    story, _ = clean_story(_without_title(text.strip()))
    summary, _ = clean_story(summary, repair_only=True) if instruct else ("", ())
    if story is None or summary is None or _MARKUP.search(story) or _MARKUP.search(summary):
        raise Dropped("wrong format")
    if missing_words(story, order.words):
        raise Dropped("words missing")
    return instruct_record(order, story, summary) if instruct else story


def _without_title(text: str) -> str:
    """A text without a first line that is a title, or the model's remark that here is a story.

    A title is marked as one, or stands apart and does not end as a sentence does.
    """
    first, _, rest = text.partition("\n")
    bare = first.rstrip("\"'”’»«* ")
    apart = rest.startswith("\n") and not bare.endswith((".", "!", "?", "…", ":", ",", ";"))
    titled = first.startswith(("#", "**")) or apart or (_REMARK.match(bare) and bare[-1:] == ":")
    return rest.strip() if rest.strip() and titled and len(first) <= MAX_TITLE else text


def instruct_record(order: Order, story: str, summary: str) -> str:
    """The record of a story, with the headers that were drawn for it."""
    found = sentences(story)
    values = {
        "Words": ", ".join(map(plain, order.words)),
        "Features": ", ".join(order.features),
        "Summary": summary,
        "Random sentence": found[int(order.place * len(found))],
    }
    return write({name: values[name] for name in order.headers}, story)
