"""``sweep.yaml``: what is searched, how, and for how long; read and checked before anything starts.

name: lr-and-segments          # the same name continues; the file's name by default
base: something-v2-t8          # a recipe or a file of settings; or settings in sections, after such a `recipe:`
space:                         # any setting of `stm train`, see stm.tune.space
  optim.lr: loguniform(1e-4, 1e-1)
  data.num_segments: choice(4, 8, 16)
num_trials: 20                 # a grid has as many as it has combinations
searcher: optuna               # random, grid, optuna
scheduler: {name: asha, grace_epochs: 2, reduction_factor: 3}    # or fifo, asha, pbt
budget: {epochs: 12}           # or {clips: 1000000}: clips trained on, of each trial
metric: val_top1               # or val_top5, val_loss
seed: 0                        # of the search; train.seed is the trials'
max_concurrent: null           # trials at once; null is as many as fit
max_failures: 2                # times that a trial is started again after a crash
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from stm import recipes
from stm.config import Config
from stm.errors import UserError
from stm.tune.space import Domain, combinations, parse_domain

FOLDER = Path(__file__).parent / "sweeps"

_MOST_CHECKED = 512
"""Combinations of a grid that are checked before the start; a larger one is checked at its edges."""

# The sweep sets these itself.
_TAKEN = {
    "train.name": "each trial has a name of its own",
    "train.storage": "all trials share the sweep's",
    "optim.epochs": "the budget sets it",
    "data.max_cpus": "it follows from the placement",
    "train.validation": "a sweep validates inside training",
}
# What may change in the middle of a training without making it another: nothing that shapes the
# network or the data, and nothing that the optimizer's state brings back.
_PBT = (
    "optim.lr",
    "optim.label_smoothing",
    "optim.clip_grad_norm",
    "optim.mixup",
    "optim.cutmix",
    "model.dropout",
)


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Which trials are ended early."""

    name: Literal["fifo", "asha", "pbt"] = "fifo"
    """`fifo` ends none, `asha` ends those that fall behind, `pbt` has them take over a better one's weights."""

    grace_epochs: int | None = None
    """Epochs before which no trial is ended, `asha`; null is one validation."""

    reduction_factor: int = 3
    """Of so many trials that reach a rung, one goes on, `asha`."""

    perturb_epochs: int | None = None
    """Epochs between the exchanges of `pbt`; null is a quarter of the budget."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a trial trains that is not ended early; one of the two."""

    epochs: int | None = None
    clips: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A whole sweep, checked."""

    name: str
    base: Config
    space: dict[str, Domain]
    searcher: Literal["random", "grid", "optuna"] = "random"
    scheduler: Scheduler = field(default_factory=Scheduler)
    budget: Budget = field(default_factory=Budget)
    metric: Literal["val_top1", "val_top5", "val_loss"] = "val_top1"
    num_trials: int = 8
    seed: int = 0
    max_concurrent: int | None = None
    max_failures: int = 2

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if self.metric == "val_loss" else "max"

    def epochs(self, num_videos: int) -> int:
        """Epochs of a trial; a budget in clips ends with the epoch in which it is reached."""
        if self.budget.clips is not None:
            return max(1, -(-self.budget.clips // num_videos))
        return self.budget.epochs or self.base.optim.epochs

    def config_of(self, drawn: dict[str, Any], epochs: int) -> Config:
        """The settings of a trial. Raises ``UserError`` where they do not fit together."""
        values = self.base.to_dict()
        for name, domain in self.space.items():
            section, setting = name.split(".", 1)
            values[section][setting] = domain.value(drawn[name])
        values["optim"]["epochs"] = epochs
        values["train"]["validation"] = "inline"
        return Config.from_dict(values)

    def identity(self) -> dict[str, Any]:
        """What a sweep that is continued must have in common with its beginning."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["base"] = self.base.to_dict()
        values["space"] = {name: str(domain) for name, domain in self.space.items()}
        values["scheduler"] = vars(self.scheduler)
        values["budget"] = vars(self.budget)
        for free in ("max_failures", "max_concurrent"):
            del values[free]
        return values


def samples() -> list[str]:
    """Sweeps that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(config: str) -> Path:
    """The file that ``--config CONFIG`` means: a file, else a sample of that name."""
    if Path(config).is_file():
        return Path(config)
    if config in samples():
        return FOLDER / f"{config}.yaml"
    raise UserError(
        f"--config {config}: neither a file nor a sample sweep; samples are {', '.join(samples())}"
    )


def read_sweep(
    path: str | Path, name: str | None = None, changes: dict[str, Any] | None = None
) -> Sweep:
    """The sweep of a file, checked. ``changes`` are settings of the base, by dotted name, as YAML text or values.

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
    """`read_sweep` of text."""
    values, lines = _load(text, where)
    at = _Where(where, lines)
    known = [f.name for f in fields(Sweep)]
    for key in values:
        if key not in known:
            raise at.error((key,), f"there is no {key!r}{_near(key, known)}; a sweep has {known}")
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
    for key in ("searcher", "metric", "num_trials", "seed", "max_concurrent", "max_failures"):
        if key in values:
            given[key] = values[key]
    sweep = Sweep(base=base, **given)
    return _check(sweep, "num_trials" in values, at)


# ---------------------------------------------------------------------- the parts


def _read_base(given: Any, at: _Where, changes: dict[str, Any]) -> Config:
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


def _read_settings(recipe: Any, at: _Where) -> dict[str, Any]:
    import yaml

    try:
        path = Path(recipes.path_of(str(recipe)))
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


