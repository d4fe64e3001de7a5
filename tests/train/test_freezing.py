"""What is frozen has no gradient and keeps its statistics, whatever it meets; the rest trains."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stm.config import OptimConfig, ParameterGroup
from stm.errors import UserError
from stm.model import build_model, registry
from stm.train.freezing import freeze, keep_still
from tests.train.ranks import on_ranks
from tests.train.test_pairs import batch_of, built, config_of, kept, stepped

FROZEN = {
    "a scale of 0": (
        {"groups": [{"match": r"^(conv1|bn1|layer[12])\b", "lr_scale": 0}]},
        ("conv1", "bn1", "layer1", "layer2"),
    ),
    "stages": ({"freeze": ["stem", "layer1", "layer2"]}, ("conv1", "bn1", "layer1", "layer2")),
    "a module": ({"freeze": ["layer3.0.cmm"]}, ("layer3.0.cmm",)),
    "all but the classifier": ({"groups": [{"match": r"^(?!fc\.)", "lr_scale": 0}]}, ("conv1", "bn1", "layer")),
}  # fmt: skip


def network(variant="stm"):
    torch.manual_seed(0)
    return build_model(variant, 26, 5, width=16, dropout=0.0)


def state_of(replica):
    return {name: value.clone() for name, value in replica.shipped.state_dict().items()}


@pytest.mark.parametrize("sort", FROZEN)
@pytest.mark.parametrize(
    "others", [(), ("checkpointing", "ema"), ("sync_batchnorm", "adamw"), ("mixup", "accumulate")]
)
def test_what_is_frozen_stays_equal_to_the_bit_and_the_rest_moves(sort, others):
    settings, prefixes = FROZEN[sort]
    replica = built(config_of(others, **settings))
    before = state_of(replica)
    stepped(replica, [1, 2, 3])
    for name, value in replica.shipped.state_dict().items():
        still = torch.equal(value, before[name])
        assert still is name.startswith(prefixes), name


def test_what_is_frozen_takes_no_gradient_and_no_state_of_the_optimizer():
    model = network()
    still = freeze(model, OptimConfig(freeze=["stem", "layer1", "layer2"]))
    model.train()
    keep_still(still)
    model(torch.randn(2, 4, 3, 32, 32)).sum().backward()
    grads = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert grads == {
        name for name, _ in model.named_parameters() if name.startswith(("layer3", "layer4", "fc"))
    }
    replica = built(config_of(["adamw"], freeze=["stem", "layer1", "layer2"]))
    stepped(replica, [1])
    assert len(replica.state()["optimizer"]["state"]) == len(grads)


@pytest.mark.parametrize("variant", registry.names())
def test_partial_bn_freezes_resnets_normalisation_but_the_first(variant):
    model = network(variant)
    still = freeze(model, OptimConfig(partial_bn=True))
    names = {id(module): name for name, module in model.named_modules()}
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    expected = [name for name in norms if name != "bn1" and ".cmm." not in name]
    assert [names[id(module)] for module in still] == expected
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {n for n, _ in model.named_parameters()} - trains == {
        f"{name}.{own}" for name in expected for own in ("weight", "bias")
    }


def test_a_normalisation_that_is_partly_frozen_keeps_counting():
    model = network()
    config = OptimConfig(groups=[ParameterGroup(match=r"^bn1\.bias$", lr_scale=0)])
    assert freeze(model, config) == []
    assert not model.bn1.bias.requires_grad
    assert model.bn1.weight.requires_grad


def test_a_state_with_momentum_of_frozen_weights_still_loads(tmp_path):
    """Checkpoints were once written with a gradient, times a rate of 0, of every frozen weight."""
    settings, prefixes = FROZEN["a scale of 0"]
    open_config = config_of([], groups=[{"match": r"^(conv1|bn1|layer[12])\b", "lr_scale": 1e-9}])
    older = built(open_config)
    stepped(older, [1])
    config = config_of([], **settings)
    replica = built(config, kept(older, config, tmp_path / "checkpoint"))
    before = state_of(replica)
    stepped(replica, [2])
    now = replica.shipped.state_dict()
    assert all(torch.equal(now[n], before[n]) is n.startswith(prefixes) for n in now)


@pytest.mark.parametrize("name", ["layer9", "", "relu", "layer1.7", "conv"])
def test_a_part_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(UserError, match=r"its parts are stem, conv1, bn1, layer1, .*fc") as error:
        freeze(network(), OptimConfig(freeze=[name]))
    assert f"--optim.freeze {name!r}" in str(error.value)


def test_a_network_with_nothing_left_to_train_is_refused():
    with pytest.raises(UserError, match="freeze the whole network: leave at least fc"):
        freeze(network(), OptimConfig(groups=[ParameterGroup(match="", lr_scale=0)]))


def one_rank(rank):
    for others in ((), ("sync_batchnorm", "checkpointing"), ("ema", "adamw")):
        for sort, (settings, prefixes) in FROZEN.items():
            replica = built(config_of(others, workers=2, **settings), world_size=2)
            before = state_of(replica)
            for number, weights in enumerate([(1, 1, 0, 1), (0,) * 4 if rank else (1,) * 4]):
                replica.step(batch_of(2 * number + rank, weights), 0.01, seed=rank)
            for name, value in replica.shipped.state_dict().items():
                if name.startswith(prefixes):
                    assert torch.equal(value, before[name]), f"{sort}, {others}: {name}"
            fc = replica.shipped.fc.weight.detach()
            assert not torch.equal(fc, before["fc.weight"])
            theirs = [torch.empty_like(fc) for _ in range(2)]
            dist.all_gather(theirs, fc)
            assert torch.equal(*theirs)


@pytest.mark.long
def test_what_is_frozen_stays_equal_on_two_workers(tmp_path):
    """One of the two has nothing to learn from in the second step."""
    on_ranks(2, tmp_path, one_rank)
