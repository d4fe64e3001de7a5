"""Maps of blocks: what the hooks read is what the modules compute, and reading changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stm.errors import UserError
from stm.explain import maps
from stm.model import build_model
from tests.model import reference

T = 4


def network(variant: str = "stm", **settings):
    torch.manual_seed(0)
    model = build_model(variant, 26, num_classes=5, width=16, **settings).eval()
    reference.randomise(model)
    return model


def clips(num_clips: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(num_clips, T, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("stm", {"before", "cstm", "cmm", "after"}),
        ("cstm", {"before", "cstm", "after"}),
        ("cmm", {"before", "conv", "cmm", "after"}),
        ("tsn", {"before", "conv", "after"}),
        ("tsm", {"before", "conv", "after"}),
    ],
)
def test_every_variant_shows_the_layers_it_has_one_map_a_frame(variant, kinds):
    seen = maps.look(network(variant), clips(), ["layer2.0"])
    shapes = {kind: values.shape for kind, values in seen.maps["layer2.0"].items()}
    inner, before = (2, T, 8, 8), (2, T, 16, 16)  # the block halves the resolution
    assert shapes == {kind: before if kind == "before" else inner for kind in kinds}


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_maps_are_means_of_absolute_values_of_what_the_modules_compute(fusion):
    model = network(fusion=fusion)
    block = model.layer1[0]
    seen = maps.look(model, clips(), ["layer1.0"]).maps["layer1.0"]
    with torch.inference_mode():
        frames = clips().flatten(0, 1)
        x = F.max_pool2d(F.relu(model.bn1(model.conv1(frames))), 3, 2, 1)
        u = F.relu(block.bn1(block.conv1(x)))
        a = F.relu(block.bn2(block.conv2(block.temporal(u, T))))
        expected = {"before": x, "cstm": a, "cmm": block.cmm(u, T), "after": block(x, T)}
    for kind, features in expected.items():
        mean = features.abs().mean(1).unflatten(0, (2, T)).numpy()
        np.testing.assert_allclose(seen[kind], mean, rtol=1e-4, atol=1e-5)


def test_looking_changes_no_answer_and_leaves_no_hook():
    model = network()
    with torch.inference_mode():
        expected = model(clips()).numpy()
    seen = maps.look(model, clips(), ["layer1.0", "layer4.1"])
    np.testing.assert_array_equal(seen.logits_NK, expected)
    with pytest.raises(ValueError, match="clips must be float"):
        maps.look(model, clips()[:, :, :2], ["layer1.0"])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert not any(hooks)


def test_evidence_adds_up_to_the_logit():
    model = network()
    seen = maps.look(model, clips(), [])
    logits, bias = seen.logits_NK, model.fc.bias.detach().numpy()
    for label in range(5):
        expected = logits[:, label] - logits.mean(1) - (bias[label] - bias.mean())
        evidence = seen.evidence(label)
        assert evidence.shape == (2, T, 2, 2)
        np.testing.assert_allclose(evidence.mean((1, 2, 3)), expected, rtol=1e-3, atol=1e-4)


def test_an_unknown_block_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(
        UserError, match=r"layer9\.9: no such block; the blocks are layer1\.0, layer1\.1"
    ):
        maps.look(network(), clips(), ["layer9.9"])


@pytest.mark.parametrize(
    ("settings", "block"),
    [
        ({"variant": "stm"}, "layer1.0"),
        ({"variant": "stm", "stages": [4]}, "layer3.0"),
        ({"variant": "cstm", "stages": [3], "blocks": [1]}, "layer2.1"),
        ({"variant": "tsn"}, "layer1.0"),
    ],
)
def test_the_default_block_is_the_first_with_motion_features(settings, block):
    assert maps.default_block(network(**settings)) == block


def differencing_network():
    """A network whose first CMM subtracts a frame from the next, cell by cell, and nothing else."""
    model = network()
    cmm = model.layer1[0].cmm
    with torch.no_grad():
        cmm.motion.weight.zero_()
        cmm.motion.weight[:, :, 1, 1] = 1
    return model


def moving_square(path: list[tuple[int, int]], size: int = 96, edge: int = 16) -> torch.Tensor:
    clip = torch.zeros(1, T, 3, size, size)
    for t, (top, left) in enumerate(path):
        clip[0, t, :, top : top + edge, left : left + edge] = 2.0
    return clip


def test_cmm_lights_up_where_a_square_moves_and_nowhere_else():
    path = [(40, 8), (40, 8), (40, 56), (40, 56)]  # it rests, jumps, rests
    seen = maps.look(differencing_network(), moving_square(path), ["layer1.0"])
    still, jump, rest, last = seen.maps["layer1.0"]["cmm"][0]
    assert max(still.max(), rest.max()) < 1e-4 * jump.max()
    assert not last.any()
    # Cells of 4 px; the 7x7 and the pooling see 5 px beyond.
    near = np.zeros((24, 24), dtype=bool)
    for top, left in path:
        near[(top - 7) // 4 : (top + 24) // 4, (left - 7) // 4 : (left + 24) // 4] = True
    assert jump[~near].max() < 1e-4 * jump.max()
    for top, left in path:
        assert (
            jump[top // 4 : (top + 16) // 4, left // 4 : (left + 16) // 4].max() > 0.2 * jump.max()
        )


def test_cmm_of_a_clip_at_rest_is_dark_where_its_features_are_not():
    seen = maps.look(differencing_network(), moving_square([(40, 40)] * T), ["layer1.0"])
    shown = seen.maps["layer1.0"]
    assert shown["cmm"].max() < 1e-4 * shown["before"].max()
