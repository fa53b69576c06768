"""Records of TinyStories-Instruct: header lines that ask for a story, then the story.

    Words: jump, boat, brave
    Features: Dialogue, MoralValue
    Summary: A girl jumps into a boat and finds out that she is brave.
    Random sentence: The boat began to rock.
    Story:

    Once upon a time, ...

As in the TinyStories paper (Eldan and Li 2023, arXiv 2305.07759, section 4): a record has some of
the four headers, in any order. Published records without a summary before the story have it
after the story, in a line of the same form.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from configurator import UserError

HEADERS = ("Words", "Features", "Summary", "Random sentence")
FEATURES = ("Dialogue", "MoralValue", "BadEnding", "Twist", "Conflict", "Foreshadowing")
STORY_MARK = "Story: \n\n"  # between the headers of a record and its story
ASKING = re.compile(rf"(?:{'|'.join(HEADERS)}):")
MARK = re.compile(r"^Story:", re.MULTILINE)
AFTER = re.compile(rf"\n\s*{ASKING.pattern}.*\Z", re.DOTALL)  # a header line after the story
# "Stop!" said Mia. is one sentence: no sentence begins with a small letter, or ends with Mrs.
SENTENCE = re.compile(
    r"\S.*?(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)[.!?]+[\"')”’]*(?=\s+[^a-z\s]|\s*\Z)", re.DOTALL
)


class Record(NamedTuple):
    """A record."""

    prompt: str  # all of it before the story
    headers: dict[str, str]  # by name; of one that is repeated, the last
    story: str

    @property
    def words(self) -> list[str]:
        return _items(self.headers.get("Words", ""))

    @property
    def features(self) -> list[str]:
        return _items(self.headers.get("Features", ""))

    @property
    def summary(self) -> str:
        return self.headers.get("Summary", "")

    @property
    def sentence(self) -> str:
        return self.headers.get("Random sentence", "")


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def write(headers: Mapping[str, str], story: str) -> str:
    """A record with those headers that have a value, in the order given."""
    return header_lines(headers) + STORY_MARK + story


def header_lines(headers: Mapping[str, str]) -> str:
    """The headers that have a value, each in a line of its own."""
    return "".join(f"{name}: {value}\n" for name, value in headers.items() if value)


def parse(text: str) -> Record | None:
    """Read a record; None where the text is none: it has no header, or no "Story:" after it."""
    mark = MARK.search(text) if ASKING.match(text) else None
    if not mark:
        return None
    headers, name = {}, ""
    for line in text[: mark.start()].splitlines():
        if ASKING.match(line):
            name, _, line = line.partition(":")
            headers[name] = ""
        headers[name] = f"{headers[name]} {line.strip()}".strip()
    headers = {name: value for name, value in headers.items() if value}
    rest = text[mark.end() :]
    begin = len(text) - len(rest.lstrip())
    return Record(text[:begin], headers, only_story(rest))


def only_story(text: str) -> str:
    """What follows "Story:", without the space around it and without a summary at the end."""
    return AFTER.sub("", text).strip()


def story_of(text: str) -> str:
    """The story of a record; a text that is no record is the story."""
    record = parse(text)
    return record.story if record else text


def has_records(texts: Iterable[str]) -> bool:
    """Whether there is a record among some texts."""
    return any(parse(text) for text in texts)


def sentences(story: str) -> list[str]:
    """The sentences of a story, each in one line; a story without any is one."""
    return [" ".join(sentence.split()) for sentence in SENTENCE.findall(story)] or [story]


def prompt_of(
    words: str | None, features: str | None, summary: str | None, sentence: str | None
) -> str:
    """All of a record before its story; "" where nothing is asked for.

    Words and features are lists with commas. Raises UserError for a value that is empty or has
    several lines, and for a feature that no record has.
    """
    given = {"words": words, "features": features, "summary": summary, "sentence": sentence}
    for name, value in given.items():
        if value is not None and (not value.strip(", \n") or len(value.strip().splitlines()) > 1):
            raise UserError(f"{name}={value!r}: give one line")
    known = {name.lower(): name for name in FEATURES}
    wanted = _items(features or "")
    if unknown := [name for name in wanted if name.lower() not in known]:
        raise UserError(f"features: no {unknown[0]}; choose from {', '.join(FEATURES)}")
    values = (
        ", ".join(_items(words or "")),
        ", ".join(known[name.lower()] for name in wanted),
        (summary or "").strip(),
        (sentence or "").strip(),
    )
    lines = header_lines(dict(zip(HEADERS, values, strict=True)))
    return f"{lines}Story:\n\n" if lines else ""


def cut_for(prompt: str, encode: Callable[[str], list[int]]) -> str:
    """What to give a model of the text before a story, so that it has the ids of training.

    GPT-2's vocabulary has other ids for two line breaks at the end of a text than for those before
    a word. There the model writes the line breaks itself.
    """
    whole = encode(f"{prompt}S")  # a letter that the vocabulary has, as "Story:" does
    for text in (prompt, prompt.rstrip()):
        ids = encode(text)
        if ids == whole[: len(ids)]:
            return text
    return prompt
