"""Turn stories into token files for training: data/<dataset>/.

    python prepare.py                                     GPT-2's vocabulary
    python prepare.py --tokenizer=bpe --vocab_size=4096   a trained vocabulary
    python prepare.py --source='mine/*.txt'               stories of your own
    python prepare.py --source=storybook --tokenizer=bpe  built in, no network

Sources: tinystories, tinystories_v2, tinystories_instruct, tinystories_clean
(all from the Hugging Face hub), storybook, or a path or glob of .txt files with
<|endoftext|> between stories, or of .jsonl, .json, .csv or .parquet files.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Name, OpenFraction
from tinystories.stories.files import short_name


@dataclass
class Settings(RangedSettings):
    # Stories
    source: Name = "tinystories"  # a name or a path; see above
    revision: Name = "main"  # branch, tag or commit on the hub
    val_source: str | None = None  # validation stories, for files of your own
    val_fraction: OpenFraction = 0.01  # for validation if no val_source
    text_field: str | None = None  # column of the text; None: text or story
    max_stories: Count | None = None  # limit of training stories
    clean: bool = True  # fix text, drop broken or duplicate stories
    # Vocabulary
    tokenizer: Literal["gpt2", "bpe"] = "gpt2"  # GPT-2's, or trained on the stories
    vocab_size: int | None = None  # 257 and more; None: GPT-2's, bpe: 4096
    # Result
    dataset: Name | None = None  # folder in data/; None: by source and vocabulary
    overwrite: bool = False  # replace a dataset with other settings

    def __post_init__(self):
        super().__post_init__()
        if self.tokenizer == "bpe" and self.vocab_size is None:
            self.vocab_size = 4096
        if self.dataset is None:
            kind = {"bpe": "_bpe", "gpt2": "_gpt2_"}[self.tokenizer]
            suffix = "" if self.vocab_size is None else f"{kind}{self.vocab_size}"
            self.dataset = short_name(self.source) + suffix


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories import tokenizer
from tinystories.dataset import SPLITS, SplitWriter, dataset_folder, read_meta, write_meta
from tinystories.files import replace_folder
from tinystories.stories.catalog import HUB, Source, open_source
from tinystories.stories.cleaning import RULES, cleaned
from tinystories.terminal import progress


def main(s: Settings) -> None:
    if s.vocab_size is not None:
        largest = tokenizer.GPT2_VOCAB_SIZE if s.tokenizer == "gpt2" else tokenizer.MAX_VOCAB_SIZE
        tokenizer.check_size(s.vocab_size, largest)
    assert s.dataset is not None  # __post_init__ gave it a name
    folder = dataset_folder(s.dataset)
    if folder.exists() and any(folder.iterdir()) and not (folder / "train.bin").exists():
        raise UserError(f"{folder} exists and holds no dataset; choose another --dataset")
    source = None if s.source in HUB else open_stories(s)  # ask the hub only if needed
    inputs = describe_inputs(s, source)
    if folder.exists() and not s.overwrite:
        meta = read_meta(folder)
        if not meta or inputs != {name: meta.get(name) for name in inputs}:
            raise UserError(
                f"{folder} exists, prepared with other settings or from files that have changed; "
                "replace it with --overwrite=True, or choose another --dataset"
            )
        print(f"{s.dataset} is already prepared, with these settings: {summary(meta)}")
        return
    if s.tokenizer == "gpt2":
        tokenizer.gpt2()  # if it is missing, say so now and not after an hour of cleaning
    temp_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temp_folder, ignore_errors=True)
    temp_folder.mkdir(parents=True)
    try:
        meta = build(s, source or open_stories(s), temp_folder) | inputs
        write_meta(temp_folder, meta)
        replace_folder(temp_folder, folder)
    finally:
        shutil.rmtree(temp_folder, ignore_errors=True)
    for split, rules in meta["cleaning"].items():
        for rule, count in rules.items():
            print(f"  {split:5} {count:9,}  {rule}: {RULES[rule]}")
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


def describe_inputs(s: Settings, source: Source | None) -> dict:
    """What decides the content of a dataset: the settings, and the sizes and times of files."""
    settings = {k: v for k, v in vars(s).items() if k not in ("dataset", "overwrite")}
    paths = [path for split in SPLITS for path in source.files.get(split, ())] if source else []
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    return {"settings": settings, "files": files}


def build(s: Settings, source: Source, folder: Path) -> dict:
    """Write a dataset's files into `folder`; returns the metadata of its content."""
    cleaning = write_stories(s, source, folder)
    if s.vocab_size is None:
        tok = tokenizer.gpt2()
    else:
        make = tokenizer.train_bpe if s.tokenizer == "bpe" else tokenizer.gpt2_top
        tok = make(read_stories(folder, "train", "building the vocabulary"), s.vocab_size)
        if (size := tok.vocab_size) < s.vocab_size:
            print(f"the stories give only {size:,} tokens, fewer than vocab_size={s.vocab_size}")
    tok.save(folder / "tokenizer.json")
    return {
        "source": source.origin,
        "revision": source.revision,
        "tokenizer": {name: getattr(tok, name) for name in ("kind", "vocab_size", "end_of_text")},
        "splits": {split: write_tokens(tok, folder, split) for split in SPLITS},
        "cleaning": cleaning,
    }


def write_stories(s: Settings, source: Source, folder: Path) -> dict[str, dict[str, int]]:
    """Clean the stories of a source into a temporary file per split; returns counts by rule.

    They are read twice where a vocabulary is trained, and some sources are slow.
    """
    applied = {}
    val_keys = set()
    for split in reversed(SPLITS):  # validation first, since its stories are excluded from train
        counts = Counter()
        stories = source.stories(split)
        if s.clean:
            stories = cleaned(stories, split, source.instruct, val_keys, counts)
        num_kept = 0
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for story in progress(stories, f"reading {split}", " stories"):
                file.write(json.dumps(story) + "\n")
                num_kept += 1
                if split == "train" and num_kept == s.max_stories:
                    break
        if not num_kept:
            raise UserError(f"{source.origin}: no {split} story is left; see --clean")
        applied[split] = {rule: counts[rule] for rule in RULES if counts[rule]}
    return applied


def read_stories(folder: Path, split: str, desc: str) -> Iterator[str]:
    """The stories that `write_stories` kept, with a progress bar."""
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        yield from progress(map(json.loads, file), desc, " stories")


def write_tokens(tok: tokenizer.Tokenizer, folder: Path, split: str) -> dict:
    """Write a split's .bin, on all cores, in place of its .jsonl; returns its meta.json entry."""
    byte_lengths = tok.byte_lengths()

    def encode(batch: list[str]):
        ids = tok.encode_stories(batch)
        return ids, len(batch), int(byte_lengths[ids].sum())

    batches = tokenizer.batches(read_stories(folder, split, f"tokenizing {split}"))
    with SplitWriter(folder / f"{split}.bin") as writer:
        for ids, stories, text_bytes in tokenizer.parallel_map(encode, batches):
            writer.write(ids, stories, text_bytes)
    (folder / f"{split}.jsonl").unlink()
    return writer.metadata()


def summary(meta: dict) -> str:
    """A dataset in one line."""
    parts = []
    for split in SPLITS:
        counts = meta["splits"][split]
        parts.append(f"{split} {counts['stories']:,} stories, {counts['tokens']:,} tokens")
    train = meta["splits"]["train"]
    return "; ".join(parts) + f"; {train['bytes'] / train['tokens']:.2f} bytes per token"


if __name__ == "__main__":
    start(main, command_line.settings)
