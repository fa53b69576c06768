"""Datasets on the Hugging Face hub: their files, downloaded once and kept in the hub's cache."""

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from configurator import UserError
from tinystories import hub
from tinystories.files import sha256_of
from tinystories.stories.files import (
    READERS,
    Options,
    count_texts,
    extension_of,
    find_splits,
    read_texts,
    split_stories,
)


class Part(NamedTuple):
    """The files and rows of a repository that make a split."""

    # Of file names; the first that matches any file counts. A list is all that match any of it.
    patterns: tuple[str | list[str], ...]
    first: int = 0  # rows [first, end) of these files
    end: int | None = None


class HubDataset(NamedTuple):
    """A dataset on the hub."""

    repo: str
    splits: dict[str, Part]
    instruct: bool = False  # header lines, then "Story:", then the story


def is_hub_id(source: str) -> bool:
    """Whether a source is named as on the hub, owner/name or owner/name/folder, and no file is."""
    path = Path(os.path.expanduser(source))
    named = re.fullmatch(r"\w[\w.-]*(/[\w.-]+){1,4}", source)
    a_file = path.exists() or extension_of(path) in READERS or Path(path.parts[0]).is_dir()
    return bool(named) and not a_file


def find_dataset(source: str, revision: str) -> tuple[HubDataset, str]:
    """The files and the commit of any dataset on the hub, by `find_splits`.

    Without the network, as they were the last time. Raises UserError where there is no such
    dataset, or its files cannot be told apart.
    """
    from huggingface_hub import HfApi

    owner, name, *folders = source.split("/")
    repo, folder = f"{owner}/{name}", "".join(f"{part}/" for part in folders)
    commit = _download(repo, revision, "README.md").name
    try:
        # list_repo_files would try again for 20 seconds where there is no network
        files = HfApi().dataset_info(repo, revision=commit).siblings or []
        names = [file.rfilename for file in files]
    except Exception:  # without the network: the names that were listed then, also if not all came
        try:
            from huggingface_hub import get_cached_repo_tree  # not in its first versions

            tree = get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
        except Exception:
            raise UserError(f"cannot list the files of {repo}; connect to the network") from None
        names = [file.path for file in tree]
    names = [name for name in names if name.startswith(folder)]
    splits = find_splits(names, source, any_folder=bool(folder))
    parts = {split: Part(([glob.escape(name) for name in splits[split]],)) for split in splits}
    return HubDataset(repo, parts), commit


def download(dataset: HubDataset, revision: str) -> tuple[str, dict[str, tuple[Path, ...]]]:
    """The commit and the files of each split, downloaded or from the cache; checks them.

    Without the network, a branch is what it was last time. Raises UserError for files that cannot
    be downloaded, or are incomplete or damaged.
    """
    from huggingface_hub.utils import filter_repo_objects

    repo, commit, files = dataset.repo, revision, {}
    for split, part in dataset.splits.items():
        for pattern in part.patterns:
            folder = _download(repo, commit, pattern)
            commit = folder.name
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
            matching = filter_repo_objects(sorted(names), allow_patterns=pattern)
            files[split] = tuple(folder / name for name in matching)
            if files[split]:
                break
        found = (re.search(r"-\d{5}-of-(\d{5})", path.name) for path in files[split])
        shards = [int(match[1]) for match in found if match]
        if len(files[split]) < max(shards, default=1):
            lack = f"lacks files like {part.patterns[0]} (there are {len(files[split])})"
            advice = "connect to the network to complete the cache, or choose another --revision"
            raise UserError(f"{repo} at {commit[:8]} {lack}; {advice}")
    for path in {path for paths in files.values() for path in paths}:
        blob = path.resolve()  # a large file is named by its sha256, unchecked by the client
        if re.fullmatch("[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
            raise UserError(f"{path} is damaged; delete {blob} and run again")
    return commit, files


def _download(repo: str, revision: str, pattern: str | list[str]) -> Path:
    """The folder of the files that fit a pattern; UserError says what to do where it fails."""
    advice = "or choose --source=PATH, or --source=storybook, which needs no network"
    return hub.download(repo, revision, pattern, "dataset", advice)


def hub_texts(
    paths: tuple[Path, ...], instruct: bool, part: Part, options: Options
) -> Iterator[str]:
    """The stories or records of a split, from its downloaded files."""
    texts = read_texts(paths, options)
    if instruct and paths[0].suffix == ".parquet":  # these tables have one line per row
        texts = split_stories((line + "\n" for line in texts), paths[0])
    return itertools.islice(texts, part.first, part.end)


def count_hub_texts(
    paths: tuple[Path, ...], instruct: bool, part: Part, options: Options
) -> int | None:
    """How many texts `hub_texts` gives, about; None where that is not known."""
    count = None if instruct else count_texts(paths, options)
    return count and max(0, min(count, part.end or count) - part.first)
