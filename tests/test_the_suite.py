"""The tests' own rules: what a test may leave behind, which markers there are, and who is left out of a run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

BADLY_BEHAVED = """
import os
import pytest

@pytest.fixture(scope="module")
def sloppy(): os.umask(0o077)

def test_mask(sloppy): pass
def test_folder(tmp_path): os.chdir(tmp_path)
def test_variable(): os.environ["STM_LEFT_BEHIND"] = "1"
def test_variable_that_is_gone(): del os.environ["OMP_NUM_THREADS"]
def test_class(): os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))

def test_all_is_put_back():
    assert os.path.basename(os.getcwd()) == "here"
    assert "STM_LEFT_BEHIND" not in os.environ
    assert os.environ["OMP_NUM_THREADS"]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    umask = os.umask(0o022)
    assert umask == 0o022

def test_well_behaved(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STM_LEFT_BEHIND", "1")

@pytest.mark.tool("no-such-program")
def test_with_a_tool_that_is_not_here(): assert False

def test_starts_ray(ray_cluster): assert False
"""


def test_a_test_that_changes_its_process_fails_and_markers_leave_tests_out(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "test_badly_behaved.py").write_text(BADLY_BEHAVED)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", "/dev/null"]
    command += ["--rootdir", str(here), "-m", "not ray", "-W", "ignore", "test_badly_behaved.py"]
    ended = subprocess.run(
        command,
        cwd=here,
        umask=0o022,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = ended.stdout
    failed = set(re.findall(r"^ERROR test_badly_behaved.py::test_(\w+)", said, re.MULTILINE))
    assert failed == {"mask", "folder", "variable", "variable_that_is_gone", "class"}, said
    assert "7 passed, 2 deselected, " in said, said
    assert "umask: was 18, is 63" in said
    assert "$STM_LEFT_BEHIND: was None, is '1'" in said


def test_declared_markers_are_those_that_are_used():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    declared = {re.split(r"[:(]", line)[0] for line in settings["ini_options"]["markers"]}
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    used = {name for text in texts for name in re.findall(r"pytest\.mark\.(\w+)", text)}
    of_pytest = {"parametrize", "skipif", "timeout", "usefixtures", "filterwarnings"}
    assert used - of_pytest == declared
