"""Gradient checkpointing changes memory, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch

from stm.model import build_model


def step(model: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    loss = model(clips).square().sum()
    loss.backward()
    return loss


@pytest.mark.parametrize("variant", ["stm", "tsm", "tsn"])
def test_gradients_and_running_statistics_stay_equal(variant):
    torch.manual_seed(0)
    plain = build_model(variant, depth=26, width=16, num_classes=5)
    recomputing = copy.deepcopy(plain)
    recomputing.gradient_checkpointing = True
    for _ in range(2):
        clips = torch.randn(2, 4, 3, 32, 32)
        assert torch.equal(step(plain, clips), step(recomputing, clips))
    for (name, ours), theirs in zip(
        recomputing.named_parameters(), plain.parameters(), strict=True
    ):
        assert torch.equal(ours.grad, theirs.grad), name
    for key, value in plain.state_dict().items():
        assert torch.equal(recomputing.state_dict()[key], value), key
    assert plain.state_dict().keys() == recomputing.state_dict().keys()


def test_only_the_inputs_of_blocks_are_kept():
    def saved_bytes(checkpointing: bool) -> int:
        model = build_model(depth=26, width=16, gradient_checkpointing=checkpointing)
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(torch.randn(1, 4, 3, 64, 64))
        weights = {weight.data_ptr() for weight in model.parameters()}
        assert logits.requires_grad
        return sum(size for pointer, size in storages.items() if pointer not in weights)

    assert saved_bytes(True) < saved_bytes(False) / 2
