"""Settings of a toy command.

python toy.py        what the commands of the repo do with theirs, in small
"""

import dataclasses
import errno
import importlib
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal, get_type_hints

import pytest
from conftest import ROOT, complaint

import prepare
import train
from configurator import RangedSettings, UserError, help_text, parse, start
from tinystories.dataset import dataset_folder
from tinystories.ranges import Count, FractionBelow1, Name, allowed_range
from tinystories.run import run_folder

COMMANDS = ["prepare", "train", "sample", "evaluate", "sweep", "explore", "bench", "compose"]
COMMANDS += ["interpret"]


@dataclass
class Toy(RangedSettings):
    # Words
    name: str = "Lily"  # of the child
    title: str | None = None  # None: none
    label: Name = "red"  # on the jar
    # Numbers
    steps: int = 10
    limit: int | None = None  # None: no limit
    rate: float = 0.5  # share of apples
    shout: bool = False  # in capitals
    # Ranges
    count: Count | None = None  # of apples
    part: FractionBelow1 = 0.5  # of the cake
    # Choices
    mood: Literal["glad", "sad"] = "glad"  # of the ending
    compile: bool | Literal["auto"] = "auto"  # the three ways

    def __post_init__(self):
        super().__post_init__()  # a comment that is not for the reader


@pytest.fixture
def config(tmp_path):
    """Writes a config file and returns its path: config("steps = 3")."""

    def write(text: str, name: str = "toy_config.py") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def given(*argv) -> dict:
    """The values that a command line of the toy command sets."""
    return parse(Toy, list(argv)).overrides


def refusal(*argv) -> str:
    """The line with which the toy command refuses a command line."""
    with pytest.raises(UserError) as refused:
        given(*argv)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Order of authority -------------------------------------------------------------------------


def test_what_is_not_given_keeps_its_default():
    assert given() == {}
    assert Toy(**given("--steps=3")) == Toy(steps=3)


def test_a_config_file_changes_defaults(config):
    assert given(config("steps = 3\nname = 'Tom'")) == {"steps": 3, "name": "Tom"}


def test_the_later_config_file_wins(config):
    first, second = config("steps = 1\nrate = 0.1", "a.py"), config("steps = 2", "b.py")
    assert given(first, second) == {"steps": 2, "rate": 0.1}
    assert given(second, first) == {"steps": 1, "rate": 0.1}


@pytest.mark.parametrize("line_first", [True, False])
def test_the_command_line_wins_wherever_it_stands(config, line_first):
    arguments = [config("steps = 1"), "--steps=7"]
    assert given(*(reversed(arguments) if line_first else arguments)) == {"steps": 7}


def test_the_last_of_two_equal_settings_wins():
    assert given("--steps=1", "--steps=2") == {"steps": 2}


def test_the_docstrings_of_config_files_are_handed_on(config):
    files = config('"""Say hello."""\nsteps = 1', "a.py"), config("steps = 2", "b.py")
    assert parse(Toy, list(files)).docs == ["Say hello.", ""]


