"""Checks a sweep as a whole: its name, its search, its budget and its base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stm.bounds import broken
from stm.config import Config
from stm.errors import UserError
from stm.tune.located_yaml import Where
from stm.tune.settings import Sweep
from stm.tune.space import Domain, combinations

_MOST_CHECKED = 512
"""Combinations of a grid that are checked before the start; a larger grid is checked at its edges."""

# Settings that `pbt` may change during training: none that defines the network or the data, and
# none that the optimizer's state restores.
_PBT = (
    "optim.lr",
    "optim.label_smoothing",
    "optim.logit_adjustment",
    "optim.clip_grad_norm",
    "optim.mixup",
    "optim.cutmix",
    "model.dropout",
)


def check(sweep: Sweep, counts_trials: bool, at: Where) -> Sweep:
    """Return the sweep, with the number of trials of a grid. Raises ``UserError`` if the sweep is inconsistent."""

    def need(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise at.error((key,), rule)

    parts = {("scheduler",): sweep.scheduler, ("budget",): sweep.budget, (): sweep}
    for path, part in parts.items():
        for name, wrong in broken(part):
            raise at.error((*path, name), f"{getattr(part, name)!r}: {wrong}")
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
    sweep = _check_search(sweep, counts_trials, at)
    _check_networks(sweep, at)
    return sweep


def _check_search(sweep: Sweep, counts_trials: bool, at: Where) -> Sweep:
    for name, domain in sweep.space.items():
        if sweep.searcher == "grid" and not domain.is_list:
            ends = Domain("grid", tuple(domain.examples())).written
            raise at.error(
                ("space", name), f"{domain} has no end: a grid needs every value, as {ends}"
            )
        if sweep.searcher != "grid" and domain.kind == "grid":
            choice = replace(domain, kind="choice").written
            raise at.error(
                ("space", name), f"{domain} needs searcher: grid; or write {choice}, to draw from"
            )
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


def _check_networks(sweep: Sweep, at: Where) -> None:
    """Check every network in the search now: one that cannot be built would fail its trial hours later."""
    from stm.checkpoint.format import check_model
    from stm.checkpoint.pretrained import check_name
    from stm.train.checks import check_optimizer

    check_model(sweep.base)
    check_optimizer(sweep.base)
    for drawn, config in networks(sweep):
        try:
            check_name(config.model)
            check_model(config)
        except UserError as error:
            if not drawn:
                raise
            shown = ", ".join(f"{name} {value}" for name, value in drawn.items())
            raise at.error(("space", next(iter(drawn))), f"{shown}: {error}") from None


def networks(sweep: Sweep) -> Iterator[tuple[dict[str, Any], Config]]:
    """Yield the networks in the search: the drawn ``model.*`` settings, and a config that has them. Only lists are
    combined, up to a limit. If no ``model.*`` setting has a list, yield no settings and the base."""
    lists = {
        name: domain
        for name, domain in sweep.space.items()
        if name.startswith("model.") and domain.is_list
    }
    rest = {name: domain.examples()[0] for name, domain in sweep.space.items() if name not in lists}
    if not lists:
        yield {}, sweep.base
    for drawn in combinations(lists)[:_MOST_CHECKED] if lists else ():
        yield drawn, sweep.config_of(rest | drawn, 1)
