"""Explore a prepared dataset: a summary, and a page of plots.

    python explore.py --dataset=tinystories          its explore.png, .txt
    python explore.py --dataset=mine --plot=x.png    x.png and x.txt
    python explore.py --compare=tinystories,mine     data/compare.png, .txt

Token statistics (story length, id coverage, stories per window) use all
training tokens. Word statistics use an evenly spaced sample. --compare has a
column for each dataset: the same number of words of each, up to a million,
from up to 10,000 evenly spaced training stories (fewer: --sample=).
"""

import difflib
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Name

MOST_COMPARED = 7  # datasets at a time: there are so many colors


@dataclass
class Settings(RangedSettings):
    dataset: Name | None = None  # folder in data/, made by prepare.py; None: tinystories
    compare: str | None = None  # datasets to compare, separated by commas
    sample: Count = 100_000  # training stories whose words are counted
    block_sizes: str = "128,256,512,1024"  # window sizes to compare, in tokens
    plot: str | None = None  # .png file; None: explore.png in its folder, or data/compare.png

    def __post_init__(self):
        super().__post_init__()
        if self.compare is None:
            self.dataset = self.dataset or "tinystories"
        elif self.dataset:
            raise UserError("give either dataset or compare")
        elif not 2 <= len(self.compared()) <= MOST_COMPARED:
            names = f"name 2 to {MOST_COMPARED} datasets, separated by commas"
            raise UserError(f"compare is {self.compare!r}; {names}")
        sizes = self.block_sizes.split(",")
        if not all(size.strip().isdecimal() and int(size) > 0 for size in sizes):
            raise UserError(f"block_sizes is {self.block_sizes!r}; write it as 128,256,512")
        path = Path(self.plot or "explore.png")
        if path.suffix != ".png" or not path.parent.is_dir():
            raise UserError(f"plot is {self.plot!r}; name a .png file in a folder that exists")

    def compared(self) -> list[str]:
        """The names in --compare."""
        return list(filter(None, map(str.strip, (self.compare or "").split(","))))


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

import numpy as np

from tinystories import comparefigures, dataset, figures, storystats
from tinystories.files import atomic_write, read_whole, short_path
from tinystories.stories.cleaning import RULES
from tinystories.storystats import LENGTHS, Comparison, WordStats, count_words
from tinystories.terminal import (
    command_text,
    counted,
    distinct_names,
    log_stderr,
    progress,
    right_aligned,
    sections_table,
    short_count,
    time_taken,
    wrapped,
)
from tinystories.tokenizer import Tokenizer, train_bpe

MAX_STORIES_PER_WINDOW = 4  # the last group has this many or more
NUM_VAL_STORIES = 5000  # validation stories that are encoded with each vocabulary
VOCAB_SIZES = (257, 512, 1024, 2048, 4096, 8192, 16_384)
MOST_STORIES = 10_000  # of a dataset in --compare
MOST_TEXT, LONGEST_STORY = 20_000_000, 1_000_000  # characters of a dataset, and of a story


@dataclass(frozen=True)
class Split:
    """Token statistics of one .bin."""

    ids: np.ndarray  # memory-mapped, shape (N,)
    counts: np.ndarray  # of each id, shape (V,)
    ends: np.ndarray  # positions of end of text, in order
    stories: np.ndarray  # bounds (start, stop) of each, without end of text, shape (stories, 2)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each story, without end of text."""
        return self.stories[:, 1] - self.stories[:, 0]


