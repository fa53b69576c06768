"""Turn stories into token files for training: data/<dataset>/.

    python prepare.py                                     GPT-2's vocabulary
    python prepare.py --tokenizer=bpe --vocab_size=4096   a trained vocabulary
    python prepare.py --source='mine/*.txt'               stories of your own
    python prepare.py --source=book.txt --separator=none  one text, as it is
    python prepare.py --source=storybook --tokenizer=bpe  built in, no network

Sources: storybook; from the Hugging Face hub tinystories, tinystories_v2,
tinystories_instruct, tinystories_clean, or any id owner/name; a path or glob of
.txt files with <|endoftext|> between stories, of .jsonl, .json or .csv (all of
these also as .gz, .bz2, .xz, .zst), .parquet or .arrow files; a folder that
datasets' save_to_disk wrote.
"""

import json
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Name, OpenFraction
from tinystories.stories.catalog import Source, is_on_hub, known_name, open_source
from tinystories.stories.files import short_name

NOT_INPUT = ("dataset", "overwrite", "text_field")  # settings that do not change the content
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}  # in --separator


@dataclass
class Settings(RangedSettings):
    # Stories
    source: Name = "tinystories"  # a name or a path; see above
    revision: Name = "main"  # branch, tag or commit on the hub
    val_source: str | None = None  # validation stories, for files of your own
    val_fraction: OpenFraction = 0.01  # for validation if no val_source
    separator: Name | None = "<|endoftext|>"  # between stories, as \n\n; none: one text
    column: str | None = None  # of the text in tables; None: text or story
    text_field: str | None = None  # older name of column
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
        self.source = known_name(self.source)
        self.column, self.text_field = self.column or self.text_field, None
        if self.separator:
            self.separator = re.sub(r"\\([nrt\\])", lambda m: ESCAPES[m[1]], self.separator)
        if self.tokenizer == "bpe" and self.vocab_size is None:
            self.vocab_size = 4096
        if self.dataset is None:
            kind = {"bpe": "_bpe", "gpt2": "_gpt2_"}[self.tokenizer]
            suffix = "" if self.vocab_size is None else f"{kind}{self.vocab_size}"
            self.dataset = short_name(self.source) + suffix

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """Answer an argument that is neither a setting nor a config file: it may be a source."""
        command = f"python prepare.py --source={shlex.quote(argument)}"
        raise UserError(f"{argument} is not a setting; as a source of stories: {command}")


command_line = configure(Settings)  # answers --help and mistakes before the slow imports

from tinystories import tokenizer
from tinystories.dataset import (
    OWN_FILES,
    SPLITS,
    SplitWriter,
    dataset_folder,
    read_meta,
    write_meta,
    write_vocabulary,
)
from tinystories.files import only_writer, replace_folder, short_path
from tinystories.stories.cleaning import RULES, cleaned
from tinystories.terminal import counted, duration, progress, short_count


def main(s: Settings) -> None:
    if s.vocab_size is not None:
        largest = tokenizer.GPT2_VOCAB_SIZE if s.tokenizer == "gpt2" else tokenizer.MAX_VOCAB_SIZE
        tokenizer.check_size(s.vocab_size, largest)
    assert s.dataset is not None  # __post_init__ gave it a name
    folder = dataset_folder(s.dataset)
    with only_writer(folder):
        prepare(s, folder)
    print_next(s)


