"""Turn the words of a command line into the arguments of a verb's function, with messages for wrong words.

A name may have underscores or hyphens. Its value follows a blank or a ``=``, and is never changed. A list is several
words, ``1 2``, or one, ``[1, 2]``. A switch has no value, or ``true`` or ``false``.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import jsonargparse

from pipelines.options import SHARED, Options, described, is_list
from stm import recipes
from stm.errors import UserError
from stm.storage import is_url
from stm.tune.located_yaml import Where, load

_SWITCH = ("true", "false", "yes", "no", "on", "off", "null")
_ALONE = ("help", "print_config")
_AFTER = "; the command must follow a --"


@dataclass(frozen=True)
class Call:
    """A verb's function and its checked arguments."""

    options: Options
    given: list[tuple[str, str | None]]
    """Options and their values as text, in the order of the command line."""
    keywords: dict[str, Any]
    rest: list[str]
    json: bool
    verbose: bool
    quiet: bool
    plugin: str | None
    """File to run before the verb's function."""
    notes: list[str]
    """Warnings for the user that do not stop the verb."""

    def __call__(self) -> dict[str, Any]:
        if self.plugin is not None:
            from stm.model import plugins

            plugins.load(self.plugin)
        words = [self.keywords.pop(name) for name in self.options.words]
        return self.options.function(*words, *self.rest, **self.keywords)


def read(options: Options, argv: list[str]) -> Call:
    """Return the call that ``argv`` describes; exit with 0 after ``--help`` or ``--print_config``.

    Raises ``UserError``, which names the option, its value, and what is allowed.
    """
    given, loose, rest = _split(options, list(argv))
    files = [value for name, value in given if name == "config" and options.has_files]
    located = {value: _check_file(options, value) for value in files}
    # Files first, so that options on the command line override them in any position.
    ordered = sorted(given, key=lambda pair: pair[0] != "config")
    words = [
        f"--{name}" + ("" if value is None else f"={located.get(value, value)}")
        for name, value in ordered
    ]
    try:
        parsed = options.parser.parse_args([*words, *(["--", *loose] if loose else [])])
    except jsonargparse.ArgumentError as error:
        raise _complaint(options, given, loose) or UserError(_last_resort(error)) from None
    shared = {name: parsed[name] for name in SHARED}
    return Call(
        options,
        given,
        options.keywords(parsed, dict(given)),
        rest,
        plugin=parsed.get("plugin"),
        notes=_twice(given),
        **shared,
    )


# ---------------------------------------------------------------------- the words


def _split(
    options: Options, words: list[str]
) -> tuple[list[tuple[str, str | None]], list[str], list[str]]:
    """Return the pairs (option, value) in their order, the words without an option, and those after a ``--``."""
    given: list[tuple[str, str | None]] = []
    loose: list[str] = []
    rest: list[str] = []
    known = _names(options)
    while words:
        word = words.pop(0)
        if word == "--":
            rest = words
            break
        if word == "-h":
            word = "--help"
        if not _is_option(word):
            loose.append(word)
            continue
        spelt, equals, value = word.partition("=")
        name = known.get(spelt.lstrip("-").replace("-", "_"))
        if name is None or not spelt.startswith("--"):
            hint = _near(options, spelt) or _AFTER * bool(options.rest)
            raise UserError(f"there is no option {spelt}{hint}")
        if name in _ALONE:
            given.append((name, value if equals else None))
        else:
            given.append((name, value if equals else _value(options, spelt, name, words)))
    if any(name == "help" for name, _ in given):
        return [("help", None)], [], []
    if rest and not options.rest:
        loose, rest = [*loose, *rest], []
    many = bool(options.words) and is_list(options.types[options.words[-1]])
    if len(loose) > len(options.words) and not many:
        extra = loose[len(options.words)]
        hint = _near(options, extra.partition("=")[0]) if "=" in extra else ""
        raise UserError(f"{extra!r} belongs to no option{hint or _AFTER * bool(options.rest)}")
    return [(name, _as_list(options, name, value)) for name, value in given], loose, rest


