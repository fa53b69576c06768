"""What is taken from a process before its command begins; imports nothing of the project."""

import os
import resource
import sys
from pathlib import Path

MEMORY = 12 * 2**30  # bytes of address space, so that a mistake does not take the machine's
STREAMS = ("stdin", "stdout", "stderr")


def limit(name: str = "AS", value: int = MEMORY) -> None:
    """Set a limit of the process, such as "NOFILE", in its units."""
    number = getattr(resource, f"RLIMIT_{name}")
    _, most = resource.getrlimit(number)
    resource.setrlimit(number, (value, most))


def limit_new_memory(value: int) -> None:
    """So many bytes of address space more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit("AS", pages * os.sysconf("SC_PAGE_SIZE") + value)


def close(*numbers: int) -> None:
    """Close standard streams; Python has None in their place, too."""
    for number in numbers:
        os.close(number)
        setattr(sys, STREAMS[number], None)


def redirect(number: int, path: str) -> None:
    """Let a standard stream be another file."""
    limit()
    descriptor = os.open(path, os.O_RDWR)
    os.dup2(descriptor, number)
    os.close(descriptor)


def lose_folder() -> None:
    """The working directory is deleted."""
    limit()
    path = Path("lost").absolute()
    path.mkdir()
    os.chdir(path)
    path.rmdir()