def prepare(s: Settings, folder: Path) -> None:
    """Make the dataset, unless it is there already; raises UserError if something else is."""
    foreign = {path.name for path in folder.iterdir()} - OWN_FILES if folder.exists() else set()
    if foreign and (s.overwrite or not (folder / "train.bin").exists()):
        raise UserError(
            f"{folder} has {min(foreign)}, which is no part of a dataset; choose another --dataset"
        )
    source = None if is_on_hub(s.source) else open_stories(s)  # ask the hub only if needed
    inputs = describe_inputs(s, source)
    if (folder / "train.bin").exists() and not s.overwrite:
        meta = read_meta(folder)
        if not meta or inputs != prepared_inputs(meta):
            raise UserError(
                f"{folder} exists, prepared with other settings or from files that have changed; "
                "replace it with --overwrite=True, or choose another --dataset"
            )
        print(f"{s.dataset} is already prepared, with these settings:")
        print_summary(s, folder, meta)
        return
    start_time = time.perf_counter()
    if s.tokenizer == "gpt2":
        tokenizer.gpt2()  # if it is missing, say so now and not after an hour of cleaning
        if s.vocab_size is not None:
            print(f"vocabulary: the {s.vocab_size:,} tokens of GPT-2's that the stories use most")
            print("  (--tokenizer=bpe trains one of this size on the stories instead)")
    temp_folder = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temp_folder, ignore_errors=True)
    temp_folder.mkdir(parents=True)
    try:
        meta = build(s, source or open_stories(s), temp_folder) | inputs
        write_meta(temp_folder, meta)
        replace_folder(temp_folder, folder)
    finally:
        shutil.rmtree(temp_folder, ignore_errors=True)
    print(f"prepared {short_path(folder)}:")
    print_summary(s, folder, meta)
    print(f"prepared in {duration(time.perf_counter() - start_time)}")


def open_stories(s: Settings) -> Source:
    """The source that the settings name."""
    return open_source(
        s.source,
        revision=s.revision,
        val_source=s.val_source,
        val_fraction=s.val_fraction,
        column=s.column,
        separator=s.separator,
        count=s.max_stories if s.source == "storybook" else None,
    )


def describe_inputs(s: Settings, source: Source | None) -> dict:
    """What decides the content of a dataset: the settings, and the sizes and times of files."""
    settings = {k: v for k, v in vars(s).items() if k not in NOT_INPUT}
    paths = [path for split in SPLITS for path in source.files.get(split, ())] if source else []
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    return {"settings": settings, "files": files}


def prepared_inputs(meta: dict) -> dict:
    """The inputs in a meta.json, perhaps of a version that had fewer settings."""
    stored = {k: v for k, v in meta["settings"].items() if k != "text_field"}
    newer = {"column": meta["settings"].get("text_field"), "separator": Settings.separator}
    return {"settings": newer | stored, "files": meta.get("files")}


def build(s: Settings, source: Source, folder: Path) -> dict:
    """Write a dataset's files into `folder`; returns the metadata of its content."""
    cleaning, kept = write_stories(s, source, folder)
    if s.vocab_size is None:
        tok = tokenizer.gpt2()
    else:
        make = tokenizer.train_bpe if s.tokenizer == "bpe" else tokenizer.gpt2_top
        stories = read_stories(folder, "train", kept["train"], "building the vocabulary")
        tok = make(stories, s.vocab_size)
        if (size := tok.vocab_size) < s.vocab_size:
            print(f"the stories give only {size:,} tokens, fewer than vocab_size={s.vocab_size}")
    write_vocabulary(folder, tok)
    return {
        "source": source.origin,
        "revision": source.revision,
        "tokenizer": {name: getattr(tok, name) for name in ("kind", "vocab_size", "end_of_text")},
        "splits": {split: write_tokens(tok, folder, split, kept[split]) for split in SPLITS},
        "cleaning": cleaning,
    }


def write_stories(s: Settings, source: Source, folder: Path) -> tuple[dict, dict]:
    """Clean the stories of a source into a temporary file per split.

    Returns, by split, how many stories each rule changed or dropped, and how many are left.

    They are read twice where a vocabulary is trained, and some sources are slow.
    """
    applied, kept = {}, {}
    val_keys = set()
    for split in reversed(SPLITS):  # validation first, since its stories are excluded from train
        counts = Counter()
        stories = source.stories(split)
        if s.clean and not source.one_text:
            stories = cleaned(stories, split, source.instruct, val_keys, counts)
        num_kept = 0
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as file:
            total = source.count(split)
            for story in progress(stories, f"reading {split}", "stories", total=total):
                file.write(json.dumps(story) + "\n")
                num_kept += 1
                if split == "train" and num_kept == s.max_stories:
                    break
        if not num_kept:
            why = [RULES[rule] for rule, _ in counts.most_common() if "dropped" in RULES[rule]]
            most = f" (most of them: {why[0]})" if why else ""
            raise UserError(f"{source.origin}: no {split} story is left; see --clean{most}")
        applied[split] = {rule: counts[rule] for rule in RULES if counts[rule]}
        kept[split] = num_kept
    return applied, kept


