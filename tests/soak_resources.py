"""Too little of what a machine has: room, memory, open files, streams, rights, plain names."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import soak_limits
from conftest import ROOT, SMALL
from soak_world import (
    QUICK_EVALUATION,
    STORIES,
    TIMEOUT,
    VOCABULARY,
    Done,
    World,
    check_answer,
    run,
    succeed,
)

COMMANDS = (  # {run} and {data} are copies, {out} is a folder for what is new
    f"train.py {' '.join(SMALL)} --max_iters=2 --eval_tokens=64 --full_eval=False "
    "--dataset={data} --out_dir={out}/new --overwrite",
    "train.py --init_from=resume --dataset={data} --out_dir={run} --max_iters=6",
    f"prepare.py {' '.join((*STORIES, *VOCABULARY))} --dataset={{out}}/new --overwrite",
    "sample.py --out_dir={run} --max_new_tokens=9 --num_samples=1",
    f"evaluate.py {' '.join(QUICK_EVALUATION)} --out_dir={{run}} --pairs={{pairs}} --overwrite",
    "export.py --out_dir={run} --to=nanogpt,hf --overwrite",
    "explore.py --dataset={data} --sample=9 --plot={out}/page.png",
)
ODD_NAMES = (
    *(
        "a b",
        "'",
        '"',
        "a\nb",
        "-",
        "--x=y",
        "é🦊",
        "e\u0301",
        "\u202e",
        "a,b",
        "%s",
        "{x}",
        "$HOME",
    ),
    *(
        "\x01",
        "*",
        "[a]",
        "\udcff\udc80",
        "#",
        ";",
        "x" * 250,
        "a=b",
        "~",
        "\\",
        "hf:",
        ".pt",
        "a.py",
    ),
)
mounted: list[Path] = []


def case(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    kinds = (small_files, full_disk, little_memory, few_open_files, closed_streams, full_streams)
    kinds += (odd_environment, bare_python, read_only, odd_names, odd_names, lost_folder)
    try:
        yield from rng.choice(kinds)(rng, world, folder)
    finally:
        while mounted:
            subprocess.run(["umount", "-l", mounted.pop()], check=False)


def place(rng: random.Random, world: World, folder: Path, out: Path | None = None) -> list[str]:
    """A command on copies in a folder."""
    things = {name: getattr(world, name) for name in ("run", "data", "pairs")}
    paths = {name: world.copy(thing, folder) for name, thing in things.items()}
    paths["out"] = out or folder
    text = rng.choice(COMMANDS)
    return [word.format(**paths) for word in text.split()]


def attempt(rng: random.Random, words: list[str], may_not_start: bool = False, **options) -> Done:
    """Run a command with too little of something; with enough it then succeeds."""
    done = run(*words, **options)
    check_answer(done, may_not_start=may_not_start)
    if rng.random() < 0.3:
        succeed(*words)
    return done


def small_files(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    size = rng.choice((0, 1, 4096, rng.randrange(600_000)))
    attempt(rng, words, setup=partial(soak_limits.limit, "FSIZE", size))
    yield f"{words[0]}, file size"


def full_disk(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """A small file system, where the machine lets us mount one."""
    disk = folder / "disk"
    disk.mkdir()
    size = rng.choice((8, 64, 200, 500, 900, rng.randrange(8, 1500)))
    if not mount(disk, f"size={size}k"):
        yield from small_files(rng, world, folder)
        return
    try:
        words = place(rng, world, rng.choice((folder, disk)), disk)
    except (OSError, shutil.Error):  # already too small for what is to be there
        words = place(rng, world, folder, disk)
    done = run(*words)
    check_answer(done)
    yield f"{words[0]}, full disk"


def mount(folder: Path, options: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        print("cannot mount a file system; skipped", flush=True)
        return False
    mounted.append(folder)
    return True


def little_memory(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    more = int(2 ** rng.uniform(10, 29))
    attempt(rng, words, setup=partial(soak_limits.limit_new_memory, more), may_not_start=True)
    yield f"{words[0]}, memory"


def few_open_files(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    attempt(
        rng,
        words,
        setup=partial(soak_limits.limit, "NOFILE", rng.randrange(3, 40)),
        may_not_start=True,
    )
    yield f"{words[0]}, open files"


def closed_streams(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    numbers = rng.choice(((0,), (1,), (0, 1), (2,), (1, 2), (0, 1, 2)))
    if words[0] == "sample.py":
        words += rng.choice(([], ["--start=-"], ["--interactive=True"], ["--stream=True"]))
    done = run(*words, setup=partial(soak_limits.close, *numbers))
    if 2 not in numbers or done.status != 2:  # where a complaint can be read
        check_answer(done)
    yield f"{words[0]}, closed streams"


def full_streams(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    number, path = rng.choice(
        ((1, "/dev/full"), (2, "/dev/full"), (0, "/dev/full"), (0, "/dev/zero"))
    )
    if words[0] == "sample.py" and number == 0:
        words.append("--start=-")
    done = run(*words, setup=partial(soak_limits.redirect, number, path))
    if number != 2 or done.status != 2:
        check_answer(done)
    yield f"{words[0]}, {path}"


def odd_environment(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    env = dict(os.environ)
    for name in ("HOME", "PATH", "USER", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "COLUMNS"):
        kind = rng.choice(("keep", "keep", "none", "odd"))
        if kind == "none":
            env.pop(name, None)
        elif kind == "odd":
            env[name] = rng.choice(("", "/nonexistent", "/dev/null", "0", "-1", "é\n", "~"))
    attempt(rng, words, env=env)
    yield f"{words[0]}, environment"


def bare_python(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """In another locale, by a process that starts anew."""
    words = place(rng, world, folder)
    env = {"PATH": os.environ["PATH"], "LC_ALL": rng.choice(("C", "POSIX", "de_DE.ISO-8859-1"))}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    env |= rng.choice(({}, {"PYTHONIOENCODING": "ascii"}))
    done = subprocess.run(
        [sys.executable, ROOT / words[0], *words[1:]],
        **{"env": env, "capture_output": True, "timeout": TIMEOUT, "check": False},
        **rng.choice(({}, {"stdin": subprocess.DEVNULL})),
    )
    out, err = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
    check_answer(Done(tuple(words), done.returncode, out, err, 0))
    yield f"{words[0]}, locale"


def read_only(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """On a file system that nobody can write, root neither."""
    disk = folder / "disk"
    disk.mkdir()
    if not mount(disk, "size=100m"):
        return
    words = place(rng, world, disk)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    check_answer(run(*words))
    yield f"{words[0]}, read-only"


def odd_names(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    """Folders with names that need quotes or are no text."""
    inner = folder / rng.choice(ODD_NAMES)
    inner.mkdir()
    words = place(rng, world, folder)
    words = [word.replace(str(folder), str(inner), 1) for word in words]
    for path in list(folder.iterdir()):
        if path != inner:
            with contextlib.suppress(OSError):
                path.rename(inner / path.name)
    done = run(*words)
    check_answer(done)
    if done.status == 2:
        raise done.fail("refuses a name")
    yield f"{words[0]}, odd names"


def lost_folder(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    words = place(rng, world, folder)
    attempt(rng, words, cwd=folder, setup=soak_limits.lose_folder)
    yield f"{words[0]}, no working directory"
