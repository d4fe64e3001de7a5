"""One arithmetic: a global batch has one gradient, on however many workers and in however many parts it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from stm.config import OptimConfig, ParameterGroup
from stm.errors import UserError
from stm.model import build_model
from stm.model.sync_batchnorm import SyncBatchNorm2d, count_batch, synchronise_batchnorm
from stm.train.optim import build_optimizer, parameter_groups, set_learning_rate
from stm.train.step import Batch, gradients

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
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{world_size}", rank=rank, world_size=world_size
    )
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
    dist.destroy_process_group()


def on_workers(folder, world_size, synchronised=False):
    mp.start_processes(
        one_rank, (world_size, str(folder), synchronised), nprocs=world_size, start_method="spawn"
    )
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


def test_a_group_without_parameters_is_refused():
    config = OptimConfig(groups=[ParameterGroup(match="classifier")])
    with pytest.raises(UserError, match="'classifier' takes no parameter"):
        parameter_groups(network(), config)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(UserError, match="is no regular expression"):
        ParameterGroup(match="(")
