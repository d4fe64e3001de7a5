"""``stm VERB``: pass the rest of the command line to the verb's file, and import no other verb."""

from __future__ import annotations

import ast
import atexit
import difflib
import errno
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from types import ModuleType

import pipelines
from stm import ending
from stm.errors import UserError

ORDER = (
    "demo", "index", "prepare", "train", "splits", "tune", "evaluate", "predict", "register", "serve", "explain",
    "export", "submit", "jobs", "doctor", "plan", "bench",
)  # fmt: skip
"""The order in which help lists the verbs; a verb that is not named comes last."""


def verbs() -> dict[str, str]:
    """Return every verb with the first line of its docstring, read from the files without importing them."""
    found = dict(_found())
    ranks = {verb: rank for rank, verb in enumerate(ORDER)}
    return {
        verb: found[verb] for verb in sorted(found, key=lambda v: (ranks.get(v, len(ranks)), v))
    }


def _found() -> Iterator[tuple[str, str]]:
    for finder, name, _ in pkgutil.iter_modules(pipelines.__path__):
        loader = finder.find_spec(name, None).loader  # type: ignore[union-attr]
        for statement in ast.parse(loader.get_source(name)).body:  # type: ignore[union-attr]
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                summary = (ast.get_docstring(statement) or "").partition("\n")[0]
                yield name, summary.rstrip(".")


SIGNALLED = {128 + number for number in ending.SIGNALS}
"""Exit statuses of commands that a signal has ended."""

OTHER_NAMES = {
    "fit": "train", "finetune": "train", "resume": "train",
    "test": "evaluate", "validate": "evaluate", "score": "evaluate", "report": "evaluate",
    "infer": "predict", "inference": "predict", "classify": "predict",
    "sweep": "tune", "search": "tune",
    "transcode": "prepare", "convert": "prepare",
    "deploy": "serve",
}  # fmt: skip
"""Names of stm's verbs in other systems."""


def module_of(verb: str, problem: str = "no verb {verb!r}") -> ModuleType:
    """Import and return the verb's module. Raises ``UserError``, which names the nearest verb, if there is none."""
    known = verbs()
    if verb not in known:
        near = OTHER_NAMES.get(verb) or next(
            iter(difflib.get_close_matches(verb, known, n=1)), None
        )
        hint = f"did you mean `stm {near}`?" if near else f"verbs are {', '.join(known)}"
        raise UserError(f"{problem.format(verb=verb)}: {hint}")
    return importlib.import_module(f"pipelines.{verb}")


def usage() -> str:
    listed = "\n".join(f"  {verb:<10}{summary}" for verb, summary in verbs().items())
    return f"""usage: stm VERB [--option VALUE ...]

Train STM (ICCV 2019), a network that recognises actions in videos, on one machine or a Ray cluster.

{listed}

examples:
  stm demo
  stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output manifests/ucf101
  stm train --data.train manifests/ucf101/train.parquet --data.val manifests/ucf101/val.parquet
  stm train --config something-v1-t8
  stm VERB --help
  source <(stm --completion bash)    # or zsh: completes verbs, options and values
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb and return its exit status (listed in ``pipelines.console``)."""
    if argv is None:
        _in_utf8()
    _open_what_is_closed()
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else argv)
            if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while libraries unload
        except SystemExit as end:  # from --help, whose output may also be a closed pipe
            status = int(end.code or 0)
        sys.stdout.flush()
        if argv is None and status in SIGNALLED:
            _leave(status)
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # while Python still loads stm
        return 130
    except OSError as error:  # a verb's errors are reported in pipelines.console
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"stm: stdout cannot be written to: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _leave(status: int) -> None:
    """End a process that a signal has interrupted. Exit handlers run, Ray's among them, but Python does not unload
    its modules: library threads that were interrupted while starting crashed at that point (-11, -6)."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _in_utf8() -> None:
    """Restart in Python's UTF-8 mode if the locale has another encoding: file names, Ray's messages and stm's files
    are UTF-8. Ray's processes inherit the mode."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        environment = {**os.environ, "PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _open_what_is_closed() -> None:
    """Open a closed standard stream (`>&-`) on the null device: the next file or connection would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb in ("--version", "-V", "version"):
        from stm import __version__

        print(f"stm {__version__}")
        return 0
    try:
        if verb == "--completion":
            from pipelines.completion import script

            print(script(" ".join(rest), {each: module_of(each) for each in verbs()}), end="")
            return 0
        module = module_of(verb)
    except UserError as error:
        from stm.redaction import harmless

        print(f"stm: {harmless(str(error))}", file=sys.stderr)
        return 2
    from pipelines.console import run_verb

    return run_verb(module, rest)


if __name__ == "__main__":
    sys.exit(main())
