"""`stm --completion`: what real shells offer after the script is sourced."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from pipelines import cli, completion
from pipelines.options import Options

VERBS = {verb: cli.module_of(verb) for verb in cli.verbs()}
SCRIPTS = {shell: completion.script(shell, VERBS) for shell in completion.SHELLS}


def offered(*words: str) -> list[str]:
    """What bash offers for the last of ``words``, as its completion function answers."""
    line = " ".join(f"'{word}'" for word in words)
    code = f'source "$0"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _stm; '
    code += """printf '%s\\n' "${COMPREPLY[@]}" """
    return _run("bash", SCRIPTS["bash"], code)


def _run(shell: str, script: str, code: str) -> list[str]:
    done = subprocess.run(
        [shell, "-c", code, "/dev/stdin"], input=script, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.split()


def test_verbs_are_offered_first():
    assert offered("stm", "") == list(cli.verbs())
    assert offered("stm", "pre") == ["prepare", "predict"]


@pytest.mark.parametrize("verb", cli.verbs())
def test_every_option_of_a_verb_is_offered_and_none_that_it_does_not_have(verb):
    parser = Options.of(cli.module_of(verb)).parser
    known = {name for action in parser._actions for name in action.option_strings}
    found = offered("stm", verb, "--")
    assert set(found) <= known
    # Words that add to a list, files of a section, and short names are not offered.
    files = {f"--{section}" for section in ("model", "data", "optim", "train", "tracking")}
    rest = {name for name in known - set(found) - files if name.startswith("--")}
    assert all(name.endswith(("+", ".help")) for name in rest), rest


def test_values_are_offered_where_an_option_has_a_list_of_them():
    assert offered("stm", "bench", "") == ["decode", "data", "model", "train", "scale"]
    assert offered("stm", "evaluate", "--protocol", "") == ["efficient", "accurate"]
    assert offered("stm", "train", "--optim.schedule", "c") == ["cosine"]
    assert offered("stm", "train", "--optim.schedule", "=", "c") == ["cosine"]
    assert offered("stm", "train", "--optim.schedule", "=") == ["step", "cosine", "linear"]
    assert offered("stm", "train", "--config", "lap") == ["laptop"]
    assert offered("stm", "index", "--root", "x") == [], "bash completes files then"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script_and_its_function_answers(tmp_path):
    code = 'source "$0"; whence -w _stm; print -r -- "${_comps[stm]}"'
    done = subprocess.run(
        ["zsh", "-f", "-c", code, "/dev/stdin"], input=SCRIPTS["zsh"], capture_output=True, text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert "_stm: function" in done.stdout, done.stderr
    assert "_stm" in done.stdout.splitlines()[-1]


def test_another_shell_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "stm", "--completion", "fish"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stm: --completion fish: name the shell, bash or zsh\n"