# Types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--name=123", "123"),
        ("--name=None", "None"),
        ("--name=", ""),
        ("--name=a=b==c", "a=b==c"),
        ("--name=--steps=3", "--steps=3"),
        ("--name=two words, öö", "two words, öö"),
        ("--title=7", "7"),
        ("--title=None", None),
        ("--steps=-3", -3),
        ("--steps=1_000", 1000),
        ("--limit=None", None),
        ("--limit=none", None),
        ("--limit=5", 5),
        ("--rate=2", 2.0),
        ("--rate=1e-3", 0.001),
        ("--shout=True", True),
        ("--shout=true", True),
        ("--shout=TRUE", True),
        ("--shout=1", True),
        ("--shout=False", False),
        ("--shout=false", False),
        ("--shout=fAlSe", False),
        ("--shout=0", False),
        ("--mood=sad", "sad"),
        ("--compile=auto", "auto"),
        ("--compile=True", True),
        ("--compile=0", False),
    ],
)
def test_a_value_is_read_by_the_type_of_its_field(argument, value):
    name = argument[2:].partition("=")[0]
    read = given(argument)
    assert read == {name: value}
    assert type(read[name]) is type(value)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("rate = 2", 2.0),
        ("steps = 3.0", 3),
        ("shout = 1", True),
        ("limit = None", None),
        ("compile = 'auto'", "auto"),
        ("compile = False", False),
        ("steps = 20_000", 20_000),
    ],
)
def test_a_config_file_gives_python_values(config, line, value):
    name = line.split()[0]
    read = given(config(line))
    assert read == {name: value}
    assert type(read[name]) is type(value)


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("--steps=many", "an integer, not 'many'"),
        ("--steps=2.5", "an integer, not '2.5'"),
        ("--steps=", "an integer, not ''"),
        ("--steps=None", "an integer, not 'None'"),
        ("--limit=2.5", "an integer or None, not '2.5'"),
        ("--rate=fast", "a number, not 'fast'"),
        ("--rate=nan", "a number, not 'nan'"),
        ("--rate=inf", "a number, not 'inf'"),
        ("--shout=yes", "True or False, not 'yes'"),
        ("--shout=2", "True or False, not '2'"),
        ("--mood=angry", "glad, sad, not 'angry'"),
        ("--compile=maybe", "True or False or auto, not 'maybe'"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(argument, wanted):
    assert refusal(argument) == f"{argument.partition('=')[0]} expects {wanted}"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("name = 123", "name expects text, not 123"),
        ("steps = 2.5", "steps expects an integer, not 2.5"),
        ("steps = True", "steps expects an integer, not True"),
        ("steps = None", "steps expects an integer, not None"),
        ("steps = float('inf')", "steps expects an integer, not inf"),
        ("rate = [1]", "rate expects a number, not [1]"),
        ("def steps(): pass", "steps expects an integer, not <function"),
    ],
)
def test_a_config_file_with_a_wrong_type_is_named(config, line, wanted):
    path = config(line)
    assert refusal(path).startswith(f"{path}: {wanted}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--count=0", "count is 0; it must be >= 1"),
        ("--part=1", "part is 1.0; it must be >= 0 and < 1"),
        ("--part=-0.1", "part is -0.1; it must be >= 0 and < 1"),
        ("--label=", "label is empty; leave it out or give it a name"),
    ],
)
def test_a_value_out_of_the_range_of_its_type_is_refused(argument, message):
    assert refusal(argument) == message


def test_values_at_the_ends_of_a_range_and_none_are_accepted():
    assert given("--count=1", "--part=0") == {"count": 1, "part": 0.0}
    assert given("--count=None") == {"count": None}


def test_ranges_hold_for_settings_that_code_makes_too():
    with pytest.raises(UserError, match="count is -1; it must be >= 1"):
        Toy(count=-1)


def test_a_program_can_read_the_range_of_a_type():
    kinds = get_type_hints(Toy, include_extras=True)
    declared, allowed = allowed_range(kinds["count"])
    assert (declared, allowed.low, allowed.high) == (int, 1, math.inf)
    assert allowed_range(kinds["steps"]) is None


# Ways to write a setting --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--steps", "3"], {"steps": 3}),
        (["--steps", "-3"], {"steps": -3}),
        (["--steps=3*5*2"], {"steps": 30}),
        (["--steps=1e4"], {"steps": 10_000}),
        (["--rate=3*1e-1"], {"rate": pytest.approx(0.3)}),
        (["--shout"], {"shout": True}),
        (["--shout", "false"], {"shout": False}),
        (["--shout", "--steps", "3"], {"shout": True, "steps": 3}),
        (["--compile"], {"compile": True}),
        (["--compile", "auto"], {"compile": "auto"}),
    ],
)
def test_a_setting_may_be_written_as_other_programs_have_it(argv, values):
    assert given(*argv) == values


def test_dashes_in_a_name_are_underscores():
    assert parse(train.Settings, ["--batch-size=3"]).overrides == {"batch_size": 3}


@pytest.mark.parametrize("argv", [["--steps"], ["--steps", "--shout"]])
def test_a_number_without_a_value_is_refused(argv):
    assert refusal(*argv) == "--steps has no value; it expects an integer"


@pytest.mark.parametrize("text", ["1.5", "3*", "2**3", "1e400", "0x10", "5*x"])
def test_what_is_no_whole_number_is_refused(text):
    assert refusal(f"--steps={text}") == f"--steps expects an integer, not {text!r}"


# Names --------------------------------------------------------------------------------------


def test_an_unknown_setting_is_refused_and_the_nearest_named():
    assert refusal("--stepps=3") == "--stepps is not a setting; did you mean steps?"


def test_an_unknown_setting_without_any_near_name_points_to_help():
    assert refusal("--zzz=3") == "--zzz is not a setting; --help lists all settings"


def test_an_unknown_name_in_a_config_file_is_refused_too(config):
    path = config("mod = 'sad'")
    assert refusal(path) == f"{path}: mod is not a setting; did you mean mood?"


def test_names_with_an_underscore_and_modules_are_the_files_own_business(config):
    path = config("import math\n_half = math.sqrt(0.25)\nrate = _half / 2\n_zzz = print")
    assert given(path) == {"rate": 0.25}


