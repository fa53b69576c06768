"""A campaign of random harm, each case of it drawn from a seed.

    python tests/soak.py --minutes=20
    python tests/soak.py --part=kills --seed=123    repeat one case

kills: a command is stopped or killed at random instants and started again; the
end is that of an undisturbed one. files, settings, resources, stories: what a
command reads is damaged or odd, or the machine has too little of something; it
ends in one line with status 2, or does what it should, and soon.
"""

import collections
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from configurator import RangedSettings, configure, start  # noqa: E402
from tinystories.ranges import Natural, Positive  # noqa: E402

PARTS = {"kills": 4, "files": 3, "settings": 1, "resources": 1, "stories": 1}  # of the time


@dataclass
class Settings(RangedSettings):
    minutes: Positive = 20.0  # of all parts together
    part: Literal["all", "kills", "files", "settings", "resources", "stories"] = "all"
    seed: Natural | None = None  # repeat the case that has this seed
    first_seed: Natural | None = None  # of many cases; None: random


command_line = configure(Settings)


def main(s: Settings) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # which a background job ignores
        signal.signal(number, signal.default_int_handler)
    # Python's own note about semaphores that a killed process did not close.
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    parts = {name: import_module(f"soak_{name}") for name in PARTS if s.part in ("all", name)}
    first = random.SystemRandom().randrange(10**9) if s.first_seed is None else s.first_seed
    counts, spent, failures = collections.Counter(), dict.fromkeys(parts, 0.0), []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        world = import_module("soak_world").World(Path(folder))
        end = time.monotonic() + 60 * s.minutes
        seed = first if s.seed is None else s.seed
        while time.monotonic() < end:
            part = min(parts, key=lambda name: spent[name] / PARTS[name])
            start_time = time.monotonic()
            failure = one_case(parts[part], part, seed, world, counts)
            spent[part] += time.monotonic() - start_time
            if failure:
                failures.append(f"python tests/soak.py --part={part} --seed={seed}")
                print(f"\nFAILED: {failure}\nrepeat it: {failures[-1]}\n", flush=True)
            if s.seed is not None:
                break
            seed += 1
    report(parts, counts, spent, failures)
    sys.exit(1 if failures else 0)


def one_case(module, part: str, seed: int, world, counts: collections.Counter) -> str | None:
    """Run the case of a seed, and count what was done to whom; the failure if there is one."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=world.folder))
    try:
        for kind in module.case(random.Random(f"{part} {seed}"), world, folder):
            counts[part, kind] += 1
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def report(parts, counts: collections.Counter, spent: dict, failures: list[str]) -> None:
    """Print how many cases there were of each kind, and how to repeat those that failed."""
    for part in parts:
        kinds = {kind: n for (name, kind), n in counts.items() if name == part}
        total = sum(kinds.values())
        each = f", {spent[part] / total:.2f} s each" if total else ""
        print(f"{part}: {total:,} in {spent[part] / 60:.1f} minutes{each}")
        for kind, n in sorted(kinds.items()):
            print(f"  {n:6,}  {kind}")
    print(f"failures: {len(failures)}")
    print("\n".join(f"  {command}" for command in failures), end="\n" if failures else "")


if __name__ == "__main__":
    start(main, command_line.settings)
