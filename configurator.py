"""Settings of a command: defaults in a dataclass, overridden by config files and --key=value.

    python train.py config/tinystories_30m.py --batch_size=32

Each overrides the ones before: defaults, config files in the order given, --key=value (or --key
value, and --key for True). A config file is Python that assigns names; imported modules and
names that begin with an underscore are ignored, any other name must be a setting. Every value is
read by the declared type of its field, so `--start=123` stays text where text is declared, and a
number has to be within the range that its type declares.
"""

import ast
import contextlib
import difflib
import errno
import inspect
import io
import math
import os
import re
import shutil
import signal
import sys
import textwrap
import tomllib
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tinystories.ranges import allowed_range

ROOT = Path(__file__).resolve().parent  # of data/, out/ and config/
EXPECTED_ERRNOS = {  # no room, no permission, something else in place of a file: not our bugs
    getattr(errno, name, errno.ENOSPC)  # not every system has a quota
    for name in (
        "ENOSPC EDQUOT EFBIG EMFILE ENFILE ENOMEM EIO "
        "EACCES EPERM EROFS ENOTDIR EISDIR ELOOP ENAMETOOLONG"
    ).split()
}
LONGEST = 1000  # characters of an error message
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class UserError(Exception):
    """A mistake that the user can fix: shown as one line, exit status 2."""


class Foreign(NamedTuple):
    """Settings of another program that a command understands, and what they mean here.

    `translate(settings, given, files)` gets the command's settings class, all overrides, and the
    config files that use a foreign name; it returns the overrides in the command's own settings,
    and a line for each foreign one that says what became of it.
    """

    kinds: dict[str, type]  # by name
    translate: Callable[[type, dict, list[str]], tuple[dict, list[str]]]
    means: dict[str, str]  # settings of ours that some of kinds mean
    shared: frozenset[str] = frozenset()  # of kinds; a file that uses only these may be ours


class RangedSettings:
    """Base of settings dataclasses; a value out of its field's range raises UserError."""

    foreign = Foreign({}, lambda settings, given, files: (given, []), {})
    configs = ""  # a folder of config files, which --help lists

    @staticmethod
    def bare_argument(argument: str) -> dict:
        """The settings that an argument without dashes means; raises UserError if it has none."""
        raise UserError(f"cannot read {argument!r}; settings are given as --key=value")

    def __post_init__(self):
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if value is None or not (declared := allowed_range(kind)):
                continue
            if declared.type is str and value == "":
                raise UserError(f"{name} is empty; leave it out or give it a name")
            if declared.type is not str and value not in declared.range:
                raise UserError(f"{name} is {value}; it must be {declared.range}")


# Running a command --------------------------------------------------------------------------


class CommandLine(NamedTuple):
    """What a command line says."""

    settings: typing.Any  # the command's dataclass
    overrides: dict  # what config files and --key=value set, by name
    docs: list[str]  # docstrings of the config files


def configure(settings: type) -> typing.Any:
    """The CommandLine of the script that declares `settings`; None where it is imported.

    Scripts call it before their slow imports, so that --help and mistakes answer at once.
    """
    if settings.__module__ != "__main__":
        return None
    reopen_streams()
    parsed = start(parse, settings, sys.argv[1:])
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the slow imports without a traceback
    return parsed


