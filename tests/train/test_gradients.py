"""One arithmetic: a global batch has one gradient, on however many workers and in however many parts it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from stm.config import OptimConfig, ParameterGroup
from stm.errors import UserError
from stm.model import build_model
from stm.model.sync_batchnorm import SyncBatchNorm2d, count_batch, synchronise_batchnorm
from stm.train.optim import build_optimizer, parameter_groups, set_learning_rate
from stm.train.step import Batch, gradients
from tests.train.ranks import on_ranks

GLOBAL_BATCH = 8


def network():
    torch.manual_seed(0)
    return build_model("stm", 26, 5, width=16, dropout=0.0)


def global_batch():
    """Eight clips, of which two count for nothing."""
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(GLOBAL_BATCH, 4, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 5, (GLOBAL_BATCH,), generator=generator)
    weights = torch.ones(GLOBAL_BATCH)
    weights[[3, 7]] = 0
    return clips, labels, weights


def one_rank(rank, world_size, folder, synchronised):
    module = network()
    if synchronised:
        synchronise_batchnorm(module)
    model = nn.parallel.DistributedDataParallel(module) if world_size > 1 else module
    model.train(synchronised)
    clips, labels, weights = (values.chunk(world_size)[rank] for values in global_batch())
    sums = gradients(model, Batch(clips, labels, weights), torch.tensor(6.0), world_size=world_size)
    dist.all_reduce(sums)
    if rank == 0:
        grads = {name: p.grad for name, p in module.named_parameters()}
        torch.save((grads, sums, dict(module.named_buffers())), f"{folder}/{world_size}.pt")


def on_workers(folder, world_size, synchronised=False):
    on_ranks(world_size, folder, one_rank, world_size, str(folder), synchronised)
    return torch.load(f"{folder}/{world_size}.pt", weights_only=True)


def assert_close(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=tolerance, msg=name)


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    return on_workers(tmp_path_factory.mktemp("one"), 1)


@pytest.mark.long
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_gradient_does_not_depend_on_the_number_of_workers(one_worker, tmp_path, world_size):
    one, sums, _ = one_worker
    several, sums_of_several, _ = on_workers(tmp_path, world_size)
    assert_close(one, several)
    torch.testing.assert_close(sums, sums_of_several)


@pytest.mark.long
def test_with_synchronised_batchnorm_it_does_not_in_training_either(tmp_path):
    """Gradients, and the running statistics: those of one worker with ordinary batch normalisation."""
    torch.set_num_threads(1)
    alone = network().train()
    gradients(alone, Batch(*global_batch()), torch.tensor(6.0))
    shared, _, buffers = on_workers(tmp_path, 2, synchronised=True)
    assert_close({name: p.grad for name, p in alone.named_parameters()}, shared, tolerance=1e-4)
    assert_close(dict(alone.named_buffers()), buffers)


def test_a_batch_taken_in_parts_has_the_gradient_of_the_whole():
    clips, labels, weights = global_batch()
    grads = []
    for accumulate in (1, 3, 8):
        model = network().eval()
        gradients(model, Batch(clips, labels, weights), torch.tensor(6.0), accumulate=accumulate)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert_close(grads[0], grads[1])
    assert_close(grads[0], grads[2])


def test_a_row_without_weight_has_no_gradient():
    clips, labels, weights = global_batch()
    keep = weights > 0
    whole, counting = network().eval(), network().eval()
    gradients(whole, Batch(clips, labels, weights), torch.tensor(6.0))
    gradients(counting, Batch(clips[keep], labels[keep], weights[keep]), torch.tensor(6.0))
    assert_close(
        {name: p.grad for name, p in whole.named_parameters()},
        {name: p.grad for name, p in counting.named_parameters()},
    )


def test_mixed_labels_share_the_loss():
    clips, labels, weights = global_batch()
    model = network().eval()
    logits = model(clips)
    partners, shares = labels.flip(0), torch.full((GLOBAL_BATCH,), 0.3)
    sums = gradients(model, Batch(clips, labels, weights, partners, shares), torch.tensor(6.0))
    cross_entropy = nn.functional.cross_entropy
    expected = sum(
        weights[i]
        * (0.3 * cross_entropy(logits[i], labels[i]) + 0.7 * cross_entropy(logits[i], partners[i]))
        for i in range(GLOBAL_BATCH)
    )
    torch.testing.assert_close(sums[0].float(), expected.detach())


def test_synchronised_batchnorm_alone_is_batchnorm():
    torch.manual_seed(0)
    plain, module = nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))
    synchronise_batchnorm(module)
    assert isinstance(module[0], SyncBatchNorm2d)
    count_batch(module, True)
    values = torch.randn(3, 4, 5, 5)
    assert torch.equal(plain(values), module(values))
    assert module.state_dict().keys() == nn.Sequential(plain).state_dict().keys()


def test_every_parameter_is_in_exactly_one_group():
    model = network()
    config = OptimConfig(
        groups=[
            ParameterGroup(match=r"^fc\.", lr_scale=5.0),
            ParameterGroup(match=r"bias$|bn", weight_decay=0.0),
        ]
    )
    optimizer = build_optimizer(model, config)
    members = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(members) == len({id(p) for p in members}) == len(list(model.parameters()))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [5e-4, 0.0, 5e-4]
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in model.fc.parameters()
    }, "the first group that matches takes it"
    set_learning_rate(optimizer, 0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1, 0.1]


def groups_of(model, **settings):
    """Name of each parameter -> (scale of the rate, weight decay)."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, OptimConfig(weight_decay=0.1, **settings))
    found = {names[id(p)]: (g.lr_scale, g.weight_decay) for g in groups for p in g.parameters}
    assert len(found) == len(names) == sum(len(group.parameters) for group in groups)
    return found


