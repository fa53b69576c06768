"""Tell how good a model is: one table, and evaluation.json in the run folder.

    python evaluate.py                          the run trained last
    python evaluate.py --compare=out/a,out/b    a column each, and their curves
    python evaluate.py --val_source=FILE        the loss on stories of your own
    python evaluate.py --nearest=True           what was told, and its nearest
    python evaluate.py --leak=True --dataset=x  validation text in training text

What has been measured already, with the same settings, is taken from
evaluation.json. The table goes to standard output, all else to standard error.
"""

import hashlib
import json
import math
import re
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from configurator import ROOT, UserError, parse, start

PARTS = ("loss", "pairs", "generation", "memory")
JUDGE = "judge"  # the part that needs a judge_url


@dataclass
class Settings:
    # Runs
    out_dir: str | None = None  # folder of the run; None: the run trained last
    compare: str | None = None  # several folders, with commas between them
    picture: str = "out/compare.png"  # where --compare draws the curves of the runs
    checkpoint: str = "best.pt"  # in each folder: best.pt or ckpt.pt, the newest
    what: str = ",".join(PARTS)  # what to measure
    overwrite: bool = False  # measure again what stands in evaluation.json
    # Texts
    dataset: str | None = None  # folder under data/; None: the one the run was trained on
    val_source: str | None = None  # stories for the loss, as they stand; None: the dataset's
    pairs: str | None = None  # file of story pairs; None: the project's own
    beginnings: str | None = None  # file of beginnings; None: the project's own
    leak: bool = False  # only look for the validation text in the training text
    # Stories told
    stories_each: int = 10  # to each beginning, in one batch
    max_characters: int = 3000  # a story that goes on for longer is cut off
    temperature: float = 1.0  # below 1 safer, above 1 wilder
    seed: int = 1337  # the same seed tells the same stories
    nearest: bool = False  # show the 3 stories closest to training stories beside these
    # A language model as judge
    judge_url: str | None = None  # of an OpenAI-compatible endpoint; None: no judge
    judge_model: str | None = None  # its name there
    # Machine
    device: str = "auto"  # auto, cuda, cuda:1, mps, cpu
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of matrix products

    def __post_init__(self):
        for name in ("stories_each", "max_characters"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must lie in 0 to 2^63")
        if self.temperature < 0:
            raise UserError(f"temperature is {self.temperature}; it must not be negative")
        if not self.parts() <= {*PARTS, JUDGE}:
            raise UserError(f"what={self.what}: choose from {','.join((*PARTS, JUDGE))}")
        if self.nearest and "memory" not in self.parts():
            raise UserError("nearest shows what memory finds; add memory to --what")
        if self.compare is not None and self.out_dir is not None:
            raise UserError("give either out_dir or compare")
        if self.compare is not None and not self.compare.strip(", "):
            raise UserError("compare wants run folders with commas between them")
        if self.compare is not None and self.leak:
            raise UserError("leak is about one dataset; give out_dir or dataset, not compare")
        if Path(self.picture).suffix != ".png":
            raise UserError(f"picture={self.picture}: name a file that ends in .png")
        asked = (self.judge_url is not None, self.judge_model is not None, JUDGE in self.parts())
        if any(asked) and not all(asked):
            raise UserError("the judge needs both judge_url and judge_model")

    def parts(self) -> set[str]:
        """What to measure: memory and the judge are about the stories of generation."""
        asked = {part.strip() for part in self.what.split(",")} | (
            {JUDGE} if self.judge_url else set()
        )
        return asked | ({"generation"} if asked & {"memory", JUDGE} else set())


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    start(parse, Settings, sys.argv[1:])

import numpy as np
from tqdm import tqdm

from model import GPT
from tinystories import dataset as tokens
from tinystories import device
from tinystories import generate as storyteller
from tinystories import run as checkpoint
from tinystories.evaluation import copies as memory
from tinystories.evaluation import diversity as variety
from tinystories.evaluation import judge, report
from tinystories.evaluation import pairs as prompts
from tinystories.stories import catalog as corpus
from tinystories.tokenizer import Tokenizer, batches, gpt2

RESULT = "evaluation.json"  # in the run folder
STORIES = "evaluation_stories.jsonl"  # beside it
SCAN = 2**22  # ids that are looked through at a time
TEXTS_AT_ONCE = 512  # stories or continuations whose losses are measured in one go
NEAR = 0.7  # a ROUGE-L above it makes a story a copy
FIRST_SENTENCE = re.compile(r".*?[.!?][\"”’')]*\s+", re.DOTALL)
SHOWN = 3  # stories that --nearest shows


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated, and what belongs to it."""

    settings: Settings
    name: str  # as the user gave it
    folder: Path
    model: GPT
    tokenizer: Tokenizer
    hardware: device.Hardware
    about: dict  # which model it is: what evaluation.json says of it
    data: tokens.Dataset | None  # None where it is not there, or in other tokens now

    def dataset(self) -> tokens.Dataset:
        """The data, for what cannot do without it.

        Raises:
            UserError: it is not there.
        """
        if self.data is None:
            raise UserError(
                f"the dataset that {self.name} was trained on is not there: prepare it, name it "
                "with --dataset=, or do without: --val_source=FILE --what=loss,pairs,generation"
            )
        return self.data

    def machine(self) -> dict:
        """What the last digits depend on."""
        precision = str(self.hardware.dtype).removeprefix("torch.")
        return {"device": self.hardware.device.type, "dtype": precision}


@dataclass(frozen=True)
class Told:
    """A story that the model told."""

    beginning: str  # was given
    story: str  # beginning included
    ended: bool  # by the model itself

    @property
    def own(self) -> str:
        """What the model wrote."""
        return self.story[len(self.beginning) :]


def main(argv: list[str]) -> None:
    s = parse(Settings, argv).settings
    if s.leak:
        return print_leak(s)
    check_given(s)
    names = run_names(s)
    for name in names:
        for file in (s.checkpoint, "log.csv") if s.compare else (s.checkpoint,):
            if not (checkpoint.run_folder(name) / file).is_file():
                raise UserError(f"there is no run with {file} in {name}")
    try:
        results = {name: evaluate(open_subject(s, name)) for name in names}
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        hint = f"lower stories_each (now {s.stories_each}), or take --device=cpu"
        raise UserError(f"out of memory: {hint}") from None
    print_table(results)
    if s.nearest:
        for name, result in results.items():
            for match in result["memory"]["closest"]:
                print(f"\n{name}: {report.closest_stories(match)}")
    if s.compare:
        draw(names, s.picture)


def check_given(s: Settings) -> None:
    """Raises UserError for files and an address that would fail only after minutes of measuring."""
    prompts.read_pairs(s.pairs or prompts.PAIRS)
    prompts.read_beginnings(s.beginnings or prompts.BEGINNINGS)
    if s.judge_url:
        judge.check_url(s.judge_url)
    picture = ROOT / Path(s.picture).expanduser()
    nearest = next(folder for folder in picture.parents if folder.exists())
    if s.compare and (picture.is_dir() or not nearest.is_dir()):
        raise UserError(f"picture={s.picture}: no file can be written there")


def run_names(s: Settings) -> list[str]:
    """The runs to evaluate, each once.

    Raises:
        UserError: none is named, and there is none.
    """
    if s.compare is None:
        return [s.out_dir or checkpoint.newest_run()]
    given = (name.strip() for name in s.compare.split(","))
    return list({checkpoint.run_folder(name): name for name in given if name}.values())


# What is evaluated -------------------------------------------------------------------------


def open_subject(s: Settings, name: str) -> Subject:
    """Load a run's model, and open the data that it was trained on.

    Raises:
        UserError: a folder or file that is missing or damaged, or data in other tokens.
    """
    folder = checkpoint.run_folder(name)
    model, tokenizer, state = checkpoint.load_model(folder, s.checkpoint)
    hardware = device.select_hardware(s.device, s.dtype)
    note(f"{s.checkpoint} of {name}; {'; '.join(hardware.reasons)}")
    about = {
        "checkpoint": s.checkpoint,
        "sha256": sha256([folder / s.checkpoint]),
        "step": state.get("step", state.get("progress", {}).get("step")),
        "parameters": model.count_parameters(),
        "vocabulary": tokenizer.vocab_size,
        "block_size": model.config.block_size,
    }
    data = open_data(s, folder, model.config.block_size)
    if data and own_tokenizer(data).fingerprint != tokenizer.fingerprint:
        if s.dataset:
            raise UserError(f"{data.folder} was prepared with another tokenizer than {name} has")
        data = None  # prepared anew since then
    return Subject(s, name, folder, model.to(hardware.device), tokenizer, hardware, about, data)


def open_data(s: Settings, folder: Path | None, block_size: int) -> tokens.Dataset | None:
    """The dataset that is named, or else the one of the run in `folder`; None if it is gone.

    Raises:
        UserError: the one that is named is not there, or a damaged one.
    """
    if s.dataset is None and not (folder / "config.json").is_file():
        return None
    try:
        dataset = s.dataset or checkpoint.read_config(folder)["dataset"]
        return tokens.open_dataset(dataset, block_size)
    except FileNotFoundError:
        if s.dataset is None:
            return None
        raise UserError(f"there is no dataset {s.dataset}; prepare.py makes it") from None


def own_tokenizer(data: tokens.Dataset) -> Tokenizer:
    """The tokenizer of a dataset."""
    return Tokenizer.load(data.folder / "tokenizer.json") if data.meta else gpt2()


def evaluate(subject: Subject) -> dict:
    """Measure what the settings ask for; what is known already is not measured again.

    evaluation.json is written after each part, so that nothing is lost when a later one fails.
    """
    s, path = subject.settings, subject.folder / RESULT
    known = read_result(path, subject.about)
    measures = (measure_loss, measure_pairs, measure_generation, measure_memory, measure_judge)
    for part, measure in zip((*PARTS, JUDGE), measures, strict=True):
        if part in s.parts():
            known[part] = measure(subject, {} if s.overwrite else known.get(part, {}))
            drop_outdated(known)
            in_order = {name: known[name] for name in (*PARTS, JUDGE) if name in known}
            text = json.dumps({"run": subject.about} | in_order, indent=2, ensure_ascii=False)
            atomic_write(path, (text + "\n").encode())
    return {"run": subject.about} | {part: known[part] for part in known if part in s.parts()}


def drop_outdated(known: dict) -> None:
    """Remove the parts that are about stories told before those that are kept now."""
    kept = known.get("generation", {}).get("sha256")
    for part in ("memory", JUDGE):
        if part in known and known[part]["asked"]["stories_sha256"] != kept:
            del known[part]


def read_result(path: Path, about: dict) -> dict:
    """The parts of an earlier evaluation.json; none if it is about another model."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return result if result.pop("run") == about else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return {}


# Loss --------------------------------------------------------------------------------------


def measure_loss(subject: Subject, known: dict) -> dict:
    """The loss over the validation text: as one text, and over each story by itself."""
    name, checksum = validation(subject)
    asked = {"text": name, "sha256": checksum} | subject.machine()
    if known.get("asked") == asked:
        return known
    lengths, end_of_text = subject.tokenizer.byte_lengths(), subject.tokenizer.end_of_text
    with validation_file(subject) as file:
        size = max(1, storyteller.TOKENS_AT_ONCE // file.block_size)
        starts = file.sequential_starts()
        parts = progress(range(0, len(starts), size), "loss")
        windows = (file.windows(starts[first : first + size]) for first in parts)
        whole = storyteller.measure(subject.model, windows, lengths, subject.hardware)
        stories = [np.append(end_of_text, ids) for ids in stories_in(file.ids, end_of_text)]
    each = measure_texts(subject, stories, [1] * len(stories), "loss by story")
    return {
        "asked": asked,
        "stories": len(stories),
        "bytes": sum(loss.bytes for loss in each),
        "whole": figures_of(whole),
        "by_story": figures_of(sum(each, storyteller.Loss()))
        | {"bits_per_byte_95": interval_of_mean(each)},
    }


def measure_texts(
    subject: Subject, texts: list[np.ndarray], given: list[int], what: str
) -> list[storyteller.Loss]:
    """The loss over each text by itself, as `storyteller.measure_texts`, with a progress bar."""
    lengths, losses = subject.tokenizer.byte_lengths(), []
    model = subject.model.eval()
    for first in progress(range(0, len(texts), TEXTS_AT_ONCE), what):
        some = slice(first, first + TEXTS_AT_ONCE)
        losses += storyteller.measure_texts(
            model, texts[some], given[some], lengths, subject.hardware
        )
    return losses


def validation(subject: Subject) -> tuple[str, str]:
    """The name and the sha256 of the file that the loss is measured on."""
    source = subject.settings.val_source
    if source is None:
        path = subject.dataset().val.path
        return f"{path.parent.name}/{path.name}", sha256([path])
    return source, sha256(own_source(source).files["val"])


def own_source(path: str) -> corpus.Source:
    """The user's own validation stories."""
    return corpus.open_source(path, val_source=path)


@contextmanager
def validation_file(subject: Subject) -> Iterator[tokens.TokenFile]:
    """The validation tokens; stories of the user's own are tokenised into a temporary file."""
    source, tokenizer = subject.settings.val_source, subject.tokenizer
    if source is None:
        yield subject.dataset().val
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path, block_size = Path(folder) / "val.bin", subject.model.config.block_size
        with open(path, "wb") as file:
            for batch in batches(own_source(source).stories("val")):
                file.write(tokenizer.encode_stories(batch).astype("<u2").tobytes())
        count = path.stat().st_size // 2
        if count < 2:
            raise UserError(f"{source} holds no story")
        yield tokens.TokenFile(path, tokenizer.vocab_size, min(block_size, count - 1))


def stories_in(ids: np.ndarray, end_of_text: int) -> Iterator[np.ndarray]:
    """The ids of each story, end of text behind it included, in bounded memory."""
    ids, start = np.asarray(ids), 0
    for first in range(0, len(ids), SCAN):
        for place in np.flatnonzero(ids[first : first + SCAN] == end_of_text):
            yield ids[start : first + place + 1]
            start = first + place + 1
    if start < len(ids):
        yield ids[start:]


def figures_of(loss: storyteller.Loss) -> dict:
    """A loss in the units that people use."""
    return {
        "tokens": loss.tokens,
        "nats_per_token": loss.nats,
        "perplexity": math.exp(min(loss.nats, 700)),  # more would be no float
        "bits_per_byte": loss.bits_per_byte,
    }


def interval_of_mean(losses: list[storyteller.Loss]) -> list[float] | None:
    """Where the bits per byte over all such stories lie, with 95 % confidence; None of one story.

    The standard error of a ratio of two sums (Cochran 1977, Sampling Techniques, section 2.11).
    It tells how much the choice of stories matters, not the luck of a training run.
    """
    n = len(losses)
    if n < 2:
        return None
    total = sum(losses, storyteller.Loss())
    text_bytes = max(1, total.bytes)
    ratio = total.total_nats / text_bytes
    squares = sum((loss.total_nats - ratio * loss.bytes) ** 2 for loss in losses)
    error = math.sqrt(squares * n / (n - 1)) / text_bytes / math.log(2)
    return [total.bits_per_byte - 1.96 * error, total.bits_per_byte + 1.96 * error]


# Story pairs -------------------------------------------------------------------------------


def measure_pairs(subject: Subject, known: dict) -> dict:
    """How often the right continuation of a beginning has the lower loss per byte.

    The beginning stands behind end of text, as every story does. Beginning and continuation are
    tokenised apart, so that both continuations are predicted from the same tokens. They begin
    with a blank, where every vocabulary cuts in any case.
    """
    pairs = prompts.read_pairs(subject.settings.pairs or prompts.PAIRS)
    asked = {"pairs": digest([list(vars(pair).values()) for pair in pairs])} | subject.machine()
    if known.get("asked") == asked:
        return known
    encode = subject.tokenizer.encode
    texts, given = [], []
    for pair in pairs:
        beginning = [subject.tokenizer.end_of_text, *encode(pair.beginning)]
        texts += [np.array(beginning + encode(side)) for side in (pair.right, pair.wrong)]
        given += [len(beginning)] * 2
    losses = [loss.bits_per_byte for loss in measure_texts(subject, texts, given, "story pairs")]
    won = [right < wrong for right, wrong in zip(losses[::2], losses[1::2], strict=True)]
    groups, distances = {}, {}
    for pair, outcome in zip(pairs, won, strict=True):
        groups.setdefault(pair.group, []).append(outcome)
        if pair.distance is not None:
            distances.setdefault(str(pair.distance), []).append(outcome)
    return {
        "asked": asked,
        "all": share(won),
        "groups": {group: share(outcomes) for group, outcomes in groups.items()},
        "distances": {number: share(distances[number]) for number in sorted(distances, key=int)},
    }


def share(outcomes: list[bool]) -> dict:
    """How many came true, and a 95 % interval of their share: Wilson 1927.

    Unlike the usual one it is right for few outcomes too, and for shares close to 0 or 1.
    """
    n, z = len(outcomes), 1.96
    p = sum(outcomes) / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return {"count": n, "share": p, "low": max(0.0, low), "high": min(1.0, high)}


# Stories told ------------------------------------------------------------------------------


def measure_generation(subject: Subject, known: dict) -> dict:
    """Tell stories to many beginnings, keep them in the run folder, and measure their variety.

    All figures are of what the model wrote itself, without the beginnings.
    """
    s, path = subject.settings, subject.folder / STORIES
    beginnings = prompts.read_beginnings(s.beginnings or prompts.BEGINNINGS)
    asked = {
        "beginnings": digest(beginnings),
        "data": subject.data and subject.data.fingerprint,
        **{n: getattr(s, n) for n in ("stories_each", "max_characters", "temperature", "seed")},
    } | subject.machine()
    if known.get("asked") == asked and path.is_file() and known["sha256"] == sha256([path]):
        return known
    told = tell(subject, beginnings)
    lines = (json.dumps(vars(story), ensure_ascii=False) + "\n" for story in told)
    atomic_write(path, "".join(lines).encode())
    stories = [variety.words(story.own) for story in told]
    firsts = range(0, len(stories), s.stories_each)
    alike, pairs = variety.self_bleu([stories[first : first + s.stories_each] for first in firsts])
    known_words = training_words(subject)
    real = [variety.words(story) for story in real_stories(subject, len(told))]
    return {
        "asked": asked,
        "sha256": sha256([path]),
        "ended": share([story.ended for story in told]),
        "self_bleu": {"mean": alike, "pairs": pairs},
        **about_words(stories, known_words),
        "real": {"stories": len(real)} | about_words(real, known_words) if real else None,
    }


def about_words(stories: list[list[str]], known_words: set[str] | None) -> dict:
    """Figures on the words of stories, told or real."""
    lengths = [len(story) for story in stories]
    repeated = [share for share in map(variety.repeated, stories) if share is not None]
    return {
        "words": {"mean": statistics.fmean(lengths), "median": statistics.median(lengths)},
        "distinct": {n: variety.distinct(stories, int(n)) for n in "123"},
        "repeated_4grams": statistics.fmean(repeated) if repeated else None,
        "unknown_words": variety.unknown(stories, known_words) if known_words else None,
    }


def tell(subject: Subject, beginnings: list[str]) -> list[Told]:
    """Tell stories to each of the beginnings, one batch a beginning."""
    s = subject.settings
    model = storyteller.for_telling(subject.model.eval(), subject.hardware)
    sampling = storyteller.Sampling(s.temperature)
    result = []
    for i, beginning in enumerate(progress(beginnings, "telling")):
        pieces = storyteller.tell(
            model,
            subject.tokenizer,
            subject.hardware,
            beginning,
            s.stories_each,
            4 * s.max_characters,  # in tokens: a character has four bytes at most
            sampling,
            s.seed + i,
        )
        pieces = until_long(pieces, s.max_characters)
        for story in storyteller.tell_whole(pieces, beginning, s.stories_each):
            end = len(beginning) + s.max_characters
            result.append(Told(beginning, story.text[:end], story.ended and len(story.text) <= end))
    return result


def until_long(told: Iterable[list[str | None]], characters: int) -> Iterator[list[str | None]]:
    """Listen to `storyteller.tell` until each story has ended or has so many characters.

    A limit in tokens would cut stories earlier where the vocabulary is small.
    """
    lengths = None
    for pieces in told:
        yield pieces
        lengths = lengths or [0] * len(pieces)
        lengths = [
            characters if piece is None else length + len(piece)  # an ended one is long enough
            for length, piece in zip(lengths, pieces, strict=True)
        ]
        if min(lengths) >= characters:
            return


def training_words(subject: Subject) -> set[str] | None:
    """All words of the training stories; None where these are not at hand."""
    if subject.data is None:
        return None
    training = subject.data.train.stories(subject.tokenizer)
    return variety.vocabulary(progress(training, "words of the training text"))


def real_stories(subject: Subject, count: int) -> list[str]:
    """The first validation stories, from their second sentence on and not too long.

    So they are what a model would have written that was given the first; one that has no other
    sentence is taken whole.
    """
    if subject.data is None:
        return []
    stories = subject.data.val.stories(subject.tokenizer)
    behind = (FIRST_SENTENCE.sub("", story, count=1) for story in stories)
    longest = subject.settings.max_characters
    return [story[:longest] for story in islice(filter(None, behind), count)]


def read_told(folder: Path) -> list[Told]:
    """The stories that `measure_generation` kept."""
    with open(folder / STORIES, encoding="utf-8") as file:
        return [Told(**json.loads(line)) for line in file]


# Memory ------------------------------------------------------------------------------------


def measure_memory(subject: Subject, known: dict) -> dict:
    """How much of what the model wrote is copied from the training stories."""
    data, told = subject.dataset(), read_told(subject.folder)
    asked = {
        "stories_sha256": sha256([subject.folder / STORIES]),
        "max_characters": subject.settings.max_characters,  # of the real stories
        "data": data.fingerprint,
    }
    if known.get("asked") == asked:
        return known
    with tokens_bar(data.train, "memory") as bar:
        texts = [story.own for story in told] + real_stories(subject, len(told))
        matches = memory.nearest(texts, data.folder, subject.tokenizer, bar.update)
    pairs = list(zip(told, matches[: len(told)], strict=True))
    pairs.sort(key=lambda pair: (pair[1].rouge_l, pair[1].copied_words), reverse=True)
    return {
        "asked": asked,
        **about_copies(matches[: len(told)]),
        "closest": [
            {"beginning": story.beginning, "told": story.own, **vars(match)}
            for story, match in pairs[:SHOWN]
        ],
        "real": about_copies(matches[len(told) :]) if matches[len(told) :] else None,
    }


def about_copies(matches: list[memory.Match]) -> dict:
    """Figures on how much of some stories, told or real, stands in the training stories."""
    copied = [match.copied_words for match in matches]
    likeness = [match.rouge_l for match in matches]
    return {
        "copied_words": {
            "median": statistics.median(copied),
            "p95": float(np.percentile(copied, 95)),
        },
        "rouge_l": {"mean": statistics.fmean(likeness), "max": max(likeness)},
        "copies": {"above": NEAR} | share([value > NEAR for value in likeness]),
    }


def print_leak(s: Settings) -> None:
    """Print how much of the validation text stands in the training text."""
    named = s.dataset is not None
    folder = None if named else checkpoint.run_folder(s.out_dir or checkpoint.newest_run())
    data = open_data(s, folder, block_size=1)
    if data is None:
        raise UserError(f"the dataset of {folder} is not there: name one with --dataset=")
    tokenizer = own_tokenizer(data)
    if s.val_source:
        texts = own_source(s.val_source).stories("val")
    else:
        texts = data.val.stories(tokenizer)
    with tokens_bar(data.train, "leak") as bar:
        leak = memory.leak(texts, data.folder, tokenizer, bar.update)
    print(f"Of {leak.stories:,} validation stories, the training stories hold")
    for label, found in (
        ("all words", leak.whole),
        ("the first 100 characters", leak.prefix),
        ("13 words in a row", leak.ngram),
    ):
        print(f"  {label:28}{found:9,}{100 * found / leak.stories:8.2f} %")


# Judge -------------------------------------------------------------------------------------


def measure_judge(subject: Subject, known: dict) -> dict:
    """Have another language model mark the stories; it keeps its answers in the run folder."""
    s = subject.settings
    stories = [(story.beginning, story.own) for story in read_told(subject.folder)]
    grades = judge.grade(stories, s.judge_url, s.judge_model, subject.folder)
    if grades.failed:
        note(f"{grades.failed} stories await judgement ({grades.reason}); the same command goes on")
    return {
        "asked": {"stories_sha256": sha256([subject.folder / STORIES]), "model": s.judge_model},
        "means": grades.means,
        "age_groups": dict(sorted(grades.age_groups.items())),
        "answered": grades.answered,
        "unparseable": grades.unparseable,
        "failed": grades.failed,
    }


# What is shown -----------------------------------------------------------------------------


def print_table(results: dict[str, dict]) -> None:
    """Print a column for each run, and one of real stories, which may differ with their data."""
    columns = dict(zip(headings(list(results)), results.values(), strict=True))
    real = {name: report.real_column(result) for name, result in columns.items()}
    alike = all(column == next(iter(real.values())) for column in real.values())
    columns = {name: report.run_column(result) for name, result in columns.items()}
    columns |= {
        "real stories" if alike else f"{name}, real": column
        for name, column in real.items()
        if column
    }
    print(report.table(list(columns), list(columns.values())))


def headings(names: list[str]) -> list[str]:
    """What to call the runs in the table: the shortest ends of their paths that differ."""
    parts = [checkpoint.run_folder(name).parts for name in names]
    depth = 1
    while len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    return ["/".join(path[-depth:]) for path in parts]


def draw(names: list[str], picture: str) -> None:
    """Draw the curves of the runs together."""
    from tinystories import figures

    path = ROOT / Path(picture).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.draw_runs([checkpoint.run_folder(name) for name in names], path)
    note(f"their curves: {picture}")


# Small helpers -----------------------------------------------------------------------------


def sha256(paths: Iterable[Path]) -> str:
    """The checksum of one file, or of several as if they were one."""
    checksum = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while part := file.read(SCAN):
                checksum.update(part)
    return checksum.hexdigest()


def digest(value) -> str:
    """A checksum of texts in lists."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def progress(items: Iterable, what: str) -> Iterable:
    """The items, with a progress bar."""
    return tqdm(items, what, leave=False, disable=None, mininterval=0.5)


def tokens_bar(file: tokens.TokenFile, what: str) -> tqdm:
    """A progress bar over the tokens of a file."""
    return tqdm(total=len(file), desc=what, unit="tok", unit_scale=True, leave=False, disable=None)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    start(main, sys.argv[1:])