def reopen_streams() -> None:
    """Open standard streams that are closed, so that the next file does not get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def start(main: Callable, *arguments):
    """Call main(*arguments); mistakes of the user end in one line, bugs keep their traceback."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not closed
            errors = "replace" if stream is sys.stdin else "backslashreplace"  # paths are any bytes
            stream.reconfigure(encoding="utf-8", errors=errors, line_buffering=True)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # by configure
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main(*arguments)
    except BrokenPipeError:  # the reader of our output has gone, as in `sample.py | head -1`
        drop_output()
        sys.exit(141)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in EXPECTED_ERRNOS:
            raise
        refuse(str(error))
    except MemoryError as error:
        refuse(f"out of memory: {error}".removesuffix(": "))
    except KeyboardInterrupt:
        print(f"\n{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)


def one_line(text: str) -> str:
    """A message with line breaks and the like, which paths may have, written as in Python; the
    middle of a very long one is left out.
    """
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}... ({len(text):,} characters) ...{text[-LONGEST // 4 :]}"


def between_words(text: str) -> str:
    """A text in lines of the screen, broken between words; commands in it stay whole."""
    text = re.sub(r"python \S+\.py( -\S+)+", lambda m: m[0].replace(" ", "\0"), text)
    width = shutil.get_terminal_size().columns - 1
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, width, subsequent_indent="  ", **options).replace("\0", " ")


def refuse(reason: str) -> typing.NoReturn:
    """End the program with status 2 and one line that says why."""
    with contextlib.suppress(OSError):  # standard error is full
        text = f"{Path(sys.argv[0]).name}: {one_line(reason)}"
        print(between_words(text) if sys.stderr.isatty() else text, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # standard output is full; Python would try, and complain, once more
        drop_output()
    sys.exit(2)


def drop_output() -> None:
    """Send what standard output still holds nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(settings: type, argv: list[str]) -> CommandLine:
    """Read config files and --key=value.

    Args:
        settings: the dataclass that declares the command's settings.
        argv: the command line without the command's name. `--help` and `--version` print and
            end the program.

    Raises:
        UserError: an unknown setting, a value of the wrong type or out of range, a file that
            cannot be read.
    """
    if "--version" in argv:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        print(f"{project['name']} {project['version']}")
        sys.exit(0)
    if "--help" in argv or "-h" in argv:
        print(help_text(settings))
        sys.exit(0)
    from_files, from_cli, docs = {}, {}, []
    foreign_names, foreign_files = settings.foreign.kinds.keys(), []
    for argument in normalize(argv, settings):
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            from_cli |= check(settings, {name: value}, "--")
        elif argument.endswith(".py"):
            names, doc = _read_config(argument)
            from_files |= check(settings, names, f"{argument}: ")
            docs.append(doc)
            if names.keys() & foreign_names - settings.foreign.shared:
                foreign_files.append(argument)
        else:
            meant = settings.bare_argument(argument)
            if twice := meant.keys() & from_cli.keys():
                raise UserError(f"{argument!r}: {twice.pop()} is given twice; use --key=value")
            from_cli |= meant
    for theirs, ours in settings.foreign.means.items():  # of the two, the command line's counts
        if theirs in from_cli:
            from_files.pop(ours, None)
        elif ours in from_cli:
            from_files.pop(theirs, None)
    overrides = from_files | from_cli
    if foreign_files or overrides.keys() & foreign_names:
        overrides, notes = settings.foreign.translate(settings, overrides, foreign_files)
        for note in notes if os.environ.get("RANK", "0") == "0" else ():
            print(between_words(note), file=sys.stderr)
    return CommandLine(settings(**overrides), overrides, docs)


def normalize(argv: list[str], settings: type) -> list[str]:
    """The arguments, each setting as --key=value, whichever way it was written.

    Raises UserError for a setting without a value, unless it can be True.
    """
    kinds = typing.get_type_hints(settings) | settings.foreign.kinds
    waiting, arguments = list(argv), []
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            arguments.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not name:
            raise UserError(f"cannot read {word!r}; settings are given as --key=value")
        if not equals:
            kind = kinds.get(name)
            following = waiting[0] if waiting else "--"
            if kind is bool or bool in typing.get_args(kind):
                value = waiting.pop(0) if following.lower() in (*BOOLEANS, "auto") else "True"
            elif not following.startswith("--"):
                value = waiting.pop(0)
            elif kind:
                raise UserError(f"--{name} has no value; it expects {_describe(kind)}")
        arguments.append(f"--{name}={value}")
    return arguments


def check(settings: type, values: dict, source: str) -> dict:
    """The same values, each as its field's declared type.

    Args:
        source: where they come from, the beginning of error messages: "--" or "config.py: ".

    Raises:
        UserError: a name that is not a setting, or a value that does not fit its type.
    """
    kinds = typing.get_type_hints(settings) | settings.foreign.kinds  # without the ranges
    if unknown := [name for name in values if name not in kinds]:
        verb = "is not a setting" if len(unknown) == 1 else "are not settings"
        near = [match for name in unknown for match in difflib.get_close_matches(name, kinds, n=1)]
        hint = f"did you mean {' and '.join(near)}?" if near else "--help lists all settings"
        raise UserError(f"{source}{', '.join(unknown)} {verb}; {hint}")
    checked = {}
    for name, value in values.items():
        try:
            checked[name] = _convert(kinds[name], value)
        except (ValueError, TypeError, OverflowError):
            wanted = _describe(kinds[name])
            raise UserError(f"{source}{name} expects {wanted}, not {_shown(value)}") from None
    return checked


# Help ---------------------------------------------------------------------------------------


def help_text(settings: type) -> str:
    """A command's docstring, its configs, its settings with defaults, comments and ranges."""
    width = shutil.get_terminal_size().columns
    legend = "Settings, each with its default, or with a type in capitals if it has none:"
    lines = [(sys.modules[settings.__module__].__doc__ or "").strip(), ""]
    if settings.configs:
        lines += [*_config_lines(settings.configs, width), ""]
    lines.append(legend)
    kinds = typing.get_type_hints(settings, include_extras=True)
    for name, text in _fields_with_comments(settings):
        if not name:
            lines.append(f"{text}:")
            continue
        if (declared := allowed_range(kinds[name])) and declared.type is not str:
            text += f" ({declared.range})"
        elif typing.get_origin(kinds[name]) is typing.Literal:
            text += f" ({_describe(kinds[name])})"
        default = getattr(settings, name)
        if default is None:
            default = _placeholder(kinds[name])
        left = f"  --{name}=" + ('""' if default == "" else str(default))
        left = left.ljust(max(32, len(left) + 2))
        options = {"subsequent_indent": " " * 32, "break_on_hyphens": False}
        lines += textwrap.wrap(left + text, width, **options)
    return "\n".join(lines)


def _config_lines(folder: str, width: int) -> list[str]:
    """The config files of a folder, each with the first line of its docstring."""
    lines = [f"Configs, {folder}/NAME.py:"]
    for path in sorted((ROOT / folder).glob("[!.]*.py")):
        with contextlib.suppress(SyntaxError, ValueError, OSError):
            doc = ast.get_docstring(ast.parse(path.read_bytes())) or ""
            first = doc.partition("\n")[0].rstrip(".")
            lines.append(textwrap.shorten(first, max(width - 28, 9), placeholder="..."))
            lines[-1] = f"  {path.stem:24}  {lines[-1]}".rstrip()
    return lines


def _placeholder(kind) -> str:
    """What stands for a value of an optional type."""
    while options := typing.get_args(kind):
        kind = options[0]
    return {int: "INTEGER", float: "NUMBER"}.get(kind, "TEXT")


def _fields_with_comments(settings: type) -> list[tuple[str, str]]:
    """(name, comment) of each field in order; ("", heading) for a comment line."""
    rows = []
    for line in inspect.getsource(settings).splitlines():
        if re.match(r" +def ", line):
            break
        if field := re.match(r" +(\w+):(?:.*  # (.*))?", line):
            rows.append((field[1], field[2] or ""))
        elif heading := re.match(" +# (.*)", line):
            rows.append(("", heading[1]))
    return rows


# Reading values -----------------------------------------------------------------------------


def _read_config(name: str) -> tuple[dict, str]:
    """The names that a config file assigns, and its docstring."""
    path = next((p for p in (Path(name), ROOT / name) if p.is_file()), None)
    if path is None:
        raise UserError(f"there is no config file {name}; settings are given as --key=value")
    namespace = {"__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), namespace)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = lines[-1] if lines else getattr(error, "lineno", 0)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{name}, line {line}: {reason}") from None
    doc = namespace.pop("__doc__", None) or ""
    return {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_") and not isinstance(value, types.ModuleType)
    }, doc


def _convert(kind, value):
    """`value`, which may be text, as a `kind`; ValueError or TypeError where it does not fit."""
    options = typing.get_args(kind)
    if types.NoneType in options and value in (None, "None", "none"):
        return None
    if typing.get_origin(kind) is typing.Literal:
        if value in options:
            return value
    elif options:  # a union: the first member that fits
        for option in options:
            try:
                return _convert(option, value)
            except (ValueError, TypeError):
                continue
    elif kind is bool:
        if str(value).lower() in BOOLEANS:
            return BOOLEANS[str(value).lower()]
    elif kind is str and isinstance(value, str):
        os.fsencode(value)  # ValueError for what no text and no file name can be
        if "\0" not in value:
            return value
    elif kind in (int, float) and not isinstance(value, bool):
        if isinstance(value, str):
            value = math.prod(map(_number, value.split("*")))  # 5*8
        if math.isfinite(value) and kind(value) == value:
            return kind(value)
    raise ValueError(value)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)  # 1e4


def _shown(value) -> str:
    """A value in an error message: one line, and not a long one."""
    try:
        text = repr(value)
    except ValueError:  # Python writes integers of up to 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def _describe(kind) -> str:
    """A type in plain words, for error messages."""
    words = {bool: "True or False", int: "an integer", float: "a number", str: "text"}
    if kind in words:
        return words[kind]
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(typing.get_args(kind))
    return " or ".join(_describe(option) for option in typing.get_args(kind))
