"""What every verb shares: parsing, one JSON object on stdout, messages on stderr, exit statuses.

Exit status: 0 done, 2 bad input (one message, no traceback), 130 interrupted, 1 a defect (with its traceback).
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jsonargparse

from stm import recipes
from stm.errors import UserError
from stm.log import get_logger, shown_by
from stm.progress_view import PlainView
from stm.redaction import redact, redacted

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)


class Parser(jsonargparse.ArgumentParser):
    """An argument parser whose error is one message, with the nearest setting where one was misspelt."""

    def __init__(
        self, verb: str | None = None, summary: str = "", examples: str = "", **kwargs: Any
    ) -> None:
        if verb is None:  # jsonargparse makes one of the same class for each dataclass in a list
            super().__init__(**kwargs)
            return
        super().__init__(
            prog=f"stm {verb}",
            usage=f"stm {verb} [--option VALUE ...]",
            description=summary,
            epilog="examples:\n"
            + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines()),
            formatter_class=_Help,
            **kwargs,
        )

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print what is wrong, what was probably meant, and exit with status 2."""
        if not self.exit_on_error:  # the parser around this one tells it
            super().error(message, ex)
        tried = re.findall(
            r"(?:unrecognized arguments: |not expected: |Key )['\"]?(?:--)?([\w.]+)", message
        )
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for name in tried:
            near = difflib.get_close_matches(f"--{name}", known, n=1, cutoff=0.6)
            if near:
                message += f"\ndid you mean {near[0]} ?"
        print(f"{self.prog}: {message}\n{self.prog} --help lists every option", file=sys.stderr)
        sys.exit(2)


class _Help(jsonargparse.DefaultHelpFormatter):
    """Keeps the line breaks of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())


class ConfigFile(jsonargparse.ActionConfigFile):
    """``--config``: a YAML file, or the name of a recipe."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        super().__call__(parser, cfg, recipes.path_of(values), option_string)


def add_common(parser: Parser) -> None:
    """Add the options that every verb has: ``--json``, ``--verbose``, ``--quiet`` and ``--address``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout and nothing else there"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show every line of the log, and where it is from"
    )
    parser.add_argument("--quiet", action="store_true", help="show warnings alone, and the result")
    parser.add_argument(
        "--address",
        type=str | None,
        default=None,
        help="Ray cluster to use, such as `auto`; null uses $RAY_ADDRESS, else starts one on this machine",
    )


def add_root(parser: Parser) -> None:
    """Add ``--data.root``, as `stm train` calls it, or ``--root``; its value is ``args.root``."""
    parser.add_argument(
        "--root",
        "--data.root",
        type=str | None,
        default=None,
        help="folder or URL where the manifest's videos lie now, if they have moved, and that each must lie in; null "
        "takes the one they were indexed in",
    )


def add_model(parser: Parser) -> None:
    """Add ``--checkpoint`` (or ``--model``) and ``--tracking``, for verbs that take a registered model, too."""
    parser.add_argument(
        "--checkpoint",
        "--model",
        type=str,
        required=True,
        help="checkpoint, run directory for its best one, or a registered model: models:/NAME@champion",
    )
    parser.add_argument(
        "--tracking",
        type=str | None,
        default=None,
        help="MLflow server or database of a registered model; null uses $MLFLOW_TRACKING_URI, else runs/mlflow.db",
    )


def run_verb(
    build_parser: Callable[[], Parser],
    run: Callable[[Any], dict[str, Any]],
    argv: list[str] | None = None,
    show: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Parse ``argv``, call ``run``, print its result, return the exit status.

    Libraries that print do so on stderr: stdout belongs to the result alone, either the JSON object or what
    ``show`` makes of it.
    """
    parser = build_parser()
    try:
        args = parser.parse_args(
            argv
        )  # outside the redirection: --help and --print_config answer on stdout
        with _stdout_kept_for_the_result() as stdout, shown_by(PlainView(), _level(args)):
            result = run(args)
            if args.json:
                print(json.dumps(redacted(result)), file=stdout)
            elif show is not None:
                print(redact(show(result)), file=stdout)
        return 0
    except UserError as error:
        print(f"{parser.prog}: {redact(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{parser.prog}: interrupted; the same command continues where it was", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        return 0


@contextlib.contextmanager
def _stdout_kept_for_the_result() -> Iterator[Any]:
    """Point stdout at stderr, for libraries and child processes alike, and yield the real one.

    A cluster that was joined or started in between is left before stdout comes back: Ray's threads
    print to the end.
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
            sys.modules["ray"].shutdown()
        sys.stdout.flush()
        sys.stdout = python_stdout
        os.dup2(real, 1)
        os.close(real)


def _level(args: Any) -> int:
    """From which level on the log is shown."""
    verbose, quiet = args.get("verbose", False), args.get("quiet", False)
    if verbose and quiet:
        raise UserError("--verbose and --quiet: give one of them")
    return logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO


def _ray_is_up() -> bool:
    ray: Any = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


logger = get_logger("stm.cli")
say = logger.info
