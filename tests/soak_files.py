"""Random damage of every file that a command reads."""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from conftest import SMALL
from soak_world import (
    QUICK_EVALUATION,
    STORIES,
    VOCABULARY,
    Done,
    Failure,
    World,
    check_answer,
    run,
    succeed,
)

from tinystories.run import load_checkpoint

MARGIN = 100 * 2**20  # bytes of memory that a command may take more than twice the normal
SPARSE = 64 * 2**30  # bytes of a file that has no content


class Target(NamedTuple):
    """A command, the files that it reads, and what it should give whatever is in them.

    In the words and files, {name} is a copy of that thing of the World.
    """

    words: str
    files: str
    same: str = ""  # files without influence on the result, unless they are refused
    weight: int = 4


SAMPLE = "sample.py --max_new_tokens=12 --num_samples=1 --device=cpu"
EVALUATE = " ".join(("evaluate.py", *QUICK_EVALUATION))
TRAIN = " ".join(("train.py", *SMALL, "--eval_only=True --eval_tokens=64 --full_eval=False"))
SAME = " ".join((*STORIES, *VOCABULARY))
BENCH = (
    "bench.py --what=sample --repeats=1 --n_layer=1 --n_head=1 --n_embd=16 --block_size=16 "
    "--vocab_size=257 --max_new_tokens=1 --device=cpu"
)
TARGETS = (
    Target(f"{SAMPLE} {{run}}", "{run}/best.pt {run}/vocabulary.json", "best.pt vocabulary.json"),
    Target(f"{SAMPLE} {{run}} --checkpoint=ckpt.pt", "{run}/ckpt.pt", "ckpt.pt"),
    Target(
        f"{SAMPLE} {{nanogpt}}", "{nanogpt}/ckpt.pt {nanogpt}/vocabulary.json {nanogpt}/meta.pkl"
    ),
    Target(
        f"{SAMPLE} {{hf}}",
        "{hf}/model.safetensors {hf}/config.json {hf}/tokenizer.json {hf}/tokenizer_config.json "
        "{hf}/generation_config.json",
    ),
    Target(f"{SAMPLE} {{run}} --start=FILE:{{prompts}}", "{prompts}"),
    Target(
        "train.py --init_from=resume --out_dir={run} --dataset={data} --max_iters=6",
        "{run}/ckpt.pt {run}/best.pt {run}/settings.json {run}/vocabulary.json {run}/log.csv "
        "{run}/samples.txt",
        "ckpt.pt best.pt vocabulary.json",
    ),
    Target(
        f"{TRAIN} --dataset={{data}}",
        "{data}/meta.json {data}/train.bin {data}/val.bin {data}/vocabulary.json "
        "{data}/checked.json",
        "train.bin val.bin vocabulary.json checked.json",
    ),
    Target(
        f"{TRAIN} --dataset={{characters}}",
        "{characters}/meta.pkl {characters}/train.bin {characters}/val.bin",
    ),
    Target(
        f"{EVALUATE} {{run}} --pairs={{pairs}} --prompts={{prompts}}",
        "{run}/evaluation.json {run}/evaluation_stories.jsonl {run}/settings.json "
        "{run}/best.pt {pairs} {prompts}",
        "evaluation.json evaluation_stories.jsonl best.pt",
        weight=2,
    ),
    Target(
        f"{EVALUATE} --what=loss --compare={{run}} --plot={{folder}}/curves.png",
        "{run}/log.csv {run}/settings.json",
        weight=2,
    ),
    Target(
        "export.py {run} --to=hf --overwrite",
        "{run}/evaluation.json {run}/settings.json {run}/best.pt",
    ),
    Target("explore.py --dataset={data} --sample=9", "{data}/meta.json", weight=1),
    Target(
        "interpret.py --out_dir={run} --dataset={data} --stories=2 --parts=lens",
        "{run}/best.pt {run}/settings.json {data}/meta.json {data}/val.bin",
        weight=1,
    ),
    Target(
        "plan.py --check={run} --dataset={data}",
        "{run}/log.csv {run}/settings.json {data}/meta.json",
        weight=1,
    ),
    Target(f"prepare.py {SAME} --dataset={{data}}", "{data}/meta.json {data}/train.bin"),
    Target(f"{BENCH} --compare={{bench}} --output={{folder}}/new.json", "{bench}", weight=1),
    Target(
        "sweep.py --name=sweep --out_dir={folder} --dataset={world}/data --max_iters=2 "
        f"--learning_rate=1e-3,2e-3 {' '.join(SMALL)}",
        "{sweep}/sweep.json {sweep}/learning_rate=0.001/result.json",
        weight=1,
    ),
)
THINGS = ("run", "data", "hf", "nanogpt", "characters", "pairs", "prompts", "bench", "sweep")


