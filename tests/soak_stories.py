"""Odd files of stories, given to prepare.py."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from soak_world import World, check_answer, run, succeed

from tinystories.dataset import open_dataset

STORIES = [
    f"Once upon a time there was a fox who had {n} friends.\n\nThey played all day, “gladly”."
    for n in range(60)
]
SEPARATOR = "\n<|endoftext|>\n"
OPTIONS = ("--tokenizer=bpe", "--vocab_size=270", "--val_fraction=0.1")
KINDS = (".txt", ".jsonl", ".json", ".csv", ".parquet", ".arrow")
COMPRESSORS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def case(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    kinds = (harmless, odd_text, odd_table, damaged, special, large)
    kind = rng.choices(kinds, (8, 16, 16, 12, 8, 1))[0]
    yield from kind(rng, world, folder)


def prepared(folder: Path, source: object, *more: str, same_as: Path | None = None) -> None:
    """Prepare a dataset; where that succeeds it is whole, and like another one if there is one."""
    data = folder / "data"
    done = run("prepare.py", f"--source={source}", f"--dataset={data}", *OPTIONS, *more)
    check_answer(done)
    if done.status == 2:
        if data.exists() or (folder / ".data.partial").exists():
            raise done.fail("refused, and yet it made something")
        if same_as:
            raise done.fail("refuses good stories")
        return
    splits = read(data)
    if not all(splits):
        raise done.fail("a split without stories")
    # Which of them are for validation depends on the text before it is cleaned.
    if same_as and sorted(chain(*splits)) != sorted(chain(*read(same_as))):
        raise done.fail("other stories than those of the plain file")


def read(folder: Path) -> list[list[str]]:
    """The stories of both splits; raises UserError for a damaged dataset."""
    data = open_dataset(str(folder), block_size=1)
    return [list(split.stories(data.tokenizer)) for split in (data.train, data.val)]


def file_of(stories: list, kind: str, rng: random.Random, column: str = "text") -> bytes:
    """A file of one of KINDS with these stories, which may be of any type in tables."""
    if kind == ".txt":
        return SEPARATOR.join(map(str, stories)).encode("utf-8", "replace")
    if kind == ".csv":
        text = io.StringIO()
        rows = csv.writer(text)
        rows.writerow(["id", column])
        rows.writerows(enumerate(stories))
        return text.getvalue().encode("utf-8", "replace")
    rows = [{"id": n, column: story} for n, story in enumerate(stories)]
    if kind == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows).encode()
    import pyarrow
    import pyarrow.parquet

    table, sink = pyarrow.table({"id": list(range(len(stories))), column: stories}), io.BytesIO()
    if kind == ".parquet":
        pyarrow.parquet.write_table(table, sink, row_group_size=rng.choice((7, 1000)))
    else:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def plain(world: World) -> Path:
    """The dataset of STORIES."""
    path = world.folder / "plain" / "data"
    if not path.exists():
        path.parent.mkdir()
        source = path.parent / "plain.txt"
        source.write_bytes(SEPARATOR.join(STORIES).encode())
        succeed("prepare.py", f"--source={source}", f"--dataset={path}", *OPTIONS)
    return path


def harmless(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """The same stories written otherwise."""
    kind = rng.choice(KINDS)
    data, name = file_of(STORIES, kind, rng), f"tales{kind}"
    if kind == ".txt" and rng.random() < 0.5:
        data = data.replace(b"\n", b"\r\n")
    if kind not in (".parquet", ".arrow"):
        if rng.random() < 0.5:
            data = b"\xef\xbb\xbf" + data
        if rng.random() < 0.5:
            ending = rng.choice(list(COMPRESSORS))
            data, name = COMPRESSORS[ending](data), name + ending
    (folder / name).write_bytes(data)
    source = folder / name
    if rng.random() < 0.3:
        (folder / "link").symlink_to(folder)
        source = folder / "link" / name
    prepared(folder, source, same_as=plain(world))
    yield f"written otherwise, {kind}"


def odd_text(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """Characters, bytes and lines that are unusual."""
    stories = list(STORIES)
    odd = (
        *("\0", "a\0b\0", "\x1a", "\ufeff", "\u2028\u2029", "\x85", "\v\f", "🦊" * 999, "\u202e"),
        *("<|endoftext|>", "<|endoftext|", " " * 100_000, "\n" * 10_000, "a" * 100_000, "", "\r"),
        *("'" * 3000, "\u0301" * 3000, "\U0010ffff", "�", '"', ",", '",\n"', "{", "\\u0000"),
    )
    for _ in range(rng.choice((1, 5, 60))):
        place = rng.randrange(len(stories))
        stories[place] = rng.choice((stories[place], "")) + rng.choice(odd)
    kind = rng.choice(KINDS)
    data = file_of(stories, kind, rng)
    if kind in (".txt", ".jsonl", ".json", ".csv") and rng.random() < 0.3:
        data = data.decode().encode(
            rng.choice(("utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7")), "replace"
        )
    (folder / f"tales{kind}").write_bytes(data)
    more = rng.choice(((), (), ("--clean=False",), ("--separator=none",), ("--separator=\\n",)))
    prepared(folder, folder / f"tales{kind}", *more)
    yield f"odd text, {kind}"


def odd_table(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """Cells and columns of another type than text, and rows that are broken."""
    kind = rng.choice((".jsonl", ".json", ".csv", ".parquet", ".arrow"))
    values = (None, 7, -1.5, float("nan"), True, [1, 2], ["a"], {"a": 1}, b"\xff\x00", 10**18)
    stories: list = list(STORIES)
    if rng.random() < 0.5:
        stories = [rng.choice(values)] * 60
    elif kind in (".jsonl", ".json", ".csv"):
        for _ in range(5):
            stories[rng.randrange(60)] = rng.choice(values)
    if kind in (".jsonl", ".json"):
        stories = [str(story) if isinstance(story, bytes) else story for story in stories]
    data = file_of(stories, kind, rng, rng.choice(("text", "text", "story", "body", "", "text\n")))
    if kind in (".jsonl", ".csv") and rng.random() < 0.6:
        lines = data.splitlines(keepends=True)
        for _ in range(3):
            i = rng.randrange(len(lines))
            lines[i] = rng.choice(
                (
                    *(lines[i][: len(lines[i]) // 2], b"\n", b'"', b'"\n', b"\0\n", b"a,b,c,d,e\n"),
                    *(
                        b"[" * 100_000,
                        b"9" * 6000 + b"\n",
                        b"null\n",
                        b"{}\n",
                        b'"x"\n',
                        lines[i] * 2,
                    ),
                    *(
                        b'{"text": "a", "text": 1}\n',
                        b'{"text": {"text": "a"}}\n',
                        b"NaN\n",
                        b"\r\r\n",
                    ),
                    b'"' + b"x" * 300_000 + b'"\n',
                )
            )
        data = b"".join(lines)
    (folder / f"tales{kind}").write_bytes(data)
    more = rng.choice(((), (), ("--column=text",), ("--column=id",), ("--column=body",)))
    prepared(folder, folder / f"tales{kind}", *more)
    yield f"odd table, {kind}"


def damaged(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """A file that is cut short, has changed bytes, or another ending than content."""
    kind = rng.choice(KINDS)
    data = bytearray(file_of(STORIES, kind, rng))
    ending = rng.choice(("", *COMPRESSORS)) if kind not in (".parquet", ".arrow") else ""
    if ending:
        data = bytearray(COMPRESSORS[ending](bytes(data)))
    how = rng.choice(("cut", "bytes", "bytes", "name"))
    if how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "bytes":
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        kind = rng.choice((*KINDS, ".TXT", ".zip", "", ".txt.zst", ".parquet.gz", ".gz", ".tar.gz"))
        ending = rng.choice((ending, ""))
    (folder / f"tales{kind}{ending}").write_bytes(data)
    prepared(folder, folder / f"tales{kind}{ending}")
    yield f"{how}, {kind}{ending}" if how != "name" else "another name than content"


def special(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """What is no file, or holds no stories."""
    kind = rng.choice(("FIFO", "FIFO in glob", "device", "loop", "folder", "empty", "one", "same"))
    path = folder / f"tales{rng.choice(KINDS)}"
    source: object = path
    if kind.startswith("FIFO"):
        os.mkfifo(path)
        source = folder / "*" if "glob" in kind else path
    elif kind == "device":
        source = rng.choice(("/dev/zero", "/dev/full", "/dev/null", "/proc/self/mem", "/proc/kmsg"))
        if rng.random() < 0.5:
            path.symlink_to(source)
            source = path
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
        source = rng.choice((path, folder, "/", f"{folder}/**", "/proc/[0-9]*/mem"))
    elif kind == "empty":
        path.write_bytes(rng.choice((b"", b"\n", b"[]", b"{}", b"\xef\xbb\xbf", b"text\n", b"\0")))
    elif kind == "one":
        path = folder / "tales.txt"
        path.write_text(STORIES[0])
        source = path
    else:  # the same file for validation
        path.write_bytes(file_of(STORIES, path.suffix, rng))
    prepared(folder, source, *([f"--val_source={source}"] if rng.random() < 0.2 else []))
    yield kind


def large(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """A story of 50 MB, a million empty ones, a small file that is large when it is unpacked."""
    kind = rng.choice(("one of 50 MB", "a million empty ones", "unpacked 1 GB", "long lines"))
    path = folder / f"tales{rng.choice(('.txt', '.jsonl', '.json', '.csv', '.parquet'))}"
    if kind == "one of 50 MB":
        long = "The fox ran. " * 4_000_000
        path.write_bytes(file_of([*STORIES, long, *STORIES], path.suffix, rng))
    elif kind == "a million empty ones":
        path.write_bytes(file_of([*STORIES, *[""] * 1_000_000, *STORIES], path.suffix, rng))
    elif kind == "unpacked 1 GB":
        path = folder / "tales.txt.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            for _ in range(1024):
                file.write(bytes(2**20))
    else:
        path = folder / "tales.txt"
        path.write_bytes(b"x" * 40_000_000 + SEPARATOR.encode() + b"y" * 40_000_000)
    prepared(folder, path)
    shutil.rmtree(folder / "data", ignore_errors=True)
    yield f"large: {kind}"
