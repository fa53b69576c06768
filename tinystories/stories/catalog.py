"""Where stories come from, and what a faulty story looks like.

    source = open_source("tinystories")          # downloads what is missing, records the commit
    for text in source.stories("train"):         # streams; can be called again
        story, rules = clean_story(text)         # None for a story that is dropped

A source is a data set on the Hugging Face hub, files of one's own, or the built-in storybook.
Cleaning is a pure function of one text. Two rules need a memory of other stories, duplicates and
train stories that stand in validation: whoever goes through the stories applies them, by digest.
"""

import codecs
import csv
import difflib
import fnmatch
import glob
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from configurator import UserError

SEPARATOR = "<|endoftext|>"  # stands between the stories of a .txt file
LONGEST = 16 * 2**20  # characters; a longer "story" is a file whose separators are missing
CHUNK = 2**20  # bytes read from a file at a time
ENDINGS = (".txt", ".jsonl", ".json", ".csv", ".parquet")
STORYBOOK_COUNT = 50_000  # stories that the built-in storybook tells unless asked otherwise

Split = Literal["train", "val", "test"]


class Part(NamedTuple):
    """The files and rows of a hub repository that make a split."""

    patterns: tuple[str, ...]  # of file names; the first that matches any file counts
    first: int = 0  # rows [first, end) of these files
    end: int | None = None


class HubSource(NamedTuple):
    """A data set on the hub."""

    repo: str
    splits: dict[Split, Part]
    instruct: bool = False  # header lines, then "Story:", then the story


HUB = {
    "tinystories": HubSource(
        "roneneldan/TinyStories",
        {"train": Part(("*train*.parquet",)), "val": Part(("*validation*.parquet",))},
    ),
    "tinystories_v2": HubSource(
        "roneneldan/TinyStories",
        {
            "train": Part(("TinyStoriesV2-GPT4-train.txt",)),
            "val": Part(("TinyStoriesV2-GPT4-valid.txt",)),
        },
    ),
    # The hub also offers these files as tables with one line a row, from which the records are
    # put together again.
    "tinystories_instruct": HubSource(
        "roneneldan/TinyStoriesInstruct",
        {
            "train": Part(("TinyStories-Instruct-train.txt", "*train*.parquet")),
            "val": Part(("TinyStories-Instruct-valid.txt", "*validation*.parquet")),
        },
        instruct=True,
    ),
    # One table, shuffled before it was published; its card gives these rows.
    "tinystories_clean": HubSource(
        "karpathy/tinystories-gpt4-clean",
        {
            "test": Part(("*.parquet",), 0, 10_000),
            "val": Part(("*.parquet",), 10_000, 20_000),
            "train": Part(("*.parquet",), 20_000),
        },
    ),
}


@dataclass(frozen=True)
class Source:
    """Where stories come from: each split can be streamed as often as one likes."""

    name: str  # short, for the folder under data/
    origin: str  # what a person would call it: a repository, a path
    revision: str | None  # the commit, for a source on the hub
    instruct: bool  # records with header lines, to be cleaned as such
    files: dict[Split, tuple[Path, ...]]  # on this disk; none for the storybook
    readers: dict[Split, Callable[[], Iterator[str]]]

    def stories(self, split: Split) -> Iterator[str]:
        """Stream the raw texts of a split, always in the same order, in bounded memory.

        Raises:
            UserError: the split holds no story, or a file cannot be read as what it claims to be.
        """
        text = None
        for text in self.readers[split]():
            yield text
        if text is None:
            hint = "; raise --val_fraction or give --val_source" if split == "val" else ""
            raise UserError(f"{self.origin} gives no story for {split}{hint}")