def case(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    target = rng.choices(TARGETS, [target.weight for target in TARGETS])[0]
    files = rng.choice(target.files.split())
    wanted, memory = normal(target, world)
    words, path = place(target, world, folder, files)
    kind = damage(path, rng, folder)
    before = states(folder)
    done = run(*words)
    try:
        check_answer(done)
        if done.memory > 2 * memory + MARGIN:
            raise done.fail(f"{done.memory >> 20} MiB of memory, normally {memory >> 20}")
        if done.status == 2 and words[0] == "train.py" and states(folder) != before:
            raise done.fail("refused, and yet it changed files")
        if done.status == 0 and path.name in target.same.split():
            if result(done, folder) != wanted:
                raise done.fail("another result than with the undamaged file")
    except Failure as failure:
        raise Failure(f"{path.name}, {kind}: {failure}") from None
    yield f"{words[0]}, {path.name}"


def place(target: Target, world: World, folder: Path, file: str) -> tuple[list[str], Path]:
    """Copy what a target needs into a folder; its command, and the path of a file of it."""
    text = f"{target.words} {file}"
    names = [name for name in THINGS if f"{{{name}}}" in text]
    copies = {name: world.copy(getattr(world, name), folder) for name in names}
    copies |= {"folder": folder, "world": world.folder}
    return target.words.format(**copies).split(), Path(file.format(**copies))


def normal(target: Target, world: World) -> tuple[object, int]:
    """What a target gives when nothing is damaged, and the memory that it takes."""
    known = world.__dict__.setdefault("normal", {})
    if target not in known:
        folder = Path(tempfile.mkdtemp(prefix="normal-", dir=world.folder))
        done = succeed(*place(target, world, folder, target.files)[0])
        known[target] = result(done, folder), done.memory
        shutil.rmtree(folder)
    return known[target]


def result(done: Done, folder: Path) -> object:
    """What two runs of a command have in common: the weights after training, else the text."""
    if "--init_from=resume" in done.words:
        model = load_checkpoint(folder / "run" / "ckpt.pt")["model"]
        return {name: weights.tolist() for name, weights in model.items()}
    return done.out.replace(str(folder), "FOLDER")


def states(folder: Path) -> dict:
    """The content of all files, but for checked.json, which says only what was looked at."""
    paths = (path for path in folder.rglob("*") if path.name != "checked.json")
    return {
        path: path.read_bytes() if path.is_file() and path.stat().st_size < SPARSE else None
        for path in paths
        if not path.is_symlink()
    }


# Kinds of damage ----------------------------------------------------------------------------


def damage(path: Path, rng: random.Random, folder: Path) -> str:
    """Damage a file, so that it is another than before; returns how."""
    kinds: list[Callable] = [flip, flip, cut, append, overwrite, special, special]
    if path.suffix == ".json":
        kinds += [change_json] * 6
    if path.suffix in (".csv", ".txt", ".jsonl"):
        kinds += [change_line] * 3
    times = (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns)
    text = rng.choice(kinds)(path, rng, folder)
    if path.is_file() and rng.random() < 0.3 and path.suffix != ".bin":
        os.utime(path, ns=times)  # of a .bin it says that its checksum was compared before
    return text


def flip(path: Path, rng: random.Random, _) -> str:
    """Bits turn over."""
    data = bytearray(path.read_bytes())
    places = [rng.randrange(len(data)) for _ in range(rng.choice((1, 1, 2, 30)))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bits at {places[:3]}"


def cut(path: Path, rng: random.Random, _) -> str:
    size = path.stat().st_size
    length = rng.choice((0, 0, 1, 2, size // 2, size - 1, size - 2, rng.randrange(size)))
    os.truncate(path, length)
    return f"cut to {length} of {size} bytes"


def append(path: Path, rng: random.Random, _) -> str:
    more = rng.choice((b"\0", b"\0\0", b"\n", b"{}", rng.randbytes(64), path.read_bytes()))
    with open(path, "ab") as file:
        file.write(more)
    return f"{len(more)} bytes more"


def overwrite(path: Path, rng: random.Random, _) -> str:
    """A part, or all of it, is something else."""
    size = path.stat().st_size
    first = rng.choice((0, rng.randrange(size)))
    count = rng.choice((1, 16, 4096, size))
    content = rng.choice((bytes(count), rng.randbytes(count), b"\xff" * count, b"[" * count))
    with open(path, "r+b") as file:
        file.seek(first)
        file.write(content)
    return f"{count} bytes of {content[:1]!r} at {first}"


def special(path: Path, rng: random.Random, folder: Path) -> str:
    """Something else has the name of the file."""
    kind = rng.choice(("nothing", "folder", "loop", "dangling", "FIFO", "sparse", "link", "other"))
    if kind == "FIFO" and path.name in ("prompts.txt", "pairs.jsonl"):
        kind = "folder"  # a pipe may be the user's wish there, and is waited for
    if kind == "sparse":
        os.truncate(path, SPARSE)
        return kind
    others = [p for p in folder.rglob("*") if p.is_file() and p != path]
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("not/here")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/proc/self/mem", "/", "/dev/full")))
        return f"{kind} to {path.readlink()}"
    elif kind == "other" and others:
        other = rng.choice(sorted(others))
        shutil.copy(other, path)
        return f"a copy of {other.name}"
    return kind


def odd_value(rng: random.Random, old: object) -> Any:
    """A value of JSON that nobody expects there."""
    deep: list = []
    for _ in range(rng.choice((3, 900))):
        deep = [deep]
    values = [None, True, False, 0, -1, 2**70, -(2**70), 1e308, -0.0, "", "x", "\0", "\n", [], {}]
    values += [float("nan"), float("inf"), "x" * 10_000, "\ud800", "../" * 30, [None], {"": None}]
    values += [deep, [[]] * 1000, {"a": deep}, str(old), [old], {"x": old}, "Ω" * 99, 1.5, 10**400]
    return rng.choice(values)


def change_json(path: Path, rng: random.Random, _) -> str:
    """Another value, type or shape at a random place; or keys twice; or nesting without end."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return "nothing"
    if rng.random() < 0.1:
        depth = rng.choice((1000, 100_000, 1_000_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        path.write_text(opening * depth + "1" + closing * depth)
        return f"{depth} times {opening}"
    holder, key, where = {"": value}, "", []
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.85:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        where.append(key)
    if isinstance(holder, dict) and rng.random() < 0.2 and where:
        change = "deleted"
        del holder[key]
    else:
        holder[key] = new = odd_value(rng, holder[key])
        change = repr(new)[:60]
        value = value if where else new
    text = json.dumps(value)
    if isinstance(value, dict) and rng.random() < 0.15:  # of two equal keys, the last counts
        odd = json.dumps(odd_value(rng, None))
        name = rng.choice(list(value) or ["x"])
        text = f"{text[:-1]}, {json.dumps(name)}: {odd}}}" if value else text
        change += f", and {name} twice"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return f"{'/'.join(map(str, where))}: {change}"


def change_line(path: Path, rng: random.Random, _) -> str:
    """A line is missing, twice, or odd."""
    lines = path.read_bytes().splitlines(keepends=True) or [b""]
    i = rng.randrange(len(lines))
    odd = (b"\n", b"nan,nan\n", b"\0\n", b"\xff\xfe\n", b'"\n', b",,,,,,,,,,,,,,,,,,,,,,,,,,\n")
    odd += (b"x" * 100_000 + b"\n", lines[i] * 2, b"", lines[i].replace(b",", b";"), b"null\n")
    odd += (b"[1]\n", b'{"a": 1}\n', lines[i].replace(b"0", b"nan"), lines[i].replace(b":", b": ["))
    lines[i] = new = rng.choice(odd)
    path.write_bytes(b"".join(lines))
    return f"line {i + 1}: {new[:40]!r}"
