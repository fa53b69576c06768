"""Turn stories into token files for training: data/<dataset>/.

    python prepare.py                                     GPT-2's vocabulary
    python prepare.py --tokenizer=bpe --vocab_size=4096   a trained vocabulary
    python prepare.py --source='mine/*.txt'               stories of your own
    python prepare.py --source=book.txt --separator=none  one text, as it is
    python prepare.py --source=tinystories,mine --weights=1,2   several sources
    python prepare.py --source=storybook --tokenizer=bpe  built in, no network
    python prepare.py --source=storybook --instruct=True  with header lines

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
from typing import Annotated, Any, Literal

from configurator import ROOT, RangedSettings, UserError, configure, start
from tinystories.ranges import Count, Name, OpenFraction, Range
from tinystories.stories.catalog import NAMES, Source, is_on_hub, open_source
from tinystories.stories.files import SEPARATOR, short_name
from tinystories.stories.mixture import (
    EXAMPLES,
    Ingredient,
    clean_into,
    combine,
    passes,
    read_weights,
    source_names,
    stories_path,
)

NOT_INPUT = ("dataset", "overwrite", "text_field")  # settings that do not change the content
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}  # in --separator


@dataclass
class Settings(RangedSettings):
    # Stories
    source: Name = "tinystories"  # names or paths, with commas; see above
    weights: str | None = None  # how often an epoch has each, as 2,1,0.5
    revision: Name = "main"  # branch, tag or commit on the hub
    val_source: str | None = None  # validation stories, for files of your own
    val_fraction: OpenFraction = 0.01  # for validation if no val_source
    separator: Name | None = SEPARATOR  # between stories, as \n\n; none: one text
    column: str | None = None  # of the text in tables; None: text or story
    text_field: str | None = None  # older name of column
    instruct: bool = False  # storybook: lines that ask for each story
    max_stories: Count | None = None  # limit of training stories, per source
    clean: bool = True  # fix text, drop broken or duplicate stories
    near_duplicates: Annotated[float, Range(0.6, 1)] | None = None  # drop as similar; try 0.8
    select: Count | None = None  # keep so many, those that cover most
    # Vocabulary
    tokenizer: Literal["gpt2", "bpe"] = "gpt2"  # GPT-2's, or trained on the stories
    vocab_size: int | None = None  # 257 and more; None: GPT-2's, bpe: 4096
    # Result
    dataset: Name | None = None  # folder in data/; None: by source and vocabulary
    overwrite: bool = False  # replace a dataset with other settings

    def __post_init__(self):
        super().__post_init__()
        names = source_names(self.source)
        self.source = ",".join(names)
        read_weights(self.weights, len(names))
        if len(names) > 1 and self.val_source:
            raise UserError("val_source goes with one source; several bring their own validation")
        if self.instruct and "storybook" not in names:
            raise UserError(
                "instruct is for --source=storybook; tinystories_instruct has its headers already"
            )
        if self.separator is None and (self.near_duplicates or self.select):
            raise UserError("separator=none makes one text: no near_duplicates or select in it")
        self.column, self.text_field = self.column or self.text_field, None
        if self.separator:
            self.separator = re.sub(r"\\([nrt\\])", lambda m: ESCAPES[m[1]], self.separator)
        if self.tokenizer == "bpe" and self.vocab_size is None:
            self.vocab_size = 4096
        if self.dataset is None:
            kind = {"bpe": "_bpe", "gpt2": "_gpt2_"}[self.tokenizer]
            suffix = "" if self.vocab_size is None else f"{kind}{self.vocab_size}"
            labels = [short_name(n) + "_instruct" * self.as_records(n) for n in names]
            self.dataset = "_".join(labels) + suffix

    def as_records(self, name: str) -> bool:
        """Whether a source gives records where it would give stories."""
        return self.instruct and name == "storybook"

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
from tinystories.parallel import batches, parallel_map
from tinystories.stories.cleaning import BY_SETTING, RULES
from tinystories.terminal import counted, progress, short_count, time_taken, wrapped


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
    local = open_sources(s, hub=False)  # ask the hub only if needed
    inputs = describe_inputs(s, local)
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
    if temp_folder.exists():
        raise UserError(f"cannot remove {temp_folder}, which an earlier command left; remove it")
    temp_folder.mkdir(parents=True)
    try:
        whole = len(local) == len(source_names(s.source))
        meta = build(s, local if whole else open_sources(s), temp_folder) | inputs
        write_meta(temp_folder, meta)
        replace_folder(temp_folder, folder)
    finally:
        shutil.rmtree(temp_folder, ignore_errors=True)
    print(f"prepared {short_path(folder)}:")
    print_summary(s, folder, meta)
    print(f"prepared in {time_taken(time.perf_counter() - start_time)}")


def open_sources(s: Settings, hub: bool = True) -> list[Source]:
    """The sources that the settings name, where `hub` is false without those on the hub."""
    names, sources = source_names(s.source), []
    for name in names:
        if not hub and is_on_hub(name):
            continue
        own = len(names) == 1 or name not in NAMES  # column and separator are for files of the user
        source = open_source(
            name,
            revision=s.revision,
            val_source=s.val_source,
            val_fraction=s.val_fraction,
            column=s.column if own else None,
            separator=s.separator if own else SEPARATOR,
            count=s.max_stories if name == "storybook" else None,
            instruct=s.as_records(name),
        )
        sources.append(source)
    return sources


def describe_inputs(s: Settings, sources: list[Source]) -> dict:
    """What decides the content of a dataset: the settings, and the sizes and times of files."""
    settings = {k: v for k, v in vars(s).items() if k not in NOT_INPUT}
    paths = [p for x in sources for split in SPLITS for p in x.files.get(split, ())]
    files = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]
    text = json.dumps({"settings": settings, "files": files}, ensure_ascii=False)
    return json.loads(text.encode(errors="replace"))  # as it will be in meta.json


def prepared_inputs(meta: dict) -> dict:
    """The inputs in a meta.json, perhaps of a version that had fewer settings."""
    stored = {k: v for k, v in meta["settings"].items() if k != "text_field"}
    newer = {"column": meta["settings"].get("text_field"), "separator": Settings.separator}
    newer |= {"instruct": False, "weights": None, "near_duplicates": None, "select": None}
    return {"settings": newer | stored, "files": meta.get("files")}


def build(s: Settings, sources: list[Source], folder: Path) -> dict:
    """Write a dataset's files into `folder`; returns the metadata of its content."""
    ingredients = combine(sources, read_weights(s.weights, len(sources)))
    # Kept in files, since they are read twice where a vocabulary is trained, and sources are slow.
    clean_into(folder, ingredients, s.clean, s.max_stories, s.near_duplicates, s.select)
    if s.vocab_size is None:
        tok = tokenizer.gpt2()
    else:
        make = tokenizer.train_bpe if s.tokenizer == "bpe" else tokenizer.gpt2_top
        tok = make(training_stories(folder, ingredients), s.vocab_size)
        if (size := tok.vocab_size) < s.vocab_size:
            print(f"the stories give only {size:,} tokens, fewer than vocab_size={s.vocab_size}")
    write_vocabulary(folder, tok)
    splits, cleaning = {}, {}
    parts: list[dict[str, Any]] = [
        {"name": i.name, "source": i.source.origin, "revision": i.source.revision}
        | {"weight": i.weight}
        for i in ingredients
    ]
    for split in SPLITS:
        splits[split], counts = write_tokens(tok, folder, split, ingredients)
        rules = Counter()
        for part, i, count in zip(parts, ingredients, counts, strict=True):
            part[split] = count | {"kept": i.kept[split], "cleaning": i.cleaning[split]}
            rules.update(i.cleaning[split])
        cleaning[split] = {rule: rules[rule] for rule in RULES if rules[rule]}
    for part in parts:
        if part["train"]["kept"] and not part["train"]["stories"]:
            raise UserError(
                f"an epoch would see none of the {part['train']['kept']:,} stories of "
                f"{part['source']}; raise its weight"
            )
    return {
        "source": ", ".join(part["source"] for part in parts),
        "revision": parts[0]["revision"] if len(parts) == 1 else None,
        "sources": parts,
        "cleaning": cleaning,
        "tokenizer": {name: getattr(tok, name) for name in ("kind", "vocab_size", "end_of_text")},
        "splits": splits,
    }