def open_source(
    source: str,
    *,
    revision: str = "main",
    val_source: str | None = None,
    val_fraction: float = 0.01,
    text_field: str | None = None,
    count: int | None = None,
) -> Source:
    """Open a source by name or path; a source on the hub is downloaded where it is not yet.

    Args:
        source: a key of HUB, "storybook", a path, or a glob.
        revision: branch, tag or commit of a source on the hub.
        val_source: path or glob of the validation stories of one's own files.
        val_fraction: without val_source, the share of stories that goes to validation. A hash of
            the text decides, so a story stays on its side when others are added.
        text_field: column that holds the text; "text" or "story" where it is left out.
        count: number of stories that the storybook tells.

    Raises:
        UserError: whatever the user can mend, from a misspelt path to a missing network.
    """
    own_files = source not in HUB and source != "storybook"
    if count is not None and source != "storybook":
        raise UserError("the number of stories can be chosen only for --source=storybook")
    if not own_files and (val_source is not None or text_field is not None):
        raise UserError(f"--val_source and --text_field go with files of your own, not {source}")
    if source in HUB:
        return _open_hub(source, revision)
    if val_source is None and not 0 < val_fraction < 1:
        raise UserError(f"--val_fraction lies between 0 and 1, not at {val_fraction}")
    if own_files:
        return _open_files(source, val_source, val_fraction, text_field)
    return _open_storybook(STORYBOOK_COUNT if count is None else count, val_fraction)


def digest(text: str) -> int:
    """A 64-bit hash of a text: to find exact duplicates, and to choose validation stories.

    Short, because millions of them are held at once. The chance that any two different stories
    among the three million of TinyStories share one is 1 in 4 million.
    """
    hashed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little")


# --- cleaning -----------------------------------------------------------------------------------

RULES = {
    "mojibake": "letters garbled by a wrong encoding, repaired",
    "punctuation": "curly quotes, long dashes and ellipses made plain",
    "spaces": "blanks and line breaks made regular",
    "empty": "dropped, no story in it",
    "short": "dropped, too short for a story",
    "unrepairable": "dropped, characters lost beyond repair",
    "starts_midway": "dropped, starts in the middle of a sentence",
    "ends_midway": "dropped, ends in the middle of a sentence",
    "duplicate": "dropped, the same text came before",
    "in_validation": "dropped from train, stands in validation",
}

SHORTEST = 60  # UTF-8 bytes: ten English words, or twenty Chinese characters


def clean_story(
    text: str, *, repair_only: bool = False, instruct: bool = False
) -> tuple[str | None, tuple[str, ...]]:
    """Repair a story, or drop it where it is not one.

    Args:
        text: one raw story or record.
        repair_only: drop only what is empty; keeps a published validation set the yardstick it is.
        instruct: header lines precede the story. They are repaired with it, and not judged.

    Returns:
        the cleaned text and the RULES that changed it; or None and the rule that dropped it.
    """
    changed = []
    for rule, repair in _REPAIRS:
        before, text = text, repair(text)
        if text != before:
            changed.append(rule)
    fault = _fault(text, _story_of(text) if instruct else text, repair_only)
    return (None, (fault,)) if fault else (text, tuple(changed))


# UTF-8 read as Windows-1252 shows as a letter from Â to ô, followed by what its continuation
# bytes (80 to BF) look like there. Bytes read as Latin-1 show as C1 control characters.
_TAIL = "[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
_GARBLED = re.compile(f"[\x80-\x9f]|[Â-ß]{_TAIL}|[à-ï]{_TAIL}{{2}}|[ð-ô]{_TAIL}{{3}}|â€")
# A closing quote is the bytes E2 80 9D. Windows-1252 has no letter for 9D, so it got lost on the
# way and "Hi!â€ is left. We give it back: ftfy would take the blank behind for the lost byte and
# read a dagger. In front of a letter it may have been an apostrophe as well: there it stays.
_CUT_QUOTE = re.compile(r"â€(?=â€|[\s!-/:-@\[-`{-~]|$)")


def _unscramble(text: str) -> str:
    """Undo a wrong decoding, where the text shows signs of one."""
    if text.isascii() or not _GARBLED.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(_CUT_QUOTE.sub("â€\x9d", text))


_BLANKS = " \t\xa0\u2000-\u200a\u202f\u205f"  # not U+3000, which indents paragraphs in Chinese
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
_FOREIGN = re.compile(f"[^\0-\x7f{_BLANKS}{''.join(map(chr, _MARKS))}]")
_PAUSE = re.compile(rf"(?<=[^\s\"'“‘])[{_BLANKS}]*[–—―][{_BLANKS}]*(?=[^\W\d])")  # between words


