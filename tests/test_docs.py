"""The pages, README and messages: what they name is there, and can be installed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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