def read_split(file: dataset.TokenFile, end_of_text: int, desc: str = "reading") -> Split:
    """Read a .bin, a few megabytes at a time; raises UserError where it holds no story.

    Other repos may write end of text before stories, or none after the last one: a story is what
    is between two, or between one and an end of the file.
    """
    counts, ends = np.zeros(file.vocab_size, dtype=np.int64), []
    options = {"total": len(file), "unit_scale": True}
    with progress(None, f"{desc} {file.path.name}", "tokens", **options) as bar:
        for first in range(0, len(file), dataset.CHUNK):
            ids = np.asarray(file.ids[first : first + dataset.CHUNK])
            file.check_ids(ids, first)
            counts += np.bincount(ids, minlength=file.vocab_size)
            ends.append(first + np.flatnonzero(ids == end_of_text))
            bar.update(len(ids))
    ends = np.concatenate(ends)
    if not 0 < len(ends) < len(file):
        raise UserError(f"{file.path} holds no story that ends (end of text is id {end_of_text})")
    bounds = np.concatenate([[-1], ends, [len(file)]])
    spans = np.stack([bounds[:-1] + 1, bounds[1:]], axis=1)
    stories = spans[spans[:, 0] < spans[:, 1]]
    return Split(np.asarray(file.ids), counts, ends, stories)  # a plain array is faster to slice


def coverage(counts: np.ndarray) -> np.ndarray:
    """The fraction of all tokens that the 1, 2, ... most frequent ids cover."""
    sums = np.cumsum(np.sort(counts[counts > 0])[::-1])
    return sums / sums[-1]


def windows_by_stories(ends: np.ndarray, length: int, block_size: int) -> np.ndarray:
    """How many windows have (parts of) 1, 2, 3, and MAX_STORIES_PER_WINDOW or more stories, int64.

    A window may start at any of the `length` tokens of the file. It has one story, and one more
    for each end of text in it, not counting its last token. The end of text at e counts for the
    windows that start at e - block_size + 2 to e: a difference array has +1 at the first start
    and -1 after the last, and its cumulative sum is the number of stories.
    """
    num_windows = max(0, length - block_size + 1)
    first = np.clip(ends - block_size + 2, 0, num_windows)
    after = np.clip(ends + 1, 0, num_windows)
    positions = np.concatenate([[0], first, after])
    differences = np.concatenate([[1], np.ones_like(first), -np.ones_like(after)])
    order = np.argsort(positions, kind="stable")
    stories = np.minimum(np.cumsum(differences[order]), MAX_STORIES_PER_WINDOW)
    widths = np.diff(positions[order], append=num_windows)
    counts = np.bincount(stories, weights=widths, minlength=MAX_STORIES_PER_WINDOW + 1)
    return counts[1:].astype(np.int64)


def evenly_spaced(split: Split, count: int) -> np.ndarray:
    """The bounds of up to `count` stories, evenly spaced, in order."""
    count = min(count, len(split.stories))
    return split.stories[np.linspace(0, len(split.stories) - 1, count).astype(np.int64)]


def sampled(split: Split, tokenizer: Tokenizer, count: int, desc: str) -> Iterator[str]:
    """The texts of `count` stories, evenly spaced; `desc` is shown with the progress bar."""
    for first, stop in progress(evenly_spaced(split, count).tolist(), desc, "stories"):
        yield tokenizer.decode(split.ids[first:stop])


def bytes_per_token(tokenizer: Tokenizer, stories: list[str]) -> float:
    """UTF-8 bytes of the stories per token, where end of text is a token, too."""
    return sum(len(story.encode()) for story in stories) / len(tokenizer.encode_stories(stories))


def bytes_by_vocab_size(trained: Tokenizer, stories: list[str]) -> dict[int, float]:
    """Bytes per token of `stories` for vocabularies of several VOCAB_SIZES.

    BPE adds tokens one by one, so the first tokens of a large vocabulary are the small one.
    """
    sizes = [size for size in VOCAB_SIZES if size <= trained.vocab_size]
    smaller = [Tokenizer(trained.kind, trained.pattern, trained.tokens[: n - 1]) for n in sizes]
    return {each.vocab_size: bytes_per_token(each, stories) for each in smaller}


@dataclass(frozen=True)
class DatasetStats:
    """Everything that the summary and the plots show."""

    data: dataset.Dataset
    train: Split
    val: Split
    sample: WordStats
    bytes_by_vocab_size: dict[int, float]  # per token, of vocabularies trained on the sample
    dataset_bytes: float  # per token, of the dataset's vocabulary
    windows: dict[int, np.ndarray]  # by block_size: `windows_by_stories`

    def cleaning(self) -> tuple[str, dict[str, dict[str, int]]]:
        """A title, and how often each rule applied, by split."""
        if (counts := (self.data.meta or {}).get("cleaning")) is None:
            return "Cleaning: unknown (not in meta.json)", {}
        return "Cleaning" if any(counts.values()) else "Cleaning changed nothing", counts


