"""Turn stories into token files for training: data/<dataset>/.

    python prepare.py                                     GPT-2's vocabulary
    python prepare.py --tokenizer=bpe --vocab_size=4096   a learned vocabulary
    python prepare.py --source='mine/*.txt'               stories of your own
    python prepare.py --source=storybook --tokenizer=bpe  built in, no network

Sources: tinystories, tinystories_v2, tinystories_instruct, tinystories_clean
(all from the Hugging Face hub), storybook, or a path or glob of .txt files with
<|endoftext|> between stories, or of .jsonl, .json, .csv or .parquet files.
"""

import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configurator import ROOT, UserError, parse, start
from tinystories.stories.catalog import (
    HUB,
    RULES,
    Source,
    clean_story,
    digest,
    open_source,
    short_name,
)


@dataclass
class Settings:
    # Stories
    source: str = "tinystories"  # a name or a path; see above
    revision: str = "main"  # branch, tag or commit on the hub; the commit is recorded
    val_source: str | None = None  # validation stories, where the source is your own files
    val_fraction: float = 0.01  # without val_source, the share that is kept for validation
    text_field: str | None = None  # the column that holds the text; None: text or story
    max_stories: int | None = None  # at most so many training stories
    clean: bool = True  # repair what is garbled, drop what is no story
    # Vocabulary
    tokenizer: Literal["gpt2", "bpe"] = "gpt2"  # GPT-2's, or one learned from the stories
    vocab_size: int | None = None  # None: all of GPT-2's, or 4,096 learned ones
    # Result
    dataset: str | None = None  # folder under data/; None: named after source and vocabulary
    overwrite: bool = False  # replace a dataset that was prepared with other settings

    def __post_init__(self):
        if self.dataset == "" or not self.source:
            raise UserError("source and dataset must not be empty")
        if self.max_stories is not None and self.max_stories < 1:
            raise UserError(f"max_stories is {self.max_stories}; it must be at least 1")
        if self.tokenizer == "bpe" and self.vocab_size is None:
            self.vocab_size = 4096
        if self.dataset is None:
            vocabulary = {"bpe": f"_bpe{self.vocab_size}", "gpt2": f"_gpt2_{self.vocab_size}"}
            self.dataset = short_name(self.source)
            self.dataset += "" if self.vocab_size is None else vocabulary[self.tokenizer]


if __name__ == "__main__":  # --help and mistakes answer before the slow imports
    start(parse, Settings, sys.argv[1:])

from tqdm import tqdm

from tinystories import dataset as tokens
from tinystories import tokenizer
from tinystories.files import replace_folder