def _plain_punctuation(text: str) -> str:
    """Write quotes, dashes and ellipses in ASCII where all else is: one way to say it in English.

    One other character in 200 (a café, a heart) does not make a text foreign. Where there are
    more, the marks belong to its language (the dash that opens speech in Spanish) and stay.
    """
    if text.isascii() or not _MARK.search(text):
        return text
    if len(_FOREIGN.findall(text)) * 200 > len(text):
        return text
    return _PAUSE.sub(" - ", text).translate(_MARKS)


_CONTROL = re.compile(r"[\0-\x09\x0b-\x1f\x7f]")  # in ASCII, the line break excepted
_RUN = re.compile(f"[{_BLANKS}]+")


def _tidy_spaces(text: str) -> str:
    """One blank between words, none at the ends of a line, one empty line between paragraphs."""
    if text.isascii() and not _CONTROL.search(text):  # plain searches: the usual story is tidy
        untidy = "  " in text or " \n" in text or "\n " in text or "\n\n\n" in text
        if not untidy and text.strip() == text:
            return text
    text = re.sub("\r\n?|[\v\f\u2028\u2029]", "\n", text)
    text = re.sub(" ?\n ?", "\n", _RUN.sub(" ", text))
    return re.sub("\n{3,}", "\n\n", text).strip(" \n")


# In this order: what was garbled may turn out to be a curly quote or a no-break space.
_REPAIRS = (
    ("mojibake", _unscramble),
    ("punctuation", _plain_punctuation),
    ("spaces", _tidy_spaces),
)

_STORY = re.compile(r"^Story:", re.MULTILINE)
_HEADER = re.compile(r"(?:Words|Features|Summary|Random sentence):")


def _story_of(record: str) -> str:
    """The story behind the header lines of an instruct record; "" where the record has none."""
    if start := _STORY.search(record):
        return record[start.end() :].strip()
    return "" if _HEADER.match(record) else record


_BROKEN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]|â€")
_OPENERS = "\"'“”„‘’‚«»‹›「『《〈【（([{—–-¿¡ \n\u200e\u200f\u2067"
_MID_START = frozenset(".,;:!?…)]}、。，．；：！？」』》〉】）")
# "Spot. Spot saw a shiny car": the tail of "Once there was a dog named Spot. Spot saw ..."
_ECHO = re.compile(r"(\w+)\. \1\b")
_CLOSERS = "\"'“”‘’«»‹›」』》〉】）)]}*_~ \n\u200e\u200f\u2069"
_ENDS = frozenset(".!?…。．！？｡‼⁇⁈⁉؟۔।॥։።။។།")
_THE_END = re.compile(r"(?:^|[\n.!?…\"'”’]) *(?:the end|fin|fine|fim|ende)$", re.IGNORECASE)


def _fault(text: str, story: str, repair_only: bool) -> str | None:
    """The rule that drops a repaired text; None for a good one."""
    if not story:
        return "empty"
    if repair_only:
        return None
    if _CONTROL.search(text) or (not text.isascii() and _is_broken(text)):
        return "unrepairable"
    if len(story) < SHORTEST and len(story.encode()) < SHORTEST:
        return "short"
    if _ECHO.match(story) or (not story[0].isupper() and _starts_midway(story)):
        return "starts_midway"
    if story[-1] not in _ENDS and _ends_midway(story):
        return "ends_midway"
    return None


def _is_broken(text: str) -> bool:
    """Whether repair has left traces of lost characters."""
    if _BROKEN.search(text):
        return True
    if not _GARBLED.search(text):
        return False
    from ftfy.badness import is_bad

    return is_bad(text)  # ftfy knows that «CAFÉ» only looks like mojibake


def _starts_midway(story: str) -> bool:
    """Whether no sentence starts behind the opening quotes and the like."""
    first = story.lstrip(_OPENERS)[:1]
    return first == "" or first.islower() or first in _MID_START


def _ends_midway(story: str) -> bool:
    """Whether no mark, emoji or "The End" closes the last sentence."""
    story = story.rstrip(_CLOSERS)
    last = story[-1:]
    if last in _ENDS or _THE_END.search(story):
        return False
    if "\u0e00" <= last <= "\u0eff":  # Thai and Lao end a sentence with a blank
        return False
    return last.isascii() or unicodedata.category(last) not in ("So", "Sk", "Mn", "Cf")