def open_stories(name: str) -> dataset.Dataset:
    """Open a dataset; raises UserError where it is missing, damaged, or one text."""
    data = dataset.open_dataset(name, block_size=1)
    if data.note:
        log_stderr(f"{data.folder} {data.note}")
    if data.tokenizer.end_of_text is None:
        raise UserError(f"{name} is one text in characters; this page describes stories")
    return data


def compute_stats(s: Settings) -> DatasetStats:
    """Read the dataset; raises UserError where it is missing or damaged."""
    assert s.dataset  # by __post_init__
    data = open_stories(s.dataset)
    tokenizer = data.tokenizer
    assert tokenizer.end_of_text is not None  # by open_stories
    train = read_split(data.train, tokenizer.end_of_text, "1 of 5: reading")
    val = read_split(data.val, tokenizer.end_of_text, "2 of 5: reading")
    stories = sampled(train, tokenizer, s.sample, "3 of 5: training a vocabulary")
    trained = train_bpe(stories, VOCAB_SIZES[-1])
    sample = count_words(sampled(train, tokenizer, s.sample, "4 of 5: counting words"))
    val_stories = list(sampled(val, tokenizer, NUM_VAL_STORIES, "5 of 5: encoding validation"))
    block_sizes = [n for n in map(int, s.block_sizes.split(",")) if n <= len(train.ids)]
    windows = {n: windows_by_stories(train.ends, len(train.ids), n) for n in block_sizes}
    by_size = bytes_by_vocab_size(trained, val_stories)
    own = bytes_per_token(tokenizer, val_stories)
    return DatasetStats(data, train, val, sample, by_size, own, windows)


def summary(stats: DatasetStats) -> str:
    """The statistics as tables, in lines of at most 80 characters."""
    title, rules = stats.cleaning()
    rows = [title]
    for split, counts in rules.items():
        rows += [
            wrapped(f"  {split:5}{n:10,}  {RULES.get(rule, rule)}", indent=" " * 19)
            for rule, n in counts.items()
        ]
    return "\n\n".join((*token_tables(stats), *word_tables(stats.sample), "\n".join(rows)))


def table(title: str, *rows: Iterable) -> str:
    """Rows of text, counts and percentages under a title."""
    cells = [
        [x if isinstance(x, str) else f"{x:.1f}" if isinstance(x, float) else f"{x:,}" for x in row]
        for row in rows
    ]
    return "\n  ".join((title, *right_aligned(cells)))


def token_tables(stats: DatasetStats) -> Iterator[str]:
    tokenizer, train = stats.data.tokenizer, stats.train
    rows = [
        [name, len(split.stories), len(split.ids), split.counts @ tokenizer.byte_lengths()]
        for name, split in (("train", train), ("val", stats.val))
    ]
    yield table(stats.data.folder.name, ["", "stories", "tokens", "bytes"], *rows)
    rows = [
        [unit, *np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).round().astype(int)]
        for unit, values in (("words", stats.sample.lengths), ("tokens", train.lengths))
    ]
    columns = ["", "shortest", "5 %", "median", "95 %", "longest"]
    yield table(LENGTHS, columns, *rows)
    covered = coverage(train.counts)
    rows = [[np.searchsorted(covered, x / 100) + 1, x] for x in (50.0, 90.0, 99.0, 99.9, 100.0)]
    title = f"Most frequent ids, of {tokenizer.vocab_size:,} in the vocabulary"
    yield table(title, ["ids", "% of the training tokens"], *rows)
    rows = [[size, f"{ratio:.3f}"] for size, ratio in stats.bytes_by_vocab_size.items()]
    rows.append([tokenizer.vocab_size, f"{stats.dataset_bytes:.3f}", "(the dataset's)"])
    title = "Bytes per token of validation stories, with vocabularies trained on the sample"
    yield table(title, ["vocabulary", "bytes per token"], *rows)
    rows = [
        [size, *100 * counts / counts.sum(), 100 * np.mean(train.lengths <= size)]
        for size, counts in stats.windows.items()
    ]
    columns = ["tokens", "1 story", "2 stories", "3 stories", "4 or more", "stories that fit in"]
    yield table("Windows that hold (parts of) so many stories, in %", columns, *rows)


