"""The sources of stories: datasets on the hub, files of yours, and the built-in storybook.

    source = open_source("tinystories")          # downloads what is missing, records the commit
    for text in source.stories("train"):         # streams; can be called again
        ...

Any dataset on the hub with a text column is a source by its id; one that needs more, such as
choosing its rows, is an entry in HUB.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configurator import UserError
from tinystories.stories.cleaning import digest
from tinystories.stories.files import (
    SEPARATOR,
    Options,
    count_texts,
    find_files,
    find_splits,
    read_parts,
    read_texts,
    short_name,
)
from tinystories.stories.hub import (
    HubDataset,
    Part,
    count_hub_texts,
    download,
    find_dataset,
    hub_texts,
    is_hub_id,
)
from tinystories.stories.records import records
from tinystories.stories.storybook import Storybook, stories
from tinystories.stories.words import LISTS

HUB = {
    "tinystories": HubDataset(
        "roneneldan/TinyStories",
        {"train": Part(("*train*.parquet",)), "val": Part(("*validation*.parquet",))},
    ),
    "tinystories_v2": HubDataset(
        "roneneldan/TinyStories",
        {
            "train": Part(("TinyStoriesV2-GPT4-train.txt",)),
            "val": Part(("TinyStoriesV2-GPT4-valid.txt",)),
        },
    ),
    # Also offered as tables with one line per row, from which records are put together again.
    "tinystories_instruct": HubDataset(
        "roneneldan/TinyStoriesInstruct",
        {
            "train": Part(("TinyStories-Instruct-train.txt", "*train*.parquet")),
            "val": Part(("TinyStories-Instruct-valid.txt", "*validation*.parquet")),
        },
        instruct=True,
    ),
    # One table, shuffled before it was published; its card gives these rows.
    "tinystories_clean": HubDataset(
        "karpathy/tinystories-gpt4-clean",
        {
            "test": Part(("*.parquet",), 0, 10_000),
            "val": Part(("*.parquet",), 10_000, 20_000),
            "train": Part(("*.parquet",), 20_000),
        },
    ),
}
NAMES = (*HUB, "storybook")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Source:
    """Stories by split, which can be streamed any number of times."""

    name: str  # short, for the folder under data/
    origin: str  # repository, path, or the storybook and its size
    revision: str | None  # the commit, for a source on the hub
    instruct: bool  # records with header lines
    files: dict[str, tuple[Path, ...]]  # by split; of the storybook, the words of records
    readers: dict[str, Callable[[], Iterator[str]]]  # by split
    counters: dict[str, Callable[[], int | None]]  # by split
    one_text: bool = False  # each file is one text, which is not cleaned

    def stories(self, split: str) -> Iterator[str]:
        """Stream the raw texts of a split, in a fixed order; raises UserError if there is none."""
        text = None
        for text in self.readers[split]():
            yield text
        if text is None:
            hint = "; raise --val_fraction or give --val_source" if split == "val" else ""
            raise UserError(f"{self.origin} gives no story for {split}{hint}")

    def count(self, split: str) -> int | None:
        """How many texts `stories` gives, about; None where that is not known before."""
        return self.counters[split]()


def is_on_hub(source: str) -> bool:
    """Whether a source is a dataset on the hub, which may have to be downloaded."""
    return source in HUB or is_hub_id(source)


def known_name(source: str) -> str:
    """The name in HUB of a repository on the hub that is one of these; else the source itself."""
    return next((name for name, data in HUB.items() if data.repo == source), source)


def open_source(
    source: str,
    *,
    revision: str = "main",
    val_source: str | None = None,
    val_fraction: float = 0.01,
    column: str | None = None,
    separator: str | None = SEPARATOR,
    count: int | None = None,
    instruct: bool = False,
) -> Source:
    """Open a source; raises UserError for what the user can fix, as a missing file or network.

    Args:
        source: a key of HUB or the id of another dataset on the hub, whose files are downloaded if
            needed; "storybook"; a path, a glob, or a folder of Dataset.save_to_disk.
        revision: branch, tag or commit of a source on the hub.
        val_source: path or glob of the validation stories, if `source` is a path.
        val_fraction: the fraction of stories for validation if there are no other ones.
        column: the column of the text in tables; None: "text" or "story".
        separator: between the stories of text files; None: each file is one text, and its end is
            validation.
        count: number of stories in the storybook; None: 50,000.
        instruct: whether the storybook gives records of TinyStories-Instruct.
    """
    source, options = known_name(source), Options(column, separator)
    if count is not None and source != "storybook":
        raise UserError("the number of stories can be chosen only for --source=storybook")
    if source in NAMES and (val_source is not None or options != Options()):
        raise UserError(f"--val_source, --column and --separator do not go with {source}")
    if is_on_hub(source):
        if val_source is not None or separator != SEPARATOR:
            raise UserError(f"--val_source and --separator go with files of your own, not {source}")
        return _open_hub(source, revision, val_fraction, options)
    if source == "storybook":
        count, what = 50_000 if count is None else count, "records" if instruct else "stories"
        # Both splits look at all.
        read, counter = Storybook(count, records if instruct else stories), partial(int, count)
        origin = f"storybook of {count:,} {what}"
        files = {"train": (LISTS,)} if instruct else {}  # which words records ask for
        found = _hash_split(source, origin, files, read, counter, val_fraction)
        return replace(found, instruct=instruct)
    files = _find_split_files(source, options)
    if val_source is not None:
        found = _find_split_files(val_source, options)
        files["val"] = found.get("val", found["train"])
    name, one_text = short_name(source), separator is None
    if "val" in files:
        readers = {split: partial(read_texts, files[split], options) for split in files}
        counters = {split: partial(count_texts, files[split], options) for split in files}
        return Source(name, source, None, False, files, readers, counters, one_text)
    paths = files["train"]
    if one_text:
        files = dict.fromkeys(SPLITS, paths)
        readers = {split: partial(read_parts, paths, val_fraction, split) for split in SPLITS}
        count_files = {split: partial(_share, partial(len, paths), 1.0) for split in SPLITS}
        return Source(name, source, None, False, files, readers, count_files, one_text)
    read, counter = partial(read_texts, paths, options), partial(count_texts, paths, options)
    return _hash_split(name, source, dict.fromkeys(SPLITS, paths), read, counter, val_fraction)


def _open_hub(source: str, revision: str, val_fraction: float, options: Options) -> Source:
    """A dataset on the hub; without files for validation, stories of train are taken for it."""
    if source in HUB:
        data = HUB[source]
    else:
        data, revision = find_dataset(source, revision)
    commit, files = download(data, revision)
    readers, counters = {}, {}
    for split, part in data.splits.items():
        readers[split] = partial(hub_texts, files[split], data.instruct, part, options)
        counters[split] = partial(count_hub_texts, files[split], data.instruct, part, options)
    name = source if source in HUB else short_name(source)
    if "val" in readers:
        return Source(name, data.repo, commit, data.instruct, files, readers, counters)
    given = (readers["train"], counters["train"], val_fraction)
    return replace(_hash_split(name, data.repo, files, *given), revision=commit)


def _find_split_files(source: str, options: Options) -> dict[str, tuple[Path, ...]]:
    """The files of a path or glob, for train; of a folder of save_to_disk, perhaps val too."""
    folder = Path(os.path.expanduser(source))
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return {"train": find_files(source, options, NAMES)}
    if options.separator != SEPARATOR:
        raise UserError(f"--separator goes with text files; {source} has tables")
    paths = [path for path in folder.rglob("*.arrow") if not path.name.startswith("cache-")]
    names = [path.relative_to(folder).as_posix() for path in paths]  # without those of map, filter
    splits = find_splits(names, source, any_folder=True)
    files = {split: tuple(folder / name for name in splits[split]) for split in splits}
    for paths in files.values():
        next(read_texts(paths, options), None)  # complain about a missing column now
    return files


def _hash_split(name, origin, files, read, count, val_fraction: float) -> Source:
    """A source of which a fraction is for validation, chosen by a hash of the text."""
    readers = {split: partial(_filter_split, read, val_fraction, split) for split in SPLITS}
    shares = {"train": 1 - val_fraction, "val": val_fraction}
    counters = {split: partial(_share, count, shares[split]) for split in SPLITS}
    return Source(name, origin, None, False, files, readers, counters)


def _share(count: Callable[[], int | None], share: float) -> int | None:
    total = count()
    return None if total is None else round(share * total)


def _filter_split(
    read: Callable[[], Iterator[str]], val_fraction: float, split: str
) -> Iterator[str]:
    """The texts whose hash puts them in a split: a text stays there when others are added."""
    limit = int(val_fraction * 2**64)
    return (text for text in read() if (digest(text) < limit) == (split == "val"))