def _settings(values: dict[str, Any], error: Any) -> Config:
    """A `Config` of plain values, with the checks of types that the command line makes."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
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


def _read_space(given: Any, base: Config, at: _Where) -> dict[str, Domain]:
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
            raise at.error(here, f"there is no such setting{_near(str(name), known)}")
        try:
            domain = space[name] = parse_domain(expression)
        except UserError as error:
            raise at.error(here, str(error)) from None
        section, setting = name.split(".", 1)
        for example in domain.examples():
            tried = {**values, section: {**values[section], setting: example}}
            _settings(tried, lambda message, here=here: at.error(here, message))
    return space


def _read_section(section: Any, key: str, given: Any, at: _Where) -> Any:
    if given is None:
        return section()
    if isinstance(given, str) and section is Scheduler:
        given = {"name": given}
    if not isinstance(given, dict):
        raise at.error((key,), f"is a section of settings, not {given!r}")
    known = [f.name for f in fields(section)]
    for inner, value in given.items():
        if inner not in known:
            raise at.error((key, inner), f"there is no such setting{_near(inner, known)}")
        if inner != "name" and value is not None and (type(value) is not int or value < 1):
            raise at.error((key, inner), f"{value!r} must be a whole number, at least 1")
    return section(**given)


def _check(sweep: Sweep, counts_trials: bool, at: _Where) -> Sweep:
    def need(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise at.error((key,), rule)

    def whole(value: Any, least: int) -> bool:
        return type(value) is int and value >= least

    need(
        isinstance(sweep.name, str)
        and sweep.name not in ("", ".", "..")
        and not set(sweep.name) & set("/\\'"),
        "name",
        f"{sweep.name!r} is a directory name: no slashes, no quotes, not empty",
    )
    for key, choices in (
        ("searcher", ("random", "grid", "optuna")),
        ("metric", ("val_top1", "val_top5", "val_loss")),
    ):
        value = getattr(sweep, key)
        need(value in choices, key, f"{value!r} is none of {', '.join(choices)}")
    scheduler = sweep.scheduler
    need(
        scheduler.name in ("fifo", "asha", "pbt"),
        "scheduler",
        f"{scheduler.name!r} is none of fifo, asha, pbt",
    )
    need(scheduler.reduction_factor >= 2, "scheduler", "reduction_factor must be at least 2")
    need(whole(sweep.num_trials, 1), "num_trials", "must be a whole number, at least 1")
    need(whole(sweep.seed, 0), "seed", "must be a whole number, not negative")
    need(
        sweep.max_concurrent is None or whole(sweep.max_concurrent, 1),
        "max_concurrent",
        "must be a whole number, at least 1, or null",
    )
    need(whole(sweep.max_failures, 0), "max_failures", "must be a whole number, not negative")
    need(
        sweep.budget.epochs is None or sweep.budget.clips is None,
        "budget",
        "is in epochs or in clips, not both",
    )
    need(sweep.base.data.train is not None, "base", "data.train is not set: a manifest to train on")
    need(
        sweep.base.data.val is not None,
        "base",
        "data.val is not set: trials are compared by validation, so a sweep needs a manifest for it",
    )
    need(
        sweep.base.train.validation != "async",
        "base",
        "train.validation async: a sweep decides at the end of an epoch, so validation is inline",
    )
    return _check_search(sweep, counts_trials, at)


def _check_search(sweep: Sweep, counts_trials: bool, at: _Where) -> Sweep:
    for name, domain in sweep.space.items():
        if sweep.searcher == "grid" and not domain.is_list:
            raise at.error(("space", name), f"{domain} has no end: a grid needs grid(a, b, ...)")
        if sweep.searcher != "grid" and domain.kind == "grid":
            raise at.error(("space", name), "grid(...) needs searcher: grid; or write choice(...)")
        if sweep.scheduler.name == "pbt" and name not in _PBT:
            raise at.error(
                ("space", name), f"pbt changes settings during training: it can search {_PBT}"
            )
    if sweep.scheduler.name == "pbt" and sweep.searcher != "random":
        raise at.error(("searcher",), "pbt is a searcher itself: it starts from random settings")
    if sweep.searcher == "grid":
        every = combinations(sweep.space)
        if counts_trials and sweep.num_trials != len(every):
            raise at.error(
                ("num_trials",),
                f"{sweep.num_trials}, but the grid has {len(every)} combinations: leave it out",
            )
        sweep = replace(sweep, num_trials=len(every))
        for drawn in every[:_MOST_CHECKED]:
            try:
                sweep.config_of(drawn, 1)
            except UserError as error:
                raise at.error(("space",), f"{drawn}: {error}") from None
    return sweep


# ---------------------------------------------------------------------- YAML with line numbers


@dataclass(frozen=True)
class _Where:
    """Makes errors that name file, line and field."""

    file: str
    lines: dict[tuple[str, ...], int]

    def error(self, field_path: tuple[str, ...], message: str) -> UserError:
        line = self.lines.get(field_path) or self.lines.get(field_path[:1])
        place = f"{self.file}:{line}" if line else self.file
        return UserError(f"{place}: {'.'.join(field_path)}: {message}")


def _load(text: str, where: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    import yaml

    lines: dict[tuple[str, ...], int] = {}

    def visit(node: Any, path: tuple[str, ...]) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            inner = (*path, str(key.value))
            line = key.start_mark.line + 1
            if inner in lines:
                raise UserError(f"{where}:{line}: {'.'.join(inner)}: is given twice")
            lines[inner] = line
            visit(value, inner)

    try:
        visit(yaml.compose(text, Loader=yaml.SafeLoader), ())
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: a sweep is a mapping: name, base, space, ...")
    return values, lines


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""
