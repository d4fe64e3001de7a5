"""``stm --completion bash|zsh``: a script that completes verbs, options, and the values of options that list them.

It is generated from the typed verbs, so it never offers an option that does not exist. Otherwise it completes files.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from pipelines.options import Options
from stm import recipes
from stm.errors import UserError

SHELLS = ("bash", "zsh")

_SCRIPT = """\
_stm() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} words=
  if [ "$prev" = = ]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  if [ "$cur" = = ]; then cur= prev=${{COMP_WORDS[COMP_CWORD-1]}}; fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    words={verbs}
  else
    case "$cur" in
    -*) case "$verb" in
{options}
      esac ;;
    *) case "$verb $prev" in
{values}
      esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _stm stm
"""


def script(shell: str, verbs: Mapping[str, ModuleType]) -> str:
    """Return the script to source in ``bash`` or ``zsh``. Raises ``UserError`` for another shell."""
    if shell not in SHELLS:
        raise UserError(f"--completion {shell}: name the shell, {' or '.join(SHELLS)}")
    options, values = [], []
    for verb, module in verbs.items():
        found = Options.of(module)
        options.append(f"      {verb}) words={shlex.quote(' '.join(_names(found)))} ;;")
        if found.words:
            values += _case(f"{verb} {verb}", found.types[found.words[0]])
        for name, hint in found.types.items():
            values += _case(f"{verb} --{name}", hint)
        if found.has_files:
            values += [
                f"      {shlex.quote(f'{verb} --config')}) words={shlex.quote(' '.join(recipes.names()))} ;;"
            ]
    made = _SCRIPT.format(
        verbs=shlex.quote(" ".join(verbs)),
        options="\n".join(options),
        values="\n".join(values),
    )
    return (
        made
        if shell == "bash"
        else f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{made}"
    )


def _names(found: Options) -> list[str]:
    """Return the options of a verb with their dashes, including ``--help`` and second names."""
    names = [name for name in found.types if name not in found.words]
    also = [rule.also for rule in found.rules.values() if rule.also]
    return [
        f"--{name}"
        for name in (*names, *also, *["config", "print_config"] * found.has_files, "help")
    ]


def _case(given: str, hint: Any) -> list[str]:
    """Return the case for the words that may follow ``given``, if they can be listed."""
    words = [str(each) for each in _words(hint)]
    return [f"      {shlex.quote(given)}) words={shlex.quote(' '.join(words))} ;;"] if words else []


def _words(hint: Any) -> list[Any]:
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for part in get_args(hint) for word in _words(part)]
