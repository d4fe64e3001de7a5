"""GPUs that are too few for all networks are not left unused in silence."""

from __future__ import annotations

import pytest

from stm import cluster
from stm.config import Config, TrainConfig
from stm.serve import app
from tests.logged import logged


@pytest.mark.parametrize(
    ("gpus", "number", "uses", "said"),
    [
        (0.0, 2, False, []),
        (2.0, 2, True, []),
        (1.0, 2, False, ["has 1 GPU, fewer than -n 2, so all of the 2 run on CPUs; -n 1 would use it"]),
        (3.0, 4, False, ["has 3 GPUs, fewer than -n 4, so all of the 4 run on CPUs; -n 3 would use them"]),
    ],
)  # fmt: skip
def test_gpus_that_are_too_few_stay_unused_with_a_warning(gpus, number, uses, said):
    with logged() as lines:
        assert cluster.gpu_for_each(gpus, number, "-n") is uses
    assert lines == [f"the cluster {line}" for line in said]


@pytest.mark.parametrize(("gpus", "named"), [(0.0, 0), (1.0, 1), (2.0, 0)])
def test_a_server_warns_of_gpus_that_its_networks_cannot_share(gpus, named):
    with logged() as lines:
        assert app._require_room({"CPU": 4.0, "GPU": gpus}, 2, 1) == int(gpus == 2)
    assert len(lines) == named


@pytest.mark.parametrize(("gpus", "named"), [(0.0, 0), (1.0, 1), (2.0, 0)])
def test_so_does_a_training_that_may_choose(gpus, named):
    with logged() as lines:
        placed = cluster._placement(Config(train=TrainConfig(num_workers=2)), gpus)
    assert placed.use_gpu is (gpus == 2)
    assert len([line for line in lines if "--train.num_workers 1 would use it" in line]) == named
    with logged() as lines:
        cluster._placement(Config(train=TrainConfig(num_workers=2, use_gpu=False)), gpus)
    assert not lines