def read_stories(folder: Path, split: str, count: int, desc: str) -> Iterator[str]:
    """The stories that `write_stories` kept, with a progress bar."""
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        yield from progress(map(json.loads, file), desc, "stories", total=count)


def write_tokens(tok: tokenizer.Tokenizer, folder: Path, split: str, count: int) -> dict:
    """Write a split's .bin, on all cores, in place of its .jsonl; returns its meta.json entry."""
    byte_lengths = tok.byte_lengths()

    def encode(batch: list[str]):
        ids = tok.encode_stories(batch)
        return ids, len(batch), int(byte_lengths[ids].sum())

    batches = tokenizer.batches(read_stories(folder, split, count, f"tokenizing {split}"))
    with SplitWriter(folder / f"{split}.bin") as writer:
        for ids, stories, text_bytes in tokenizer.parallel_map(encode, batches):
            writer.write(ids, stories, text_bytes)
    (folder / f"{split}.jsonl").unlink()
    return writer.metadata()


def print_summary(s: Settings, folder: Path, meta: dict) -> None:
    """Print what a dataset holds and what cleaning did, in lines of at most 80 characters."""
    for split in SPLITS:
        counts, path = meta["splits"][split], folder / f"{split}.bin"
        size = f"{short_count(path.stat().st_size)}B"
        texts = counted(counts["stories"], "story", "stories")
        print(f"  {path.name:9}  {texts}, {counts['tokens']:,} tokens, {size}")
    train, kind = meta["splits"]["train"], meta["tokenizer"]["kind"]
    density = f"{train['bytes'] / train['tokens']:.2f} bytes per token"
    print(f"  vocabulary {meta['tokenizer']['vocab_size']:,} ids ({kind}), {density}")
    if s.separator is None:
        print("  each file is one text, taken as it is, without cleaning")
    for split in SPLITS:
        rules = meta["cleaning"][split]
        dropped = {rule: n for rule, n in rules.items() if RULES[rule].startswith("dropped")}
        total, read = sum(dropped.values()), sum(dropped.values(), meta["splits"][split]["stories"])
        if dropped:
            print(f"dropped from {split}: {total:,} of {counted(read, 'story', 'stories')}")
            print_rules(dropped)
        if repaired := {rule: n for rule, n in rules.items() if rule not in dropped}:
            print(f"repaired in {split}:")
            print_rules(repaired)
        if 2 * total > read:
            print("--clean=False keeps all of them as they are")


def print_rules(counts: dict[str, int]) -> None:
    """A line for each rule."""
    for rule, count in counts.items():
        print(f"{count:9,}  {RULES[rule].removeprefix('dropped').lstrip(', ')}")


def print_next(s: Settings) -> None:
    print("train on it with:")
    print("\n".join(f"  {command}" for command in training_commands(str(s.dataset))))


def training_commands(dataset: str) -> list[str]:
    """How to train on a dataset: with the configs that are made for it, or without one."""
    line = re.compile(rf'^dataset = "{re.escape(dataset)}"', re.MULTILINE)
    configs = sorted((ROOT / "config").glob("*.py"))
    fitting = [path.name for path in configs if line.search(path.read_text(encoding="utf-8"))]
    commands = [f"python train.py config/{name}" for name in fitting]
    return commands or [f"python train.py --dataset={shlex.quote(dataset)}"]


if __name__ == "__main__":
    start(main, command_line.settings)