def training_stories(folder: Path, ingredients: list[Ingredient]) -> Iterator[str]:
    """The training stories of an epoch, with a progress bar."""
    total = round(sum(i.kept["train"] * i.weight for i in ingredients))
    with progress(None, "building the vocabulary", "stories", total=total) as bar:
        for _, stories in passes(folder, ingredients, "train"):
            for story in stories:
                yield story
                bar.update()


def write_tokens(
    tok: tokenizer.Tokenizer, folder: Path, split: str, ingredients: list[Ingredient]
) -> tuple[dict, list[dict]]:
    """Write a split's .bin, on all cores, in place of the files of `clean_into`.

    Returns its meta.json entry, and the stories, tokens and bytes that are from each source.
    """
    byte_lengths = tok.byte_lengths()
    counts = [dict.fromkeys(("stories", "tokens", "bytes"), 0) for _ in ingredients]

    def encode(batch: list[str]):
        ids = tok.encode_stories(batch)
        return ids, len(batch), int(byte_lengths[ids].sum())

    total = round(sum(i.kept[split] * (i.weight if split == "train" else 1) for i in ingredients))
    bar = progress(None, f"tokenizing {split}", "stories", total=total)
    with bar, SplitWriter(folder / f"{split}.bin") as writer:
        for number, stories in passes(folder, ingredients, split):
            count = counts[number]
            for ids, size, text_bytes in parallel_map(encode, batches(stories)):
                writer.write(ids, size, text_bytes)
                for name, more in (("stories", size), ("tokens", len(ids)), ("bytes", text_bytes)):
                    count[name] += more
                bar.update(size)
    for number in range(len(ingredients)):
        stories_path(folder, split, number).unlink()
    return writer.metadata(), counts


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
        print("  each file of your own is one text, taken as it is, without cleaning")
    parts = meta.get("sources") or [{split: {} for split in SPLITS}]
    for part in parts if len(parts) > 1 else ():
        times = "" if part["weight"] == 1 else f", {part['weight']:g} times an epoch"
        kept = [f"{part[split]['kept']:,} for {split}" for split in SPLITS]
        print(wrapped(f"  {part['source']}: {' and '.join(kept)}{times}"))
    for split in SPLITS:
        kept = sum(part[split].get("kept", meta["splits"][split]["stories"]) for part in parts)
        print_cleaning(split, meta.get("cleaning", {}).get(split, {}), kept)
    if (folder / EXAMPLES).exists():
        print(f"{EXAMPLES} has near-duplicates to read, the least similar first")