# --- the hub ------------------------------------------------------------------------------------


def _open_hub(name: str, revision: str) -> Source:
    """Download the files of a source in HUB, all at one commit."""
    hub = HUB[name]
    with _hub_mistakes(hub.repo, revision):
        commit, sizes = _listing(hub.repo, revision)
    files, readers = {}, {}
    for split, part in hub.splits.items():
        names = _choose(hub.repo, commit, sizes, part.patterns)
        with _hub_mistakes(hub.repo, revision):
            files[split] = tuple(_download(hub.repo, name, commit, sizes[name]) for name in names)
        readers[split] = partial(_hub_texts, files[split], hub.instruct, part.first, part.end)
    return Source(name, hub.repo, commit, hub.instruct, files, readers)


def _listing(repo: str, revision: str) -> tuple[str, dict[str, int | None]]:
    """The commit behind a revision, and its files with their sizes in bytes.

    Without the network, what the cache knows of them; the sizes are None then.
    """
    from huggingface_hub import HfApi, resolve_revision, snapshot_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    commit = resolve_revision(repo, repo_type="dataset", revision=revision).resolved
    try:
        info = HfApi().dataset_info(repo, revision=commit, files_metadata=True)
        return commit, {file.rfilename: file.size for file in info.siblings}
    except (HTTPError, OSError) as unreachable:
        try:
            cached = snapshot_download(
                repo, repo_type="dataset", revision=commit, local_files_only=True
            )
        except LocalEntryNotFoundError:
            raise unreachable from None
    paths = [path for path in Path(cached).rglob("*") if path.is_file()]
    return commit, {path.relative_to(cached).as_posix(): None for path in paths}