def test_methods_and_attributes_of_the_settings_are_no_settings():
    assert "is not a setting" in refusal("--__post_init__=1")


@pytest.mark.parametrize("argument", ["-steps=3", "--", "-", "-x", "--=3"])
def test_what_is_no_setting_at_all_is_refused(argument):
    expected = f"cannot read {argument!r}; settings are given as --key=value"
    assert refusal(argument) == expected


# Config files -------------------------------------------------------------------------------


def test_a_config_file_that_does_not_exist_is_named():
    message = refusal("config/none.py")
    assert message == "there is no config file config/none.py; settings are given as --key=value"


def test_a_word_without_dashes_is_explained():
    assert "settings are given as --key=value" in refusal("steps=3")


def test_a_config_file_that_raises_is_named_with_the_line(config):
    path = config("steps = 3\n\nrate = 1 / 0\n")
    assert refusal(path) == f"{path}, line 3: ZeroDivisionError: division by zero"


def test_an_error_inside_a_function_is_named_with_the_line_of_the_file(config):
    path = config("import json\ndef _load():\n    return json.loads('{')\nsteps = _load()\n")
    assert refusal(path).startswith(f"{path}, line 3: JSONDecodeError")


def test_a_config_file_with_a_syntax_error_is_named_with_the_line(config):
    path = config("steps = 3\nrate = = 2\n")
    assert refusal(path).startswith(f"{path}, line 2: SyntaxError: invalid syntax")


def test_an_error_with_several_lines_is_told_in_one(config):
    path = config("raise ValueError('first\\nsecond')")
    assert refusal(path).startswith(f"{path}, line 1: ValueError: first")


def test_all_unknown_names_of_a_config_file_are_named_at_once(config):
    path = config("zzz = 1\nsteps = 3\nmod = 'sad'")
    assert refusal(path) == f"{path}: zzz, mod are not settings; did you mean mood?"


def test_only_python_files_are_executed(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("raise SystemExit", encoding="utf-8")
    assert refusal(str(path)) == f"cannot read {str(path)!r}; settings are given as --key=value"


def test_a_config_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "weights.py"
    path.write_bytes(b"PK\x03\x04\0\0\xff\xfe")
    assert refusal(str(path)).startswith(f"{path}, line ")


def test_a_config_file_can_find_what_lies_beside_it(config):
    path = config("from pathlib import Path as _Path\nname = _Path(__file__).name", "me.py")
    assert given(path) == {"name": "me.py"}


def test_a_config_may_be_written_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "windows.py"
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\r\n")
    assert given(str(path)) == {"steps": 3}


# Help ---------------------------------------------------------------------------------------


def test_help_shows_docstring_headings_defaults_and_comments(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_text(Toy).splitlines()
    assert lines[0] == "Settings of a toy command."
    assert "Words:" in lines
    assert "  --name=Lily                   of the child" in lines
    assert "  --title=TEXT                  None: none" in lines
    assert "  --steps=10" in [line.rstrip() for line in lines]
    assert "  --count=INTEGER               of apples (>= 1)" in lines
    assert "  --part=0.5                    of the cake (>= 0 and < 1)" in lines
    assert not any("not for the reader" in line for line in lines)


def test_help_uses_the_width_of_the_terminal(monkeypatch):
    narrow, wide = [], []
    for columns, lines in (("60", narrow), ("200", wide)):
        monkeypatch.setenv("COLUMNS", columns)
        lines += help_text(prepare.Settings).partition("Stories:")[2].splitlines()
    assert max(map(len, narrow)) <= 60
    assert len(wide) < len(narrow)


@pytest.fixture(scope="module", params=COMMANDS)
def helped(request):
    """(module, what its --help prints, the modules it imports)."""
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / f"{request.param}.py", "--help"],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "80"},
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    return importlib.import_module(request.param), shown, imported


def test_help_of_each_command_prints_every_field_with_its_default(helped):
    module, shown, _ = helped
    for field in dataclasses.fields(module.Settings):
        default = {"": '""', None: "(INTEGER|NUMBER|TEXT)"}.get(field.default, field.default)
        assert re.search(rf"^  --{field.name}={default}( |$)", shown.stdout, re.MULTILINE)


def test_every_field_has_a_comment_and_help_prints_it(helped):
    module, shown, _ = helped
    source = (ROOT / module.__file__).read_text(encoding="utf-8")
    printed = " ".join(shown.stdout.split())
    without = []
    for field in dataclasses.fields(module.Settings):
        comment = re.search(rf"^    {field.name}: [^#\n]*(?:# (.*))?$", source, re.MULTILINE)[1]
        if comment:
            assert re.search(rf"--{field.name}=\S+ {re.escape(' '.join(comment.split()))}", printed)
        else:
            without.append(field.name)
    assert not without


