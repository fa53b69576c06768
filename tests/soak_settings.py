"""Odd values of every setting of every command."""

import dataclasses
import importlib
import random
import signal
import time
import typing
from collections.abc import Iterator
from pathlib import Path

from conftest import SMALL
from soak_world import QUICK_EVALUATION, STORIES, VOCABULARY, Watched, World, check_answer

PATIENCE = 6  # seconds, after which a command is interrupted: it may have much to do
COMMANDS = {  # what each does where nothing else is asked for; {name} is as in soak_files.py
    "train.py": f"{' '.join(SMALL)} --max_iters=1 --eval_tokens=64 --full_eval=False "
    "--dataset={data} --out_dir={folder}/new",
    "sample.py": "--out_dir={run} --max_new_tokens=5 --num_samples=1 --device=cpu",
    "prepare.py": f"{' '.join((*STORIES, *VOCABULARY))} --dataset={{folder}}/new",
    "evaluate.py": f"{' '.join(QUICK_EVALUATION)} --out_dir={{run}} --pairs={{pairs}} "
    "--plot={folder}/curves.png",
    "explore.py": "--dataset={data} --sample=9 --plot={folder}/page.png",
    "interpret.py": "--out_dir={run} --dataset={data} --stories=2 --parts=lens",
    "plan.py": "--minutes=1 --seconds=0.2 --dataset={data} --output={folder}/planned.py",
    "export.py": "--out_dir={run} --to=nanogpt --overwrite",
    "bench.py": "--what=sample --repeats=1 --n_layer=1 --n_head=1 --n_embd=16 --block_size=16 "
    "--vocab_size=257 --max_new_tokens=1 --device=cpu --output={folder}/bench.json",
    "sweep.py": f"{' '.join(SMALL)} --out_dir={{folder}} --name=sweep --max_iters=1 "
    "--dataset={data} --learning_rate=1e-3,1e-3",
}
WEIGHTS = {"bench.py": 0.3, "sweep.py": 0.3, "explore.py": 0.5, "train.py": 3}
FOREIGN = ("wandb_log", "judge_url", "push")  # they would ask another machine
NUMBERS = "0 -1 1 2 3 1e308 -1e308 nan inf -inf 1e-320 -0.0 0.5 1e18 9223372036854775807"
NUMBERS += " 18446744073709551616 1_000 0x10 1e400 ١٢ 1*1*1 1e9*1e9 10000000000 1e6 1e4 65536"
TEXTS = (
    *("", " ", "\t", "\n", "a\nb", "None", "none", "True", "auto", "a" * 10_000, "9" * 5000),
    *("../" * 20, "/", "/dev/null", "/dev/full", "/proc/self/mem", "~", "~nobody/x", ".", ".."),
    *("é\u0301\u202e\u200b", "\udcff", "🦊" * 300, "{}", "%s%n", "'\"`$(false)", "--", "-", "="),
    *(
        ",",
        ",,,",
        "a,b",
        "FILE:",
        "FILE:/",
        "hf:",
        "hf:x/y",
        "gpt2\0",
        "\\",
        "x/y/z",
        "*",
        "[",
        "**",
    ),
    *(
        "{folder}",
        "{run}",
        "{data}",
        "{run}/ckpt.pt",
        "{data}/meta.json",
        "{folder}/a/b",
        "{pairs}",
    ),
)


def case(rng: random.Random, world: World, folder: Path) -> Iterator[str]:
    names = list(COMMANDS)
    script = rng.choices(names, [WEIGHTS.get(name, 1) for name in names])[0]
    copies = {name: world.copy(getattr(world, name), folder) for name in ("run", "data", "pairs")}
    copies["folder"] = folder
    words, names = COMMANDS[script].format(**copies).split(), settings_of(script)
    chosen = rng.sample(sorted(names), rng.choice((1, 1, 1, 2, 3)))
    for name in chosen:
        value = odd_value(rng, names[name])
        for place, path in copies.items():
            value = value.replace(f"{{{place}}}", str(path))
        if script == "sweep.py" and rng.random() < 0.3:
            value += rng.choice((",", "..")) + odd_value(rng, names[name])
        words = [word for word in words if not word.startswith(f"--{name}=")]
        words.append(f"--{name}={value}")
    if any("\0" in word for word in words):  # which no command line can hold
        words = [word.replace("\0", "") for word in words]
    process = Watched(script, *words, cwd=folder)
    stop_later(process)
    check_answer(process.end(), also=(130,))
    yield f"{script}, {len(chosen)} odd {'setting' if len(chosen) == 1 else 'settings'}"


def settings_of(script: str) -> dict[str, object]:
    """The settings of a command and their types."""
    module = importlib.import_module(script.removesuffix(".py"))
    settings = module.AllSettings if script == "sweep.py" else module.Settings
    kinds = typing.get_type_hints(settings) | settings.foreign.kinds
    names = {field.name for field in dataclasses.fields(settings)} | settings.foreign.kinds.keys()
    return {name: kinds[name] for name in names if name not in FOREIGN}


def odd_value(rng: random.Random, kind: object) -> str:
    """A number more often where one is expected."""
    is_number = {int, float} & {kind, *typing.get_args(kind)}
    pool = NUMBERS.split() if rng.random() < (0.8 if is_number else 0.2) else TEXTS
    return rng.choice(pool)


def stop_later(process: Watched) -> None:
    """Ctrl-C for a command that works for long, twice."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if not Path(f"/proc/{process.pid}").exists() or is_zombie(process.pid):
            return
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)


def is_zombie(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
