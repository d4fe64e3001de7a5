"""Imports go in one direction, a tool checks this, and it notices an import in the other direction."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = {each["id"]: each for each in LINTER["contracts"]}


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on the tree in ``folder``."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_hold():
    status, output = lint(ROOT)
    assert status == 0, output
    assert f"{len(CONTRACTS)} kept, 0 broken" in output


def test_no_import_is_excused():
    for contract in CONTRACTS.values():
        assert not contract.keys() & {"ignore_imports", "skip_descendants"}, contract["name"]
    assert not LINTER.get("exclude_type_checking_imports")


@pytest.fixture
def tree(tmp_path):
    """A copy of the code that may be broken."""
    for package in LINTER["root_packages"]:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("stm/train/async_validation.py", "def f():\n    import stm.evaluate.predict", "rooms"),
        ("stm/config.py", "import stm.storage", "rooms"),
        ("stm/made_up.py", "", "rooms"),
        ("stm/data/decode/packets.py", "import stm.data.stream.plan", "data"),
        ("stm/data/index/indexing.py", "import stm.data.prepare.log", "data"),
        ("stm/figures.py", "def f():\n    from pipelines import cli", "pipelines"),
        ("stm/model/inputs.py", "import ray", "model"),
        ("stm/model/inputs.py", "import stm.config", "rooms"),
        ("stm/data/shards.py", "import ray", "without-ray"),
        ("stm/report/facts.py", "import stm.report.page", "cycles"),
        ("pipelines/cli.py", "import pipelines.command", "cycles"),
    ],
)
def test_an_arrow_that_is_turned_is_noticed(tree, file, line, broken):
    assert (tree / file).exists() is not file.endswith("made_up.py")
    with (tree / file).open("a") as source:
        source.write(f"\n{line}\n")
    status, output = lint(tree)
    assert status == 1, output
    assert f"{CONTRACTS[broken]['name']} BROKEN" in output


def test_the_library_names_no_module_of_the_command_line_in_a_string():
    """``import_module("pipelines.cli")`` and ``-m pipelines.cli`` are seen by no linter; ``python -m stm`` may."""
    found = {}
    for path in ROOT.glob("stm/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = re.fullmatch(r"pipelines(\.\w+)+", node.value)
                if named or re.search(r"(-m|import|from) pipelines\b", node.value):
                    found.setdefault(path.relative_to(ROOT).as_posix(), []).append(node.value)
    assert set(found) == {"stm/__main__.py"}, found


@pytest.mark.parametrize(("contract", "title"), [("rooms", "stm"), ("data", "stm.data")])
def test_the_documentation_shows_the_same_layers(contract, title):
    text = (ROOT / "docs/architecture.md").read_text()
    shown = re.search(rf"^    {re.escape(title)}\n((?:        .*\n)+)", text, re.MULTILINE)
    assert shown is not None
    assert [line.strip() for line in shown[1].splitlines()] == CONTRACTS[contract]["layers"]