def word_tables(sample: WordStats) -> Iterator[str]:
    total, stories = max(1, sample.words.total()), len(sample.lengths)
    size = counted(stories, "story", "stories")
    title = f"{total:,} words in a sample of {size}, {len(sample.words):,} different"
    times = sorted(sample.words.values(), reverse=True)
    rows = [[n, 100 * sum(times[:n]) / total] for n in (100, 1000, 5000)]
    yield table(title, ["most frequent", "% of all words"], *rows)
    for title, unit, rates in sample.rates():
        yield f"{title}, {unit}\n{list_of_rates(rates)}"


def list_of_rates(rates: dict[str, float], first: str = "") -> str:
    """Words, each with its rate, after what is `first` in the list."""
    # A no-break space keeps a word and its number in one line.
    items = (f"{word} {rate:.1f}".replace(" ", "\xa0") for word, rate in rates.items())
    text = textwrap.fill(first + ", ".join(items), 78).replace("\xa0", " ")
    return textwrap.indent(text, "  ")


def plot_page(stats: DatasetStats, path: Path) -> None:
    """Plot the statistics on one page."""
    with figures.saved_figure(path, height=17.5) as figure:
        size = stats.data.tokenizer.vocab_size
        title = (
            f"{stats.data.folder.name}: {len(stats.train.stories):,} training stories, {size:,} ids"
        )
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        (upper,), (lower,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(4, 1))
        panels = upper.subplots(4, 2, height_ratios=(3, 3, 2.4, 4.7))
        lengths = {"words": stats.sample.lengths, "tokens": stats.train.lengths}
        for axes, (unit, values) in zip(panels[0], lengths.items(), strict=True):
            figures.histogram(axes, values, f"Length of stories in {unit}", unit, "stories")
        left, right = panels[1]
        sizes, ratios = map(np.array, zip(*stats.bytes_by_vocab_size.items(), strict=True))
        units = "ids, trained on the sample", "bytes per token"
        mark = size, stats.dataset_bytes, f"the dataset's: {size:,} ids"
        figures.curve(left, "Bytes per token by vocabulary size", units, sizes, ratios, mark)
        percent = 100 * coverage(stats.train.counts)
        ranks = np.unique(np.geomspace(1, len(percent), 200).astype(int))  # enough for a curve
        units = "most frequent ids", "% of the tokens"
        figures.curve(right, "Tokens that frequent ids cover", units, ranks, percent[ranks - 1])
        windows = {f"{size:,} tokens": counts for size, counts in stats.windows.items()}
        parts = ("1", "2", "3", "4+")
        figures.stacked_bars(panels[2, 0], "Stories per window", "% of windows", windows, parts)
        title, rules = stats.cleaning()
        figures.bars(panels[2, 1], title, "training stories", rules.get("train", {}), "{:,.0f}")
        shown = zip((*panels[3], lower.subplots()), (15, 15, 10), strict=True)
        for (axes, count), (title, unit, rates) in zip(shown, stats.sample.rates(), strict=True):
            figures.bars(axes, title, unit, dict(list(rates.items())[:count]), "{:.1f}")


def check_replaceable(path: Path) -> None:
    """Raises UserError if the page or its text would replace a file that is none."""
    figures.check_replaceable(path)
    text = path.with_suffix(".txt")
    if text.exists() and LENGTHS.encode() not in read_whole(text):
        raise UserError(f"{text} is no summary of explore.py; name another --plot")


# Several datasets ---------------------------------------------------------------------------


