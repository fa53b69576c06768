"""Settings of a command: defaults in a dataclass, changed by config files and by --key=value.

    python train.py config/tinystories_30m.py --batch_size=32

Later wins: defaults, config files in the order given, --key=value. A config file is Python that
assigns names; those that begin with an underscore are its own business. Every value is read by
the declared type of its field, so `--start=123` stays text where text is declared.
"""

import ast
import difflib
import errno
import inspect
import io
import math
import os
import shutil
import sys
import textwrap
import tokenize
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent  # data/, out/ and config/ lie here, wherever one stands
REFUSALS = {  # by the machine, not bugs: no room, no permission, a file in place of a folder
    getattr(errno, name, errno.ENOSPC)  # not every system has a quota
    for name in "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOTDIR ENAMETOOLONG".split()
}
RANK = int(os.environ.get("RANK", 0))  # of this process among several, set by torchrun
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class UserError(Exception):
    """A mistake that the user can mend: shown as one line, exit status 2."""


def run(main: Callable[[list[str]], None]) -> None:
    """Run a command: mistakes of the user end in one line, bugs keep their traceback."""
    for stream in filter(None, (sys.stdin, sys.stdout, sys.stderr)):
        stream.reconfigure(encoding="utf-8", line_buffering=True)  # also behind a pipe
    name = Path(sys.argv[0]).name
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # the reader of our output has gone, as in `sample.py | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in REFUSALS:
            raise
        print(f"{name}: {f'[rank {RANK}] ' if RANK else ''}{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def parse(settings: type, argv: list[str]) -> tuple[dict, list[str]]:
    """Read config files and --key=value from a command line.

    Args:
        settings: the dataclass that declares the command's settings.
        argv: the command line without the command's name. `--help` prints and ends the program.

    Returns:
        the values given, by name, and the docstrings of the config files.

    Raises:
        UserError: an unknown setting, a value of the wrong type, a file that cannot be read.
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(settings))
        sys.exit(0)
    in_files, in_line, docs = {}, {}, []
    for argument in argv:
        if not argument.startswith("-"):
            names, doc = _read_config(argument)
            in_files |= check(settings, names, f"{argument}: ")
            docs.append(doc)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        if not equals or not argument.startswith("--"):
            raise UserError(f"cannot read {argument!r}; settings are given as --key=value")
        in_line |= check(settings, {name: value}, "--")
    return in_files | in_line, docs


def check(settings: type, values: dict, where: str) -> dict:
    """The same values, each as its field's declared type; `where` begins the message of an error.

    Raises:
        UserError: a name that is no setting, or a value that does not fit its type.
    """
    kinds = typing.get_type_hints(settings)
    checked = {}
    for name, value in values.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists all settings"
            raise UserError(f"{where}{name} is not a setting; {hint}")
        try:
            checked[name] = _convert(kinds[name], value)
        except (ValueError, TypeError, OverflowError):
            wanted = _describe(kinds[name])
            raise UserError(f"{where}{name} wants {wanted}, not {value!r}") from None
    return checked


def help_text(settings: type) -> str:
    """A command's docstring, then its settings with defaults and the comments beside them."""
    width = shutil.get_terminal_size((80, 24)).columns
    lines = [sys.modules[settings.__module__].__doc__.strip(), "", "Settings:"]
    for setting, comment in _declared(settings):
        if not setting:
            lines += ["", f"  {comment}"]
            continue
        left = f"    --{setting}"
        indent = max(34, len(left) + 2)
        lines += textwrap.wrap(
            left.ljust(indent) + comment,
            width,
            subsequent_indent=" " * 34,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _declared(settings: type) -> list[tuple[str, str]]:
    """(name=default, comment) of each field in order; ("", heading) for a comment line."""
    source = textwrap.dedent(inspect.getsource(settings))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    rows = {line: ("", text) for line, (text, alone) in comments.items() if alone}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            default = getattr(settings, node.target.id)
            text = comments.get(node.end_lineno, ("", False))[0]
            rows[node.lineno] = (f"{node.target.id}={default}", text)
        elif isinstance(node, ast.FunctionDef):  # what follows the fields is not for the reader
            rows = {line: row for line, row in rows.items() if line < node.lineno}
            break
    return [rows[line] for line in sorted(rows)]


def _read_config(name: str) -> tuple[dict, str]:
    """The names that a config file assigns, and its docstring."""
    path = next((p for p in (Path(name), ROOT / name) if p.is_file()), None)
    if path is None:
        raise UserError(f"there is no config file {name}; settings are given as --key=value")
    namespace = {"__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), namespace)
    except Exception as error:
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
        return value
    elif kind in (int, float) and not isinstance(value, bool):
        number = kind(value)
        if math.isfinite(number) and (isinstance(value, str) or number == value):
            return number
    raise ValueError(value)


def _describe(kind) -> str:
    """A type in plain words, for messages."""
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    if kind in words:
        return words[kind]
    if kind is types.NoneType:
        return "None"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(typing.get_args(kind))
    return " or ".join(_describe(option) for option in typing.get_args(kind))