def test_help_of_each_command_fits_80_columns(helped):
    _, shown, _ = helped
    assert [line for line in shown.stdout.splitlines() if len(line) > 80] == []


def test_help_of_the_main_commands_fits_two_screens(helped):
    module, shown, _ = helped
    if module.__name__ in ("prepare", "sample", "train", "compose"):
        assert shown.stdout.count("\n") <= 2 * 36


def test_help_of_train_lists_the_configs_with_what_they_are(helped):
    module, shown, _ = helped
    listed = re.findall(r"^  (\w+)  +(\S.*)$", shown.stdout, re.MULTILINE)
    docs = [(p.stem, p.read_text().split('"""')[1]) for p in sorted(ROOT.glob("config/*.py"))]
    firsts = [(name, doc.partition(".\n")[0]) for name, doc in docs]
    assert listed == (firsts if module.__name__ == "train" else [])


def test_help_of_each_command_imports_no_torch(helped):
    _, _, imported = helped
    assert "configurator" in imported
    assert not imported & {"torch", "tiktoken", "datasets", "huggingface_hub", "numpy"}


def test_help_is_shown_whatever_else_is_given(capsys):
    with pytest.raises(SystemExit) as ended:
        given("--no_such=1", "-h")
    assert ended.value.code == 0
    assert "Words:" in capsys.readouterr().out


# In a real process --------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_setting_ends_in_one_line_with_status_2(command, tmp_path):
    line = complaint(f"{command}.py", "--sed=1", "--sourc=1", cwd=tmp_path)
    assert line.startswith(f"{command}.py: --sed is not a setting; ")


def test_a_config_of_the_repo_is_found_from_any_working_directory(tmp_path):
    line = complaint("train.py", "config/storybook_1m.py", "--n_layr=3", cwd=tmp_path)
    assert line == "train.py: --n_layr is not a setting; did you mean n_layer?"


def test_a_config_of_ones_own_is_found_where_one_stands(config, tmp_path):
    config("n_layr = 3", "mine.py")
    line = complaint("train.py", "mine.py", cwd=tmp_path)
    assert line == "train.py: mine.py: n_layr is not a setting; did you mean n_layer?"


def test_data_and_runs_lie_beside_the_scripts_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_folder("small") == ROOT / "data" / "small"
    assert run_folder("out/x") == ROOT / "out" / "x"
    assert run_folder(str(tmp_path)) == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="closes standard input in a POSIX shell")
def test_a_command_works_where_standard_input_is_closed():
    shell = f'"{sys.executable}" "{ROOT / "train.py"}" --sed=1 <&-'
    done = subprocess.run(shell, shell=True, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes standard output in a POSIX shell")
def test_files_do_not_get_the_number_of_a_closed_standard_stream():
    code = "reopen_streams(); print(1); print([os.open(os.devnull, 0), sys.stdin], file=sys.stderr)"
    code = f"import os, sys; from configurator import reopen_streams; {code}"
    shell = f'"{sys.executable}" -c "{code}" >&-'
    done = subprocess.run(shell, shell=True, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0 and int(done.stderr[1]) > 2, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_in_the_slow_imports_ends_without_a_traceback(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, signal\nfrom dataclasses import dataclass\nimport configurator\n"
        "@dataclass\nclass Settings(configurator.RangedSettings):\n    seed: int = 1\n"
        "configurator.configure(Settings)\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no a\nb\u2028c.txt"), r"no a\nb\u2028c.txt"),
        (UserError(f"no {'x' * 5000}; make it"), f"no {'x' * 497}... (5,012 characters) ...{{}}"),
        (OSError(errno.EMFILE, "Too many open files"), "[Errno 24] Too many open files"),
        (MemoryError(), "out of memory"),
    ],
)
def test_every_refusal_is_one_short_line(error, line, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        start(main)
    assert ended.value.code == 2
    said = capsys.readouterr().err.split(": ", 1)[1]
    assert said == line.format("x" * 241 + "; make it") + "\n"


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("config/*.py")))
def test_every_config_of_the_repo_is_valid_and_says_how_to_prepare_its_data(name):
    _, values, docs = parse(train.Settings, [f"config/{name}"])
    command = re.search(r"python prepare\.py *(.*)", docs[0])
    assert parse(prepare.Settings, command[1].split()).settings.dataset == values["dataset"]