def compare(s: Settings) -> tuple[str, Comparison]:
    """The table of --compare, and what is in it; raises UserError for what cannot be compared."""
    opened = open_compared(s.compared())
    samples, sizes = {}, {}
    for number, (name, data) in enumerate(opened.items(), 1):
        stage, tokenizer = f"{number} of {len(opened)}:", data.tokenizer
        assert tokenizer.end_of_text is not None  # by open_stories
        split = read_split(data.train, tokenizer.end_of_text, f"{stage} reading")
        count = min(s.sample, MOST_STORIES)
        samples[name] = compared_stories(split, tokenizer, count, f"{stage} decoding")
        size = split.counts @ tokenizer.byte_lengths()
        sizes[name] = len(split.stories), size
    comparison = storystats.compare(samples)
    columns = {}
    for name, rows in storystats.columns(comparison).items():
        stories, size = sizes[name]
        words = size * comparison.portraits[name].words_per_byte
        cells = {"number": f"{stories:,}", "words, about": short_count(words)}
        columns[name] = {"Training stories": cells | {"bytes": short_count(size)}} | rows
    return "\n\n".join([sections_table(columns), *most_frequent(comparison)]), comparison


def most_frequent(comparison: Comparison) -> Iterator[str]:
    """The most frequent names and openings of each dataset, as text."""
    rates = {name: list(each.words.rates())[1:] for name, each in comparison.portraits.items()}
    for i, (title, unit, _) in enumerate(next(iter(rates.values()))):
        lines = [f"{title}, {unit}"]
        for name, parts in rates.items():
            first = dict(list(parts[i][2].items())[:10])
            lines.append(list_of_rates(first, f"{name}: "))
        yield "\n".join(lines)


def open_compared(names: list[str]) -> dict[str, dataset.Dataset]:
    """The datasets by the names that the table and the plots show."""
    folders = [dataset.dataset_folder(name) for name in names]
    known = [path.name for path in (ROOT / "data").glob("*/")]
    for name, folder in zip(names, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"compare has {name} twice")
        similar = difflib.get_close_matches(name, known, n=1)
        if similar and not folder.is_dir():
            raise UserError(f"{short_path(folder)} is missing; did you mean {similar[0]}?")
    opened = [open_stories(name) for name in names]
    return dict(zip(distinct_names(folders), opened, strict=True))


def compared_stories(split: Split, tokenizer: Tokenizer, count: int, desc: str) -> list[str]:
    """Up to `count` stories, evenly spaced, and up to MOST_TEXT; in random order, always the same.

    So the first ones are a sample, too. Each is cut after LONGEST_STORY characters, which have at
    most four bytes each, and no token has less than one.
    """
    bounds = evenly_spaced(split, count)
    np.random.RandomState(0).shuffle(bounds)
    stories, size = [], 0
    for first, stop in progress(bounds.tolist(), desc, "stories"):
        stop = min(stop, first + 4 * LONGEST_STORY)
        stories.append(tokenizer.decode(split.ids[first:stop])[:LONGEST_STORY])
        size += len(stories[-1])
        if size >= MOST_TEXT:
            break
    return stories


def main(s: Settings) -> None:
    start_time = time.perf_counter()
    if s.compare is not None:
        default = ROOT / "data" / "compare.png"
    else:
        assert s.dataset  # by __post_init__
        default = dataset.dataset_folder(s.dataset) / "explore.png"
    path = Path(s.plot) if s.plot else default
    check_replaceable(path)
    if s.compare is not None:
        text, comparison = compare(s)
        plot = partial(comparefigures.plot_comparison, comparison)
    else:
        stats = compute_stats(s)
        text, plot = summary(stats), partial(plot_page, stats)
    print(text)
    atomic_write(path.with_suffix(".txt"), text.encode(errors="replace") + b"\n")
    plot(path)
    took = time_taken(time.perf_counter() - start_time)
    where = short_path(path.with_suffix(""))
    log_stderr(wrapped(f"plots: {where}.png; this text: {where}.txt; time: {took}"))
    if s.compare is None:
        next_command = command_text("python", "train.py", f"--dataset={s.dataset}")
        log_stderr(f"train on it:\n{next_command}")


if __name__ == "__main__":
    start(main, command_line.settings)