def test_presets_are_the_practice_that_they_are_named_after():
    model = network()
    model.layer1[0].conv1.bias = nn.Parameter(torch.zeros(16))  # stm's own convolutions have none
    norms = {
        f"{name}.{own}"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for own in ("weight", "bias")
    }
    biases = {"fc.bias", "layer1.0.conv1.bias"}
    for preset, of_biases in (("no_decay_norm_bias", (1, 0)), ("tsn", (2, 0))):
        for name, found in groups_of(model, preset=preset).items():
            expected = of_biases if name in biases else (1, 0) if name in norms else (1, 0.1)
            assert found == expected, name
    assert set(groups_of(model).values()) == {(1, 0.1)}


def test_scales_multiply_and_a_groups_own_decay_comes_first():
    """TSM's rule for its classifier, five times the rate and ten of its bias, from two settings."""
    head = ParameterGroup(match=r"^fc\.", lr_scale=5)
    found = groups_of(network(), preset="tsn", groups=[head])
    assert (found["fc.weight"], found["fc.bias"]) == ((5, 0.1), (10, 0))
    head = ParameterGroup(match=r"^fc\.", weight_decay=0.3)
    found = groups_of(network(), preset="tsn", groups=[head], layerwise_decay=0.5)
    assert (found["fc.weight"], found["fc.bias"]) == ((1, 0.3), (2, 0.3))
    assert found["layer4.1.conv1.weight"] == (0.5, 0.1)


def test_each_block_below_the_classifier_has_a_share_of_the_rate():
    found = groups_of(network(), layerwise_decay=0.75)
    depth = {"fc.bias": 0, "layer4.1.cmm.bn.bias": 1, "layer4.0.conv1.weight": 2}
    depth |= {"layer1.1.temporal.weight": 7, "layer1.0.bn3.weight": 8, "bn1.bias": 9}
    for name, below in depth.items():
        assert found[name] == (0.75**below, 0.1), name


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_lists_of_parameters_are_updated_as_one_by_one_to_the_bit(name):
    models = [network(), network()]
    config = OptimConfig(name=name, preset="tsn", layerwise_decay=0.9)
    optimizers = [build_optimizer(model, config) for model in models]
    for group in optimizers[1].param_groups:
        assert group["foreach"]
        group["foreach"] = False
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for parameter, other in zip(*(model.parameters() for model in models), strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            other.grad = parameter.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert_close(*(model.state_dict() for model in models), tolerance=0)
    moved = network().state_dict()
    assert not any(torch.equal(p, moved[key]) for key, p in models[0].named_parameters())


def test_a_group_without_parameters_is_refused():
    config = OptimConfig(groups=[ParameterGroup(match="classifier")])
    with pytest.raises(UserError, match="'classifier' takes no parameter"):
        parameter_groups(network(), config)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(UserError, match="is not a regular expression"):
        ParameterGroup(match="(")
