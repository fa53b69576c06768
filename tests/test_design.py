"""The imports keep the rules and the table of docs/design.md."""

import ast
import re

import pytest
from conftest import ROOT

MODULES_AT_THE_TOP = {"configurator", "model"}
PROJECT = {"configurator", "model", "tinystories"}
TRAINING = {"tinystories.optim", "tinystories.processes", "tinystories.log"}

# What a module or a folder must not import, not even through other modules. A name stands for
# everything in it: "tinystories" for all of the package.
DOES_NOT_KNOW = {
    "configurator": {"tinystories", "torch", "numpy"},
    "model": {"tinystories", "numpy"},
    "tinystories.ranges": PROJECT | {"torch"},
    "tinystories.kernels": PROJECT,
    "tinystories.parallel": {"model", "tinystories", "torch"},
    "tinystories.terminal": PROJECT | {"torch"},
    "tinystories.files": {"model", "tinystories", "torch"},
    "tinystories.device": {"model", "tinystories"},
    "tinystories.stories": {
        *("torch", "tiktoken", "rustbpe", "model"),
        *("tinystories.tokenizer", "tinystories.dataset"),
    },
    "tinystories.tokenizer": {"torch", "model", "tinystories.dataset", "tinystories.stories"},
    "tinystories.dataset": {"torch", "model", "tinystories.stories"},
    "tinystories.loss": {"tinystories.run", "tinystories.dataset", "tinystories.stories"},
    "tinystories.generate": {"tinystories.run", "tinystories.dataset", "tinystories.stories"},
    "tinystories.run": {"tinystories.stories", "tinystories.evaluation"} | TRAINING,
    "tinystories.formats": {"tinystories.run", "tinystories.stories", *TRAINING},
    "tinystories.optim": {"tinystories.stories", "tinystories.dataset", "tinystories.run"},
    "tinystories.processes": {"tinystories", "model"},
    "tinystories.trackers": {"tinystories", "model"},
    "tinystories.log": {"tinystories.stories", "tinystories.evaluation"},
    "tinystories.figures": {"torch", "model", "tinystories.dataset", "tinystories.run"},
    "tinystories.evaluation": TRAINING,
    "tinystories.activations": {"model", "tinystories"},
    "tinystories.interpretation": TRAINING | {"tinystories.run", "tinystories.evaluation"},
    "tinystories.keptfigures": {"torch", "model", "tinystories.dataset"},
    "tinystories.ranking": {"torch", "model", "optuna"},
    "tinystories.study": TRAINING | {"tinystories.stories"},
    "tinystories.sweepfigures": {"torch", "model", "optuna"},
    "tinystories.law": {"torch", "model"},
    "tinystories.planning": TRAINING | {"scipy", "tinystories.stories"},
    "tinystories.advice": TRAINING | {"scipy", "tinystories.stories", "tinystories.run"},
    "tinystories.scalingfigures": {"torch", "model"},
    "tinystories.storystats": {"torch", "model", "tinystories.tokenizer", "tinystories.dataset"},
    "tinystories.comparefigures": {"torch", "model", "tinystories.dataset"},
}
MAY_KNOW = {  # exceptions to the lines above
    "configurator": {"tinystories.ranges"},
    "model": {"tinystories.ranges", "tinystories.kernels"},
    "tinystories.parallel": {"tinystories.ranges"},
    "tinystories.files": {"tinystories.ranges"},  # by configurator, as all below
    "tinystories.device": {"tinystories.ranges"},
    "tinystories.processes": {"tinystories.ranges"},
    "tinystories.activations": {"tinystories.ranges"},
    "tinystories.trackers": {"tinystories.ranges"},
}


def is_in(name: str, folders: set[str]) -> bool:
    """Whether a module is one of these, or in one of these folders."""
    return any(name == folder or name.startswith(f"{folder}.") for folder in folders)


def read_imports() -> dict[str, set[str]]:
    """What each file of the project imports, by module; those inside functions too."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("tinystories/**/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    imports = {}
    for name, path in names.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports are absolute"
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (members & names.keys()) or {node.module}
        imports[name] = found
    return imports


IMPORTS = read_imports()
COMMANDS = {name for name in IMPORTS if "." not in name} - MODULES_AT_THE_TOP


def reachable(name: str) -> dict[str, str]:
    """All that a module imports, also through others, each with the module that imports it."""
    found, waiting = {}, [name]
    while waiting:
        importer = waiting.pop()
        for imported in IMPORTS.get(importer, set()) - found.keys():
            found[imported] = importer
            waiting.append(imported)
    return found


def test_the_imports_were_found():
    assert {"train", "sample", "prepare"} <= COMMANDS
    assert {"model", "tinystories.dataset", "torch"} <= IMPORTS["train"]
    assert "tinystories.figures" in IMPORTS["tinystories.log"]  # inside a function


@pytest.mark.parametrize("name", sorted(IMPORTS.keys() - COMMANDS))
def test_a_module_imports_no_command(name):
    assert not IMPORTS[name] & COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS - {"sweep", "bench", "plan"}))
def test_a_command_imports_no_other_command(name):
    assert not IMPORTS[name] & COMMANDS


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_imports_make_no_circle(name):
    assert name not in reachable(name)


@pytest.mark.parametrize("room", DOES_NOT_KNOW)
def test_a_room_does_not_know_what_the_table_says(room):
    names = [name for name in IMPORTS if is_in(name, {room})]
    assert names, f"{room} is gone: change docs/design.md and this test"
    for name in names:
        for imported, importer in reachable(name).items():
            known = is_in(imported, MAY_KNOW.get(room, set()) | {room})
            forbidden = is_in(imported, DOES_NOT_KNOW[room]) and not known
            assert not forbidden, f"{name} must not know {imported}, imported by {importer}"


def test_the_table_names_every_module_and_nothing_else():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    listed = set(re.findall(r"[a-z]+(?:\.py|/)", table)) - {"tinystories/"}
    package = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "tinystories").iterdir()
        if path.name not in ("__init__.py", "__pycache__", "plots.mplstyle")
    }
    assert listed == package | {f"{name}.py" for name in MODULES_AT_THE_TOP}


def test_imports_follow_the_arrows_of_the_picture():
    picture = (ROOT / "docs/design.md").read_text(encoding="utf-8").split("```")[3]
    lines = [line[:65] for line in picture.splitlines()]  # on the right are comments
    level = {name: i for i, line in enumerate(lines) for name in re.findall(r"[a-z]+", line)}
    short = {name: name.removeprefix("tinystories.").partition(".")[0] for name in IMPORTS}
    assert level.keys() == set(short.values()) - {"__init__"}
    for importer, imports in IMPORTS.items():
        for imported in imports & IMPORTS.keys() - COMMANDS:
            a, b = short[importer], short[imported]
            drawn = a == b or level[a] < level[b] or f"{a} ─► {b}" in picture
            assert drawn, f"{importer} imports {imported}, against the picture"