def print_cleaning(split: str, rules: dict[str, int], kept: int) -> None:
    """Print what cleaning dropped and repaired in a split, of which it kept so many stories."""
    dropped = {rule: n for rule, n in rules.items() if RULES.get(rule, "").startswith("dropped")}
    total = sum(dropped.values())
    if dropped:
        print(f"dropped from {split}: {total:,} of {counted(total + kept, 'story', 'stories')}")
        print_rules(dropped)
    if repaired := {rule: n for rule, n in rules.items() if rule not in dropped}:
        print(f"repaired in {split}:")
        print_rules(repaired)
    if total > kept + sum(rules.get(rule, 0) for rule in BY_SETTING):
        print("--clean=False keeps all of them as they are")


def print_rules(counts: dict[str, int]) -> None:
    """A line for each rule."""
    for rule, count in counts.items():
        print(f"{count:9,}  {RULES.get(rule, rule).removeprefix('dropped').lstrip(', ')}")


def print_next(s: Settings) -> None:
    print("train on it with:")
    print("\n".join(f"  {command}" for command in training_commands(str(s.dataset))))


def training_commands(dataset: str) -> list[str]:
    """How to train on a dataset: with the configs that are made for it, or without one."""
    line = re.compile(rf'^dataset = "{re.escape(dataset)}"', re.MULTILINE)
    configs = sorted(path for path in (ROOT / "config").glob("[!.]*.py") if path.is_file())
    fitting = [path.name for path in configs if line.search(path.read_text("utf-8", "replace"))]
    commands = [f"python train.py config/{name}" for name in fitting]
    return commands or [f"python train.py --dataset={shlex.quote(dataset)}"]


if __name__ == "__main__":
    start(main, command_line.settings)
