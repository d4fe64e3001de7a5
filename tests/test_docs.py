"""The pages, README and messages: what they name is there, and can be installed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.options import Options
from pipelines.words import read
from stm.version import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def texts():
    """Every page, source and cluster file, as (path, text)."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "Makefile"]
    found += [path for path in (ROOT / "clusters").rglob("*") if path.is_file()]
    found += [path for folder in ("stm", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    return [(str(path.relative_to(ROOT)), path.read_text()) for path in found]


def test_what_is_to_be_installed_is_this_project_and_not_another_called_stm():
    assert PROJECT["name"] == DISTRIBUTION != "stm"
    assert PROJECT["scripts"] == {"stm": "stm.__main__:main"}
    named = {
        (path, name, extra)
        for path, text in texts()
        for name, extra in re.findall(r"pip install '?([\w{}-]+)\[(\w+)\]", text)
    }
    assert {extra for *_, extra in named} >= {"serve", "export", "gcs"}
    for path, name, extra in named:
        assert name in (DISTRIBUTION, "{DISTRIBUTION}"), path
        assert extra in PROJECT["optional-dependencies"], path


def commands(path):
    """The `stm` commands of a page, as words; what a shell does with them (pipes, variables, comments) is left out."""
    text = path.read_text().replace("\\\n", " ")
    if path.suffix == ".yaml":  # the head of a recipe
        text = text.replace("#   ", "    ")
    for line in re.findall(r"^    ((?:[A-Z_]+=\S+ )*stm .*)$", text, re.M):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:
            words.pop(0)
        ends = [k for k, word in enumerate(words) if word in ("&&", "|", ">")]
        yield words[: min(ends, default=len(words))]


PAGES = [
    ROOT / "README.md", ROOT / "clusters" / "README.md", ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "stm" / "recipes").glob("*.yaml")),
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("optim: {lr: 0.01}\n")  # a file of settings that pages name
    for words in commands(page):
        given = [word for word in words[2:] if word != "..."]
        given = ["64" if word == "BATCH" else word for word in given]  # of a table's rows
        if not {"--help", "--print_config", "--completion"} & set(words):
            read(Options.of(cli.module_of(words[1])), given)


def test_the_readme_and_the_table_of_commands_name_every_verb():
    readme = {words[1] for words in commands(ROOT / "README.md")}
    assert readme >= {"index", "train", "evaluate", "predict"}
    rows = re.findall(r"^\| (`stm .*?) \|", (ROOT / "docs" / "commands.md").read_text(), re.M)
    assert set(re.findall(r"`stm (\w+)`", " ".join(rows))) == set(cli.verbs())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.long
def test_the_site_builds_without_a_broken_link_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs", reason="the group `docs` is not installed")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / "docs" / "site" / "mkdocs.yml")],
        capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    names = {str(page.relative_to(tmp_path / "site")) for page in pages}
    assert names >= {"index.html", "clusters.html", "reference.html", "notebooks/sweep.ipynb.html"}
    assert 'id="stm.config.OptimConfig"' in (tmp_path / "site" / "reference.html").read_text()
    for page in pages:
        asked = re.findall(
            r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="?(?:https?:)?//[^">]+',
            page.read_text(),
        )
        assert [tag for tag in asked if "canonical" not in tag] == [], page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//", sheet.read_text()), sheet
