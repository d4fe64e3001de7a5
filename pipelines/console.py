"""Run a verb: its result goes to stdout, messages go to stderr, and errors become exit statuses.

Exit status: 0 done, 2 bad input (one message, no traceback), 130 interrupted, 143 or 129 ended by SIGTERM or SIGHUP, 1
a defect (with its traceback). `doctor`, `submit` and `jobs` describe their own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from pipelines.options import Options
from pipelines.words import Call, read
from stm import ending, proxy, ray_compat
from stm.errors import UserError
from stm.log import get_logger, shown_by
from stm.progress_view import PlainView
from stm.redaction import harmless, redact, redacted

logger = get_logger("stm.cli")

_SLOW = {"torch": "PyTorch", "ray": "Ray", "mlflow": "MLflow"}
"""Libraries that take seconds to load."""


_SPACE, _RIGHT, _FILES, _THREADS, _MEMORY = (
    "make room (`df` shows which disk is full)",
    "name a place where this user can write",
    "allow more open files (`ulimit -n 4096`)",
    "allow more processes and threads (`ulimit -u 65536`, `docker run --pids-limit -1`)",
    "use less memory (see `free`): fewer workers or decoding tasks, or smaller batches",
)
_OF_THE_MACHINE: dict[int | None, str] = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: _RIGHT,
    errno.EACCES: _RIGHT,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EAGAIN: _THREADS,
    errno.ENOMEM: _MEMORY,
    errno.EIO: "its disk is failing (see `dmesg`)",
}
"""Errors of the system that any verb may meet and that are not defects of stm, and what to do."""


_OF_RAY = {
    "OutOfDiskError": "make room on the disk of its folder (RAY_TMPDIR, else /tmp; see `df`), or in /dev/shm",
    "ObjectStoreFullError": "make room in /dev/shm, or enlarge it (`docker run --shm-size`)",
    "OutOfMemoryError": _MEMORY,
    "ActorUnschedulableError": "Ray's workers do not start: look at raylet.err in Ray's folder "
    "(RAY_TMPDIR, else /tmp, ray/session_latest/logs), at the free memory (`free`) and at `ulimit -u`",
    "LocalRayletDiedError": "its raylet died, perhaps because memory or a disk is full (see `dmesg` and `df`)",
}
"""Ray's errors when the machine runs out of a resource, and what to do."""


class Result(dict[str, Any]):
    """The result of a verb whose exit status may not be 0 although the command was right."""

    exit_status = 0

    def ending_with(self, exit_status: int) -> Result:
        self.exit_status = exit_status
        return self


def run_verb(module: ModuleType, argv: list[str]) -> int:
    """Read ``argv``, call the verb's function, print its result, and return the exit status.

    Only the result goes to stdout, as a JSON object or as the text of the module's ``show``; what libraries print goes
    to stderr. If the module has a ``leave``, it is called last, with the status.
    """
    proxy.spare_this_machine()
    with ending.by_signals():
        return _run_verb(module, argv)


def _run_verb(module: ModuleType, argv: list[str]) -> int:
    options = Options.of(module)
    prog = options.parser.prog
    try:
        call = read(options, argv)  # --help and --print_config print to stdout and exit
        for note in call.notes:
            print(f"{prog}: {harmless(redact(note))}", file=sys.stderr)
        _require_a_folder()
        view = shown_by(PlainView(), _level(call))
        with _stdout_kept_for_the_result() as stdout, view, _loading_told():
            result = call()
            if call.json:
                _print(json.dumps(redacted(result)), stdout)
            elif (show := getattr(module, "show", None)) is not None:
                _print(harmless(redact(show(result))), stdout)
        status = getattr(result, "exit_status", 0)
    except UserError as error:
        hint = "" if "call" in locals() else f"\n{prog} --help lists every option"
        print(f"{prog}: {harmless(redact(str(error)))}{hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"{prog}: {redact(ending.told(error))}", file=sys.stderr)
        return ending.status_of(error)
    except BrokenPipeError:  # the reader of the output has ended, as with `| head`
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        said = f"{where}{error.strerror}: {_OF_THE_MACHINE[error.errno]}"
        print(f"{prog}: {harmless(redact(said))}", file=sys.stderr)
        return 2
    except Exception as error:
        if (lack := _lack_of_python(error) or _lack_of_ray(error)) is None:
            raise
        print(f"{prog}: {harmless(redact(lack))}", file=sys.stderr)
        return 2
    if (leave := getattr(module, "leave", None)) is not None:
        leave(status)
    return status


def _lack_of_python(error: BaseException) -> str | None:
    """Return the message for an error of Python that lacks memory or threads; None for others."""
    if isinstance(error, MemoryError):
        return f"there is no memory left: {_MEMORY}"
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return f"no thread can be started: {_THREADS}"
    return None


def _lack_of_ray(error: BaseException | None) -> str | None:
    """Return the message for an error of ``_OF_RAY``, or for an error caused by one; None for others."""
    ray: Any = sys.modules.get("ray")
    while error is not None and ray is not None:
        if isinstance(error, ray.exceptions.RayError):
            for name, todo in _OF_RAY.items():
                if isinstance(error, getattr(ray.exceptions, name)):
                    first = next(iter(str(error).strip().splitlines()), name).rstrip(".")
                    return f"Ray cannot continue: {first}: {todo}, then run the same command again"
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _require_a_folder() -> None:
    """Raise ``UserError`` if the working folder is gone; libraries could neither resolve paths nor start Ray."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            "the folder that this command was started in is gone: `cd` to one that exists"
        ) from error


def _print(text: str, stdout: Any) -> None:
    """Print the result. Raises ``UserError`` if stdout cannot be written, as with a file on a full disk."""
    try:
        print(text, file=stdout, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # closing stdout writes the rest
        raise UserError(
            f"the command is done, but its result cannot be written to stdout: {error.strerror}"
        ) from error


class _Loading:
    """An import hook that finds nothing, and logs once that a slow library is loading."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in _SLOW:
            sys.meta_path.remove(self)
            logger.info(f"loading {_SLOW[name]}")


@contextlib.contextmanager
def _loading_told() -> Iterator[None]:
    """Log a line before the first library that takes seconds to load, so that the wait is explained."""
    hook: Any = _Loading()
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        if hook in sys.meta_path:
            sys.meta_path.remove(hook)


@contextlib.contextmanager
def _stdout_kept_for_the_result() -> Iterator[Any]:
    """Point stdout at stderr, for libraries and child processes alike, and yield the real one.

    A cluster that was joined or started in between is left before stdout is restored, because Ray's threads print to
    the end.
    """
    sys.stdout.flush()
    real, python_stdout = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    had_ray = _ray_is_up()
    try:
        with os.fdopen(os.dup(real), "w", errors="backslashreplace") as stdout:
            yield stdout
    finally:
        if _ray_is_up() and not had_ray:
            ray_compat.end_executions()
            sys.modules["ray"].shutdown()
        sys.stdout.flush()
        sys.stdout = python_stdout
        os.dup2(real, 1)
        os.close(real)


def _ray_is_up() -> bool:
    ray: Any = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def _level(call: Call) -> int:
    """Return the lowest level of the log that is shown. Raises ``UserError``."""
    if call.verbose and call.quiet:
        raise UserError("--verbose and --quiet: give only one of them")
    return logging.DEBUG if call.verbose else logging.WARNING if call.quiet else logging.INFO