def main(argv: list[str]) -> None:
    s = parse(Settings, argv).settings
    if s.vocab_size is not None:
        largest = tokenizer.GPT2_VOCAB_SIZE if s.tokenizer == "gpt2" else tokenizer.MAX_VOCAB_SIZE
        tokenizer.check_size(s.vocab_size, largest)
    folder = tokens.dataset_folder(s.dataset)
    if folder.exists() and any(folder.iterdir()) and not (folder / "train.bin").exists():
        raise UserError(f"{folder} is there and holds no dataset; choose another --dataset")
    settings = {k: v for k, v in vars(s).items() if k not in ("dataset", "overwrite")}
    source = None if s.source in HUB else open_stories(s)  # the hub is asked only when it has to be
    files = (
        [path for split in tokens.SPLITS for path in source.files.get(split, ())] if source else []
    )
    wanted = {
        "settings": settings,
        "files": [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in files],
    }
    if folder.exists() and not s.overwrite:
        meta = tokens.read_meta(folder)
        if not meta or wanted != {name: meta.get(name) for name in wanted}:
            raise UserError(
                f"{folder} is there already, prepared with other settings or from files that have "
                "changed; replace it with --overwrite=True, or choose another --dataset"
            )
        print(f"{s.dataset} is already prepared, with these settings: {summary(meta)}")
        return
    if s.tokenizer == "gpt2":
        tokenizer.gpt2()  # better to miss it now than after an hour of cleaning
    source = source or open_stories(s)
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        meta = build(s, source, building) | wanted
        tokens.write_meta(building, meta)
        replace_folder(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    report(meta)
    print(f"prepared {folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder}:")
    print(f"  {summary(meta)}")


def open_stories(s: Settings) -> Source:
    """The source that the settings name."""
    return open_source(
        s.source,
        revision=s.revision,
        val_source=s.val_source,
        val_fraction=s.val_fraction,
        text_field=s.text_field,
        count=s.max_stories if s.source == "storybook" else None,
    )


def build(s: Settings, source: Source, folder: Path) -> dict:
    """Write a dataset's files into `folder`; what meta.json says of it."""
    cleaning = write_clean(s, source, folder)
    size = s.vocab_size
    if s.tokenizer == "bpe":
        words = tokenizer.train_bpe(progress(read_clean(folder, "train"), "learning"), size)
    elif size is not None:
        words = tokenizer.gpt2_top(progress(read_clean(folder, "train"), "counting"), size)
    else:
        words = tokenizer.gpt2()
    if size is not None and words.vocab_size < size:
        print(f"the stories yield a vocabulary of only {words.vocab_size:,} ids, not {size:,}")
    words.save(folder / "tokenizer.json")
    splits = {split: write_tokens(words, folder, split) for split in tokens.SPLITS}
    return {
        "source": source.origin,
        "revision": source.revision,
        "tokenizer": {
            "kind": words.kind,
            "vocab_size": words.vocab_size,
            "end_of_text": words.end_of_text,
        },
        "splits": splits,
        "cleaning": cleaning,
    }


def write_clean(s: Settings, source: Source, folder: Path) -> dict[str, dict[str, int]]:
    """Go once through the source, and keep its cleaned stories in a file a split.

    The stories are needed twice where a vocabulary is learned, and some sources are slow.

    Returns:
        how often each cleaning rule applied, by split.
    """
    counts = {}
    in_validation = set()
    for split in reversed(tokens.SPLITS):  # validation first: train is held against it
        rules = Counter()
        stories = source.stories(split)
        if s.clean:
            seen = in_validation if split == "val" else set()
            against = in_validation if split == "train" else set()
            stories = cleaned(stories, split, source.instruct, rules, seen, against)
        kept = 0
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for story in progress(stories, f"{'cleaning' if s.clean else 'reading'} {split}"):
                file.write(json.dumps(story) + "\n")
                kept += 1
                if split == "train" and kept == s.max_stories:
                    break
        if not kept:
            raise UserError(f"{source.origin}: no {split} story is left after cleaning")
        counts[split] = {rule: rules[rule] for rule in RULES if rules[rule]}
    return counts


def cleaned(
    stories: Iterable[str], split: str, instruct: bool, rules: Counter, seen: set, against: set
) -> Iterator[str]:
    """The stories that cleaning leaves.

    Args:
        rules: counts how often each rule applied.
        seen: collects the digests of the stories that pass.
        against: digests of stories that must not come again.
    """
    for text in stories:
        story, applied = clean_story(text, repair_only=split == "val", instruct=instruct)
        rules.update(applied)
        if story is None:
            continue
        mark = digest(story)
        if split == "train" and (mark in seen or mark in against):
            rules["duplicate" if mark in seen else "in_validation"] += 1
            continue
        seen.add(mark)
        yield story


def read_clean(folder: Path, split: str) -> Iterator[str]:
    """The stories that `write_clean` kept."""
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write_tokens(words: tokenizer.Tokenizer, folder: Path, split: str) -> dict:
    """Tokenise the stories of a split on all cores; its entry in meta.json."""

    def encode(batch: list[str]):
        text_bytes = sum(len(story.encode(errors="replace")) for story in batch)
        return words.encode_stories(batch), len(batch), text_bytes

    batches = tokenizer.batches(progress(read_clean(folder, split), f"tokenising {split}"))
    with tokens.SplitWriter(folder / f"{split}.bin") as writer:
        for ids, stories, text_bytes in in_order(encode, batches):
            writer.write(ids, stories, text_bytes)
    (folder / f"{split}.jsonl").unlink()
    return writer.metadata()


def in_order(function: Callable, items: Iterable) -> Iterator:
    """Like map, on all cores; holds only a few items at a time.

    Threads serve as well as processes here: the tokenizer works outside Python's global lock.
    """
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def progress(stories: Iterable[str], what: str) -> Iterable[str]:
    """The stories, with a progress bar."""
    return tqdm(stories, desc=what, unit=" stories", disable=None, mininterval=0.5)


def report(meta: dict) -> None:
    """Print what cleaning did."""
    for split, rules in meta["cleaning"].items():
        for rule, count in rules.items():
            print(f"  {split:5} {count:9,}  {rule}: {RULES[rule]}")


def summary(meta: dict) -> str:
    """A dataset in one line."""
    parts = []
    for split in tokens.SPLITS:
        of = meta["splits"][split]
        parts.append(f"{split} {of['stories']:,} stories, {of['tokens']:,} tokens")
    train = meta["splits"]["train"]
    return "; ".join(parts) + f"; {train['bytes'] / train['tokens']:.2f} bytes a token"


if __name__ == "__main__":
    start(main, sys.argv[1:])