def _names(options: Options) -> dict[str, str]:
    """Return the option of every accepted name."""
    found = {}
    for spelt, action in options.parser._option_string_actions.items():
        if spelt.startswith("--") and not spelt.startswith("--print_shtab"):
            found[spelt[2:]] = action.dest + ("+" if spelt.endswith("+") else "")
    return found


def _is_option(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _value(options: Options, spelt: str, name: str, words: list[str]) -> str:
    """Take the value of an option, one or more words, from the front of ``words``."""
    hint = options.types.get(name)
    if hint is bool or bool in get_args(hint):
        follows = bool(words) and not _is_option(words[0])
        # If the verb has no positional arguments, the next word can only be the value.
        own = follows and (not options.words or words[0].lower() in _SWITCH)
        return words.pop(0) if own else "true"
    if not words or _is_option(words[0]):
        after = f"{words[0]} is an option" if words else "the line ends"
        trick = f" (a value that begins with - is written {spelt}={words[0]})" if words else ""
        raise UserError(f"{spelt} has no value: {after}{trick}; {_must(hint, None)}")
    taken = [words.pop(0)]
    while is_list(hint) and words and not _is_option(words[0]):
        taken.append(words.pop(0))
    return taken[0] if len(taken) == 1 else _listed(hint, taken)


def _as_list(options: Options, name: str, value: str | None) -> str | None:
    """Return ``[a]`` for a single ``a`` if the option is a list."""
    hint = options.types.get(name)
    if not is_list(hint) or not value or value == "null":
        return value
    if value[0] == "[" and (value[-1] == "]" or _item(hint) is not str):
        return value
    return _listed(hint, [value])


def _listed(hint: Any, words: list[str]) -> str:
    """Return the words as a YAML list, with text unchanged."""
    return json.dumps(words) if _item(hint) is str else f"[{', '.join(words)}]"


def _item(hint: Any) -> Any:
    """Return the type of the items of a list type, or of a list or null."""
    return next(get_args(each)[0] for each in (hint, *get_args(hint)) if get_origin(each) is list)


def _twice(given: list[tuple[str, str | None]]) -> list[str]:
    values: dict[str, list[str | None]] = {}
    for name, value in given:
        if name != "config" and not name.endswith("+"):
            values.setdefault(name, []).append(value)
    return [
        f"--{name} is given {len(each)} times; the last one counts: {each[-1]}"
        for name, each in values.items()
        if len(set(each)) > 1
    ]


# ---------------------------------------------------------------------- messages


def _near(options: Options, spelt: str, dashes: str = "--") -> str:
    """Return a hint at options whose last part is the same, begins with the same letters, or is similar."""
    tried = spelt.lstrip("-").replace("-", "_").lower()
    last = tried.rpartition(".")[2]
    names = [name for name in _names(options) if name not in _ALONE and not name.endswith("+")]
    ends = {name: name.rpartition(".")[2] for name in names}
    found = (
        [name for name, end in ends.items() if end == last]
        or [name for name in names if tried and name.startswith(tried)]
        or difflib.get_close_matches(tried, names, n=1, cutoff=0.75)
        or [name for name, end in ends.items() if last and end.startswith(last)]
        or _alike(last, ends)
        or difflib.get_close_matches(tried, names, n=1)
    )
    return f"; did you mean {' or '.join(dashes + name for name in found[:3])}?" if found else ""


def _alike(last: str, ends: dict[str, str]) -> list[str]:
    near = difflib.get_close_matches(last, set(ends.values()), n=1, cutoff=0.7)
    return [name for name, end in ends.items() if end in near]


def _complaint(
    options: Options, given: list[tuple[str, str | None]], loose: list[str]
) -> UserError | None:
    """Return the error for the first wrong value, or None if all values can be read."""
    for name, value in given:
        plain = name.removesuffix("+")
        hint = options.types.get(plain)
        if value is None or (name == "config" and options.has_files):
            continue
        if hint is None:  # a section, as --optim '{lr: 0.1}'
            _check_section(options, name, value)
        elif not _fits(hint, value, append=plain != name):
            return _wrong(f"--{plain}", value, hint)
    for place, name in enumerate(options.words):
        hint = options.types[name]
        each = get_args(hint)[0] if is_list(hint) else hint
        for value in loose[place:] if is_list(hint) else loose[place : place + 1]:
            if not _fits(each, value):
                return _wrong(name, value, each)
    told = {name for name, _ in given} | set(options.words[: len(loose)])
    for action in options.parser._actions:
        if action.dest in options.required - told:
            spelt = f"--{action.dest}" if action.option_strings else action.dest.upper()
            return UserError(f"{spelt} is missing: {action.help}")
    return None


def _fits(hint: Any, value: Any, append: bool = False) -> bool:
    """Return whether a value, as text or read from YAML, has that type."""
    probe = jsonargparse.ArgumentParser(exit_on_error=False)
    probe.add_argument("--x", type=hint)
    try:
        if isinstance(value, str):
            probe.parse_args([f"--x{'+' * append}={value}"])
        else:
            probe.parse_object({"x": value})
    except jsonargparse.ArgumentError:
        return False
    return True


def _wrong(name: str, value: Any, hint: Any) -> UserError:
    shown = value if isinstance(value, str) and value.strip() else repr(value)
    return UserError(f"{name} {shown}: {_must(hint, value)}")


def _must(hint: Any, value: Any) -> str:
    said = f"it must be {described(hint)}" if value is None else f"must be {described(hint)}"
    near = difflib.get_close_matches(str(value), list(_choices(hint)), n=1)
    return said + (f"; did you mean {near[0]}?" if near else "")


def _choices(hint: Any) -> Iterator[str]:
    for each in (hint, *get_args(hint)):
        if get_origin(each) is Literal:
            yield from map(str, get_args(each))


def _last_resort(error: Exception) -> str:
    """Return the parser's own message in one line, for errors that `_complaint` does not find."""
    return "these options cannot be read: " + " ".join(str(error).split())


# ---------------------------------------------------------------------- files of settings


def _check_file(options: Options, value: str | None) -> str:
    """Check the settings of the file that ``--config VALUE`` names, and return its path or the YAML text."""
    if not value:
        raise UserError("--config '': name a YAML file or a recipe")
    if is_url(value):
        raise UserError(f"--config {value}: settings are read only from files on this machine")
    if os.path.isdir(value) and value not in recipes.names():
        raise UserError(f"--config {value}: is a folder; name a YAML file in it, or a recipe")
    path = recipes.path_of(value)
    _check_text(options, path, f"--config {value}")
    return path


def _check_section(options: Options, name: str, value: str) -> None:
    """Check a section that is given as a whole, as in ``--optim '{lr: 0.1}'`` or ``--optim optim.yaml``."""
    if not os.path.isfile(value) and "{" not in value:
        raise UserError(
            f"--{name} {value}: must be a YAML file of settings, or settings as '{{NAME: VALUE}}'"
        )
    _check_text(options, value, f"--{name} {value}", f"{name}.")


def _check_text(options: Options, value: str, option: str, prefix: str = "") -> None:
    """Raise ``UserError`` for the first wrong setting of a YAML file, or of YAML text."""
    text, where = value, option.partition(" ")[0]
    if os.path.isfile(value):
        where = value
        try:
            text = Path(value).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise UserError(f"{option}: cannot be read: {reason}") from None
    values, lines = load(text, where, "must be a mapping of settings, as optim: {lr: 0.02}")
    at = Where(where, lines if where == value else {})
    for path, setting in _leaves(options, values, prefix):
        name = prefix + ".".join(path)
        hint = options.types.get(name)
        if hint is None and any(known.startswith(f"{name}.") for known in options.types):
            raise at.error(path, f"is a section, and {setting!r} contains no settings")
        if hint is None:
            raise at.error(path, f"there is no such setting{_near(options, name, '')}")
        if not _fits(hint, setting):
            raise at.error(path, f"{setting!r} {_must(hint, setting)}")


def _leaves(
    options: Options, values: Any, prefix: str, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and value of every setting, in all sections."""
    for key, value in values.items():
        here = (*path, str(key))
        name = prefix + ".".join(here)
        if name in options.types or not isinstance(value, dict):
            yield here, value
        else:
            yield from _leaves(options, value, prefix, here)
