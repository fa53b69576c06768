"""What installs this project: pyproject.toml, requirements*.txt, --version."""

import re
import tomllib

import pytest
from conftest import ROOT, command
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    """The versions in a requirements file by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(re.match(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines if "==" in line)


@pytest.mark.parametrize(
    ("listed", "pinned"),
    [
        (PROJECT["dependencies"] + EXTRAS["sweep"], "requirements.txt"),
        ([each for each in EXTRAS["dev"] if each not in EXTRAS["sweep"]], "requirements-dev.txt"),
    ],
    ids=["users", "tests"],
)
def test_the_tested_versions_are_within_the_bounds(listed, pinned):
    bounds = {requirement.name: requirement.specifier for requirement in map(Requirement, listed)}
    versions = pins(pinned)
    assert bounds.keys() == versions.keys()
    for name, version in versions.items():
        assert version in bounds[name], name


def test_every_module_at_the_top_is_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    modules = tomllib.loads(text)["tool"]["setuptools"]["py-modules"]
    assert sorted(modules) == sorted(path.stem for path in ROOT.glob("*.py"))


def test_version():
    assert command("train.py", "--version").stdout == f"{PROJECT['name']} {PROJECT['version']}\n"
