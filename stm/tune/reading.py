"""Reads ``sweep.yaml`` into a checked `Sweep`, so that errors are reported before anything starts."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from stm import recipes
from stm.config import Config
from stm.errors import UserError
from stm.tune.checking import check
from stm.tune.located_yaml import Where, load, near
from stm.tune.settings import Budget, Scheduler, Sweep
from stm.tune.space import Domain, parse_domain, proposals

FOLDER = Path(__file__).parent / "sweeps"

# The sweep sets these itself.
_TAKEN = {
    "train.name": "each trial has a name of its own",
    "train.storage": "all trials share the sweep's",
    "optim.epochs": "the budget sets it",
    "data.max_cpus": "it follows from the placement",
    "train.validation": "a sweep validates inside training",
}


def samples() -> list[str]:
    """Return the names of the sample sweeps in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(config: str) -> Path:
    """Return the file for ``--config CONFIG``: a file, else the sample of that name."""
    if os.path.isfile(config):
        return Path(config)
    if config in samples():
        return FOLDER / f"{config}.yaml"
    raise UserError(
        f"--config {config}: neither a file nor a sample sweep; samples are {', '.join(samples())}"
    )


def read_sweep(
    path: str | Path, name: str | None = None, changes: dict[str, Any] | None = None
) -> Sweep:
    """Read and check a sweep file. ``changes`` are settings of the base by dotted name, as YAML text or values.

    Raises ``UserError`` with file, line and field.
    """
    path = Path(path)
    return parse_sweep(path.read_text(), str(path), name or path.stem, name, changes or {})


def parse_sweep(
    text: str,
    where: str = "sweep.yaml",
    default_name: str = "sweep",
    name: str | None = None,
    changes: dict[str, Any] | None = None,
) -> Sweep:
    """As `read_sweep`, for text."""
    values, lines = load(text, where)
    at = Where(where, lines)
    known = [f.name for f in fields(Sweep)]
    for key in values:
        if key not in known:
            raise at.error((key,), f"there is no {key!r}{near(key, known)}; a sweep has {known}")
    for key in ("base", "space"):
        if key not in values:
            raise UserError(f"{where}: {key!r} is missing")
    base = _read_base(values["base"], at, changes or {})
    given: dict[str, Any] = {
        "name": name or values.get("name") or default_name,
        "space": _read_space(values["space"], base, at),
        "scheduler": _read_section(Scheduler, "scheduler", values.get("scheduler"), at),
        "budget": _read_section(Budget, "budget", values.get("budget"), at),
    }
    sweep = Sweep(**{**values, **given, "base": base})
    return check(sweep, "num_trials" in values, at)


# ---------------------------------------------------------------------- the parts


def _read_base(given: Any, at: Where, changes: dict[str, Any]) -> Config:
    if isinstance(given, str):
        given = {"recipe": given}
    if not isinstance(given, dict):
        raise at.error(("base",), "is a recipe, a file, or settings in sections (model, data, ...)")
    given = {key: dict(value) if isinstance(value, dict) else value for key, value in given.items()}
    if "recipe" in given:
        given = _merged(_read_settings(given.pop("recipe"), at), given)
    for dotted, value in changes.items():
        section, _, setting = dotted.partition(".")
        given.setdefault(section, {})[setting] = value
    return _settings(given, lambda message: at.error(("base",), message))


def _read_settings(recipe: Any, at: Where) -> dict[str, Any]:
    """Read settings from a file beside the sweep file, else in the working directory, else from a recipe."""
    import yaml

    beside = Path(at.file).parent / str(recipe)
    try:
        path = beside if beside.is_file() else Path(recipes.path_of(str(recipe)))
        values = yaml.safe_load(path.read_text())
    except (UserError, OSError, yaml.YAMLError) as error:
        raise at.error(("base",), str(error)) from None
    if not isinstance(values, dict):
        raise at.error(("base",), f"{path} holds no settings")
    return values


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        section: {**(values.get(section) or {}), **given}
        if isinstance(given := changes.get(section, {}), dict)
        else given
        for section in dict.fromkeys([*values, *changes])
    }


@functools.cache
def _parser() -> Any:
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    return parser


def _settings(values: dict[str, Any], error: Any) -> Config:
    """Build a `Config` from plain values, with the type checks of the command line."""
    import jsonargparse

    parser = _parser()
    for section, given in values.items():
        if not isinstance(given, dict):
            raise error(f"{section}: is a section of settings, not {given!r}")
    try:
        made = parser.instantiate(parser.parse_object(values))
        return Config(**{f.name: made[f.name] for f in fields(Config)})
    except UserError as problem:
        raise error(str(problem)) from None
    except (jsonargparse.ArgumentError, TypeError, ValueError) as problem:
        raise error(" ".join(str(problem).split())) from None


def _read_space(given: Any, base: Config, at: Where) -> dict[str, Domain]:
    if not isinstance(given, dict) or not given:
        raise at.error(("space",), "is empty: name at least one setting, as optim.lr: choice(...)")
    values = base.to_dict()
    known = [f"{section}.{key}" for section, inner in values.items() for key in inner]
    space = {}
    for name, expression in given.items():
        here = ("space", str(name))
        if name in _TAKEN:
            raise at.error(here, f"cannot be searched: {_TAKEN[name]}")
        if name not in known:
            raise at.error(here, f"there is no such setting{near(str(name), known)}")
        try:
            space[name] = _tried(parse_domain(expression), name, values)
        except UserError as error:
            better = _proposed(expression, name, values)
            raise at.error(here, f"{error}{better and f'; write {better}, for example'}") from None
    return space


def _tried(domain: Domain, name: str, values: dict[str, Any]) -> Domain:
    """Return ``domain``. Raises ``UserError`` if the setting ``name`` cannot have one of its values."""
    section, setting = name.split(".", 1)
    for example in domain.examples():
        _settings({**values, section: {**values[section], setting: example}}, UserError)
    return domain


def _proposed(expression: object, name: str, values: dict[str, Any]) -> str:
    """Return a valid expression to suggest in place of ``expression``; "" if none is found."""
    section, setting = name.split(".", 1)
    for domain in proposals(expression, values[section][setting]):
        with contextlib.suppress(UserError):
            return _tried(parse_domain(domain.written), name, values).written
    return ""


def _read_section(section: Any, key: str, given: Any, at: Where) -> Any:
    if given is None:
        return section()
    if isinstance(given, str) and section is Scheduler:
        given = {"name": given}
    if not isinstance(given, dict):
        raise at.error((key,), f"is a section of settings, not {given!r}")
    known = [f.name for f in fields(section)]
    for inner in given:
        if inner not in known:
            raise at.error((key, inner), f"there is no such setting{near(inner, known)}")
    return section(**given)
