"""The pages for people: links that work, commands that are understood, a README of one sitting."""

import importlib
import re
import shlex

import pytest
from conftest import ROOT

from configurator import check, normalize

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("prompts/*.md")])
SCRIPTS = ("prepare", "train", "sample", "evaluate", "export", "explore", "bench", "compose")
SCRIPTS += ("interpret",)


def headings(page) -> set[str]:
    """The anchors of a page, as GitHub makes them from its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_settings_that_exist(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?:echo .* \| )?python (.*)$", text, flags=re.MULTILINE):
        script, *words = shlex.split(line, comments=True)
        module = script.removesuffix(".py")
        if module not in SCRIPTS or "$" in line or "../nanoGPT/config" in line:
            continue
        settings = importlib.import_module(module).Settings
        for word in normalize(words, settings):
            name, equals, value = word.removeprefix("--").partition("=")
            if equals:
                check(settings, {name: value}, "--")
            elif word.endswith(".py"):
                assert (ROOT / word).is_file(), line


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1800


def test_the_table_of_results_names_every_config():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Results")[2].partition("\n## ")[0]
    assert set(re.findall(r"config/\w+\.py", table)) == {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("config/*.py")
        if not path.stem.startswith("planned_")  # by plan.py, for whoever runs it
    }
