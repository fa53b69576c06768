"""The sources of stories: datasets on the hub, files of yours, and the built-in storybook.

    source = open_source("tinystories")          # downloads what is missing, records the commit
    for text in source.stories("train"):         # streams; can be called again
        ...

A new dataset on the hub is one entry in HUB.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from configurator import UserError
from tinystories.stories.cleaning import digest
from tinystories.stories.files import find_files, read_texts, short_name
from tinystories.stories.hub import HubDataset, Part, download, hub_texts
from tinystories.stories.storybook import stories

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


@dataclass(frozen=True)
class Source:
    """Stories by split, which can be streamed any number of times."""

    name: str  # short, for the folder under data/
    origin: str  # repository, path, or the storybook and its size
    revision: str | None  # the commit, for a source on the hub
    instruct: bool  # records with header lines
    files: dict[str, tuple[Path, ...]]  # by split; none for the storybook
    readers: dict[str, Callable[[], Iterator[str]]]  # by split

    def stories(self, split: str) -> Iterator[str]:
        """Stream the raw texts of a split, in a fixed order; raises UserError if there is none."""
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
    """Open a source; raises UserError for what the user can fix, as a missing file or network.

    Args:
        source: a key of HUB, whose files are downloaded if needed, "storybook", a path, or a glob.
        revision: branch, tag or commit of a source on the hub.
        val_source: path or glob of the validation stories, if `source` is a path.
        val_fraction: the fraction of stories for validation if there is no val_source.
        text_field: column that holds the text; None: "text" or "story".
        count: number of stories in the storybook; None: 50,000.
    """
    if count is not None and source != "storybook":
        raise UserError("the number of stories can be chosen only for --source=storybook")
    if source in NAMES and (val_source is not None or text_field is not None):
        raise UserError(f"--val_source and --text_field go with files of your own, not {source}")
    if source in HUB:
        data = HUB[source]
        commit, files = download(data, revision)
        parts = data.splits.items()
        readers = {split: partial(hub_texts, files[split], data.instruct, p) for split, p in parts}
        return Source(source, data.repo, commit, data.instruct, files, readers)
    files, origin = {}, source
    if source == "storybook":
        count = 50_000 if count is None else count
        read, origin = partial(stories, count), f"storybook of {count:,} stories"
    else:
        paths = find_files(source, text_field, NAMES)
        val_paths = paths if val_source is None else find_files(val_source, text_field, NAMES)
        files = {"train": paths, "val": val_paths}
        read = partial(read_texts, paths, text_field)
    if val_source is None:
        splits = ("train", "val")
        readers = {split: partial(_filter_split, read, val_fraction, split) for split in splits}
    else:
        readers = {split: partial(read_texts, files[split], text_field) for split in files}
    return Source(short_name(source), origin, None, False, files, readers)


def _filter_split(
    read: Callable[[], Iterator[str]], val_fraction: float, split: str
) -> Iterator[str]:
    """The texts whose hash puts them in a split: a text stays there when others are added."""
    limit = int(val_fraction * 2**64)
    return (text for text in read() if (digest(text) < limit) == (split == "val"))
