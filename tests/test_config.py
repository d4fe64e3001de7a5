"""Settings that cannot work are refused by name; the rest survives YAML."""

from __future__ import annotations

import pytest

from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from stm.errors import UserError


@pytest.mark.parametrize(
    ("make", "flag"),
    [
        (lambda: ModelConfig(depth=34), "model.depth 34"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout"),
        (lambda: ModelConfig(width=40), "model.width 40"),
        (lambda: ModelConfig(stages=[1, 2]), "model.stages"),
        (lambda: DataConfig(num_segments=0), "data.num_segments 0"),
        (lambda: DataConfig(size=8), "data.size 8"),
        (lambda: DataConfig(scales=[1.2]), "data.scales"),
        (lambda: DataConfig(max_bad_fraction=2), "data.max_bad_fraction"),
        (lambda: OptimConfig(lr=-1), "optim.lr -1"),
        (lambda: OptimConfig(lr=float("nan")), "optim.lr nan"),
        (lambda: OptimConfig(milestones=[40, 30]), "optim.milestones"),
        (lambda: OptimConfig(batch_size=0), "optim.batch_size"),
        (lambda: TrainConfig(num_workers=0), "train.num_workers"),
        (lambda: TrainConfig(name="a/b"), "train.name"),
        (lambda: TrainConfig(max_failures=-2), "train.max_failures"),
    ],
)
def test_an_impossible_value_is_refused_with_its_flag(make, flag):
    with pytest.raises(UserError, match=f"--{flag}"):
        make()


def test_a_batch_that_workers_cannot_share_is_refused_with_one_that_they_can():
    with pytest.raises(
        UserError, match=r"batch_size 10 .*num_workers 4: .*a multiple of 4, such as 8"
    ):
        Config(optim=OptimConfig(batch_size=10), train=TrainConfig(num_workers=4))


def test_a_config_comes_back_from_its_dict():
    config = Config(model=ModelConfig(variant="tsm", blocks=[0]), optim=OptimConfig(lr=0.5))
    assert Config.from_dict(config.to_dict()) == config


def test_the_defaults_are_the_papers_schedule_for_something_something():
    optim = OptimConfig()
    assert (optim.lr, optim.momentum, optim.weight_decay) == (0.01, 0.9, 5e-4)
    assert (optim.epochs, optim.milestones, optim.batch_size) == (50, [30, 40, 45], 64)
