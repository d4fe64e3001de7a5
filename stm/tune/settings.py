"""``sweep.yaml``: the search space, the search method and the budget.

name: lr-and-segments          # the same name continues a sweep; default: the name of the file
base: something-v2-t8          # a recipe or a file of settings; or sections of settings, after a `recipe:`
space:                         # any setting of `stm train`, see stm.tune.space
  optim.lr: loguniform(1e-4, 1e-1)
  data.num_segments: choice(4, 8, 16)
num_trials: 20                 # a grid has one trial per combination
searcher: optuna               # random, grid, optuna
scheduler: {name: asha, grace_epochs: 2, reduction_factor: 3}    # or fifo, asha, pbt
budget: {epochs: 12}           # or {clips: 1000000}: clips trained on, per trial
metric: val_top1               # or val_top5, val_loss
seed: 0                        # of the search; train.seed is that of the trials
max_concurrent: null           # trials at once; null is as many as fit
max_failures: 2                # restarts of a trial after crashes
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from stm.bounds import Bounds, Rule
from stm.config import Config, Count
from stm.tune.space import Domain


def _names_a_folder(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\'")


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """How trials are ended early."""

    name: Literal["fifo", "asha", "pbt"] = "fifo"
    """`fifo` ends no trials, `asha` ends poor ones, `pbt` replaces their weights by those of better ones."""

    grace_epochs: Annotated[int | None, Bounds(ge=1)] = None
    """`asha`: epochs before which no trial is ended; null is one validation."""

    reduction_factor: Annotated[int, Bounds(ge=2)] = 3
    """`asha`: one out of this many trials goes on after each rung."""

    perturb_epochs: Annotated[int | None, Bounds(ge=1)] = None
    """`pbt`: epochs between exchanges; null is a quarter of the budget."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a trial trains if it is not ended early; one of the two is set."""

    epochs: Annotated[int | None, Bounds(ge=1)] = None
    clips: Annotated[int | None, Bounds(ge=1)] = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A complete, checked sweep."""

    name: Annotated[
        str, Rule(_names_a_folder, "must be a directory name: no slashes, no quotes, not empty")
    ]
    base: Config
    space: dict[str, Domain]
    searcher: Literal["random", "grid", "optuna"] = "random"
    scheduler: Scheduler = field(default_factory=Scheduler)
    budget: Budget = field(default_factory=Budget)
    metric: Literal["val_top1", "val_top5", "val_loss"] = "val_top1"
    num_trials: Count = 8
    seed: Annotated[int, Bounds(ge=0, le=2**32 - 1)] = 0
    max_concurrent: Annotated[int | None, Bounds(ge=1)] = None
    max_failures: Annotated[int, Bounds(ge=0)] = 2

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if self.metric == "val_loss" else "max"

    def epochs(self, num_videos: int) -> int:
        """Return the epochs of a trial; a budget in clips is rounded up to whole epochs."""
        if self.budget.clips is not None:
            return max(1, -(-self.budget.clips // num_videos))
        return self.budget.epochs or self.base.optim.epochs

    def config_of(self, drawn: dict[str, Any], epochs: int) -> Config:
        """Return the settings of a trial. Raises ``UserError`` if they do not fit together."""
        values = self.base.to_dict()
        for name, domain in self.space.items():
            section, setting = name.split(".", 1)
            values[section][setting] = domain.value(drawn[name])
        values["optim"]["epochs"] = epochs
        values["train"]["validation"] = "inline"
        return Config.from_dict(values)

    def identity(self) -> dict[str, Any]:
        """Return the settings that must not change when a sweep is continued."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["base"] = self.base.to_dict()
        values["base"]["data"]["root"] = None  # the videos may have moved since
        values["space"] = {name: str(domain) for name, domain in self.space.items()}
        values["scheduler"] = vars(self.scheduler)
        values["budget"] = vars(self.budget)
        for free in ("max_failures", "max_concurrent"):
            del values[free]
        return values