def _choose(repo: str, commit: str, names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The names that match the first pattern to match any; UserError where some are missing."""
    chosen = next(filter(None, (fnmatch.filter(names, pattern) for pattern in patterns)), [])
    shards = [int(number) for name in chosen for number in re.findall(r"-of-(\d+)", name)]
    if len(chosen) < max(shards, default=1):
        raise UserError(
            f"{repo} at {commit[:8]} lacks files like {patterns[0]} (there are {len(chosen)}); "
            "connect to the network to complete the cache, or choose another --revision"
        )
    return sorted(chosen)


def _download(repo: str, name: str, commit: str, size: int | None) -> Path:
    """The path of a file in the hub's cache, downloaded unless it lies there in full."""
    from huggingface_hub import hf_hub_download

    get = partial(hf_hub_download, repo, name, repo_type="dataset", revision=commit)
    path = Path(get())
    if size is not None and path.stat().st_size != size:  # damaged since; the client does not look
        path = Path(get(force_download=True))
    return path


@contextmanager
def _hub_mistakes(repo: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    from huggingface_hub import constants, errors

    instead = "or take other stories: --source=PATH, or --source=storybook, which needs no network"
    try:
        yield
        return
    except errors.RevisionNotFoundError:
        mistake = f"{repo} has no revision {revision!r}; give a branch, tag or commit of it"
    except errors.GatedRepoError:
        mistake = f"{repo} wants to know who you are; log in with `hf auth login`, {instead}"
    except errors.RepositoryNotFoundError:
        mistake = f"{constants.ENDPOINT} shows no {repo}; log in with `hf auth login`, {instead}"
    except Exception as error:  # sockets, HTTP, TLS, Xet, disks: each raises kinds of its own
        reason = error.__cause__ or error
        mistake = f"HF_HUB_OFFLINE is set and {repo} is not in the cache; unset it, {instead}"
        if not isinstance(reason, errors.OfflineModeIsEnabled):
            told = " ".join(f"{type(reason).__name__}: {reason}".split())[:160]
            mistake = (
                f"cannot get {repo} from {constants.ENDPOINT} ({told}); "
                f"check the network and run again, {instead}"
            )
    raise UserError(mistake)


def _hub_texts(
    paths: tuple[Path, ...], instruct: bool, first: int, end: int | None
) -> Iterator[str]:
    """The stories or records in rows [first, end) of downloaded files."""
    texts = _texts(paths, None)
    if instruct and paths[0].suffix == ".parquet":  # one line a row
        texts = _split_stories((line + "\n" for line in texts), paths[0])
    return itertools.islice(texts, first, end)


# --- files of one's own, and the storybook ------------------------------------------------------


def _open_files(
    source: str, val_source: str | None, val_fraction: float, text_field: str | None
) -> Source:
    """Open paths or globs, and read the beginning of each file so that mistakes show at once."""
    paths = _find(source, text_field)
    if val_source is None:
        files = {"train": paths, "val": paths}
        readers = _by_hash(partial(_texts, paths, text_field), val_fraction)
    else:
        files = {"train": paths, "val": _find(val_source, text_field)}
        readers = {split: partial(_texts, files[split], text_field) for split in files}
    return Source(short_name(source), source, None, False, files, readers)


def short_name(source: str) -> str:
    """tales/fox.txt gives fox, tales/part-*.txt gives part, tales/*.txt gives tales."""
    path = Path(source).expanduser()
    for part in (path.stem, *(parent.name for parent in path.absolute().parents)):
        name = re.sub(r"\W+", "_", re.sub(r"\[.*?\]|[*?]", "", part)).strip("_")
        if name:
            return name
    return "stories"


def _find(source: str, text_field: str | None) -> tuple[Path, ...]:
    """The files that a path or glob means, in sorted order, each found to be readable."""
    path = Path(source).expanduser()
    if path.is_dir():
        raise UserError(f"{source} is a folder; say which files of it, as in {path / '*.txt'}")
    found = [path] if path.is_file() else map(Path, glob.glob(str(path), recursive=True))
    paths = tuple(sorted(path for path in found if path.is_file()))
    if not paths:
        known = [*HUB, "storybook"]
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"a source is a path or {', '.join(known)}"
        raise UserError(f"there is no file {source}; {hint}")
    try:
        beginnings = [list(itertools.islice(_file_texts(path, text_field), 2)) for path in paths]
    except OSError as error:  # no permission, a disk that fails
        raise UserError(f"cannot read {error.filename or source}: {error.strerror}") from None
    if not any(text.strip() for texts in beginnings for text in texts):
        raise UserError(f"{source} holds no stories")
    if paths[0].suffix.lower() == ".txt" and sum(map(len, beginnings)) == 1:
        raise UserError(f"{source} is one single story; write a line {SEPARATOR} between stories")
    return paths


def _by_hash(read: Callable[[], Iterator[str]], val_fraction: float) -> dict[Split, Callable]:
    """Two readers that part the same stream by a hash of each text."""
    limit = int(val_fraction * 2**64)
    return {
        "train": partial(_side, read, limit, False),
        "val": partial(_side, read, limit, True),
    }


def _side(read: Callable[[], Iterator[str]], limit: int, below: bool) -> Iterator[str]:
    """The texts whose digest lies below the limit, or else the others."""
    return (text for text in read() if (digest(text) < limit) is below)


def _open_storybook(count: int, val_fraction: float) -> Source:
    """The built-in stories, told anew each time."""
    from tinystories.stories.storybook import stories

    if count < 1:
        raise UserError(f"the storybook tells one story or more, not {count}")
    readers = _by_hash(partial(stories, count), val_fraction)
    return Source("storybook", f"storybook of {count:,} stories", None, False, {}, readers)


# --- reading files ------------------------------------------------------------------------------


def _texts(paths: tuple[Path, ...], text_field: str | None) -> Iterator[str]:
    """The texts of several files, one file after the other."""
    return itertools.chain.from_iterable(_file_texts(path, text_field) for path in paths)


def _file_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts of a file, read as its ending says."""
    match path.suffix.lower():
        case ".txt":
            return _split_stories(_decoded(path), path)
        case ".jsonl" | ".json":
            return _json_texts(path, text_field)
        case ".csv":
            return _csv_texts(path, text_field)
        case ".parquet":
            return _parquet_texts(path, text_field)
    raise UserError(f"cannot read stories from {path}; the endings known are {', '.join(ENDINGS)}")


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file, piece by piece; UserError where it is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while True:
            at = file.tell() - len(decoder.getstate()[0])  # bytes of a cut character wait inside
            chunk = file.read(CHUNK)
            try:
                piece = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = f"{path}, byte {at + error.start:,}"
                raise UserError(f"{place}: this is not UTF-8; save the file as UTF-8") from None
            yield piece.removeprefix("\ufeff") if at == 0 else piece  # a mark some editors write
            if not chunk:
                return


def _split_stories(pieces: Iterable[str], path: Path) -> Iterator[str]:
    """Cut at the separators. The line break next to one is its own, all else is the story's."""
    rest, first = "", True
    for piece in pieces:
        *stories, rest = (rest + piece).split(SEPARATOR)
        for story in stories:
            if not first or story.strip():  # a file may begin with a separator
                yield _unwrap(story)
            first = False
        if len(rest) > LONGEST:
            raise UserError(f"{path} has {LONGEST:,} characters without a line {SEPARATOR} between")
    if rest.strip():
        yield _unwrap(rest)


def _unwrap(story: str) -> str:
    """The story without one line break at either end."""
    story = story[2:] if story.startswith("\r\n") else story.removeprefix("\n")
    return story[:-2] if story.endswith("\r\n") else story.removesuffix("\n")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, with their line breaks."""
    rest = ""
    for piece in _decoded(path):
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            yield line + "\n"
        if len(rest) > LONGEST:
            raise UserError(f"{path} has a line of more than {LONGEST:,} characters; break it up")
    if rest:
        yield rest


def _json_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts of a file with one JSON value a line, or one JSON list: objects or bare texts."""
    for place, row in _json_rows(path):
        if isinstance(row, dict):
            row = row[_column(row, text_field, place)]
        yield _text(row, place)


def _json_rows(path: Path) -> Iterator[tuple[str, object]]:
    """The values of a JSON file, each with the place to name when something is wrong with it."""
    if next(_decoded(path)).lstrip().startswith("["):
        for index, row in enumerate(_loads("".join(_decoded(path)), path, 1), 1):
            yield f"{path}, entry {index:,}", row
        return
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield f"{path}, line {number:,}", _loads(line, path, number)


def _loads(text: str, path: Path, first_line: int) -> object:
    """Parse JSON that begins in a given line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}, line {first_line + error.lineno - 1:,}"
        raise UserError(f"{place}: this is not JSON ({error.msg}); one object a line") from None


def _csv_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts in a column of a CSV file, whose first line names the columns."""
    csv.field_size_limit(LONGEST)
    rows = csv.DictReader(_lines(path), strict=True)
    try:
        column = _column(rows.fieldnames or (), text_field, path)
        for row in rows:
            yield _text(row[column], f"{path}, line {rows.line_num:,}")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,}: this is not CSV ({error})") from None


def _parquet_texts(path: Path, text_field: str | None) -> Iterator[str]:
    """The texts in a column of a parquet file, of which one row group is held at a time."""
    import pyarrow
    import pyarrow.parquet
    from datasets import IterableDataset

    try:
        column = _column(pyarrow.parquet.read_schema(path).names, text_field, path)
        table = IterableDataset.from_parquet([glob.escape(str(path))], columns=[column])
        for batch in table.iter(batch_size=1000):
            for value in batch[column]:
                yield _text(value, path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:160]
        whole = path.resolve()  # behind a file in the hub's cache stands another
        raise UserError(f"cannot read {path} ({told}); delete {whole}, fetch it again") from None


def _column(names: Iterable[str], text_field: str | None, place: object) -> str:
    """The column that holds the text."""
    wanted = ("text", "story") if text_field is None else (text_field,)
    for column in wanted:
        if column in names:
            return column
    there = ", ".join(names) or "none"
    raise UserError(
        f"{place}: no column {' or '.join(wanted)}; name one with --text_field, there are: {there}"
    )


def _text(value: object, place: object) -> str:
    """A cell as text. Half a character, as JSON can spell it, becomes the replacement character."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: a story is text, this is {str(value)[:40]!r}")
    return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)
