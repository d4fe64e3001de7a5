"""The whole network against a plain one, and what it must never do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stm.errors import UserError
from stm.model import build_model, registry
from stm.model.block import Bottleneck
from tests.model import reference

SMALL = {"depth": 26, "num_classes": 7, "width": 16}
ABLATIONS = [
    *({"variant": name} for name in registry.names()),
    {"variant": "stm", "temporal_kernel": 5},
    {"variant": "stm", "fusion": "concat"},
    {"variant": "stm", "temporal_conv": "ordinary"},
    {"variant": "stm", "stages": (3, 5)},
    {"variant": "stm", "blocks": (1,)},
    {"variant": "stm", "reduction": 4},
]


def make(**settings) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(**{**SMALL, **settings})
    reference.randomise(model)
    return model.eval()


@pytest.mark.parametrize("settings", ABLATIONS, ids=str)
def test_every_variant_equals_the_same_network_written_plainly(settings):
    model, clips = make(**settings), torch.randn(2, 4, 3, 48, 40)
    shift = settings["variant"] == "tsm"
    expected = reference.network(model.state_dict(), clips, shift).mean(dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-4)


def test_stm_without_cmm_and_with_identity_kernels_is_the_resnet_frame_by_frame():
    model, clips = make(), torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, Bottleneck):
                block.cmm.expand.weight.zero_()
                block.temporal.weight.copy_(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1))
        plain = {
            key: value
            for key, value in model.state_dict().items()
            if ".temporal." not in key and ".cmm." not in key
        }
        frame_logits = []
        model.fc.register_forward_hook(lambda *call: frame_logits.append(call[-1]))
        logits = model(clips)
    expected = reference.network(plain, clips)
    torch.testing.assert_close(frame_logits[0].view(2, 4, 7), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, expected.mean(dim=1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["stm", "cstm", "cmm", "tsm"])
def test_no_video_of_a_batch_sees_another(variant):
    model, clips = make(variant=variant), torch.randn(3, 4, 3, 32, 32)
    together = model(clips)
    changed = clips.clone()
    changed[1] = torch.randn(4, 3, 32, 32)
    assert torch.equal(model(changed)[[0, 2]], together[[0, 2]])
    for index, clip in enumerate(clips):
        torch.testing.assert_close(model(clip[None])[0], together[index], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["stm", "cstm", "cmm", "tsm"])
def test_time_reversal_changes_what_the_network_says(variant):
    model, clips = make(variant=variant), torch.randn(1, 4, 3, 32, 32)
    assert (model(clips) - model(clips.flip(1))).abs().max() > 1e-3


@torch.no_grad()
def test_tsn_does_not_know_the_order_of_frames():
    model, clips = make(variant="tsn"), torch.randn(1, 4, 3, 32, 32)
    torch.testing.assert_close(model(clips), model(clips.flip(1)))


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 8, 16])
@pytest.mark.parametrize("size", [33, 112])
def test_the_same_weights_take_any_number_of_frames_and_odd_sizes(num_frames, size):
    model, clips = make(), torch.randn(1, num_frames, 3, size, size)
    expected = reference.network(model.state_dict(), clips).mean(dim=1)
    torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_memory_format_of_the_input_does_not_matter():
    model, clips = make(), torch.randn(2, 4, 32, 32, 3)
    as_decoded = clips.permute(0, 1, 4, 2, 3)
    assert torch.equal(model(as_decoded), model(as_decoded.contiguous()))


def test_it_stays_channels_last_throughout_and_takes_decoded_clips_where_they_lie():
    model = make()
    clips = torch.randn(2, 4, 32, 32, 3).permute(0, 1, 4, 2, 3)
    seen = []

    def look(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        seen.append(inputs[0].data_ptr())
        for tensor in (inputs[0], output):
            assert tensor.is_contiguous(memory_format=torch.channels_last), layer

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | Bottleneck):
            layer.register_forward_hook(look)
    model(clips)
    assert seen[0] == clips.data_ptr()


def test_everything_trains_and_no_normalisation_is_frozen():
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 4, 3, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    for key, value in model.state_dict().items():
        if "running_" in key or key.endswith("num_batches_tracked"):
            assert not torch.equal(value, before[key]), key
    assert any(".cmm.bn.running_mean" in key for key in before)


def test_gradients_lie_in_memory_as_their_weights_do():
    """Else DistributedDataParallel warns, and copies each of them."""
    model = make().train()
    model(torch.randn(2, 4, 3, 32, 32)).sum().backward()
    different = [
        name for name, weight in model.named_parameters() if weight.stride() != weight.grad.stride()
    ]
    assert not different


def test_dropout_falls_on_each_frame_and_only_in_training():
    model, clips = make(dropout=0.5).train(), torch.randn(1, 4, 3, 32, 32).expand(2, 4, 3, 32, 32)
    seen = []
    model.fc.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    model(clips)
    dropped = seen[0] == 0
    assert 0.3 < dropped.float().mean() < 0.9
    assert len({tuple(row.tolist()) for row in dropped}) == 8
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(clips), model(clips))


def test_the_fc_starts_small_and_the_convolutions_as_resnet():
    model = build_model(num_classes=174)
    assert model.fc.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not model.fc.bias.any()
    conv2 = model.layer3[1].conv2.weight
    assert conv2.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    bound = 256**-0.5
    reduce = model.layer3[1].cmm.reduce.weight
    assert bound * 0.9 < reduce.abs().max() <= bound


def test_layers_bear_torchvision_names_and_ours_their_own():
    keys = build_model(**SMALL).state_dict().keys()
    assert {key for key in keys if key.startswith("layer2.0.")} >= {
        "layer2.0.conv1.weight",
        "layer2.0.bn1.running_mean",
        "layer2.0.conv2.weight",
        "layer2.0.conv3.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.num_batches_tracked",
        "layer2.0.temporal.weight",
        "layer2.0.cmm.expand.weight",
    }
    assert {"conv1.weight", "bn1.weight", "fc.weight", "fc.bias"} <= keys


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(26, [2, 2, 2, 2]), (50, [3, 4, 6, 3]), (101, [3, 4, 23, 3]), (152, [3, 8, 36, 3])],
)
def test_depths_are_those_of_resnet(depth, blocks):
    model = build_model(depth=depth, width=16)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [len(stage) for stage in stages] == blocks
    assert [stage[0].conv2.stride[0] for stage in stages] == [1, 2, 2, 2]
    assert all(block.conv1.stride == (1, 1) for stage in stages for block in stage)


def test_stages_and_blocks_choose_which_blocks_are_replaced():
    model = build_model(depth=50, width=16, stages=[3, 4], blocks=[1, 3])
    replaced = {
        name for name, block in model.named_modules() if getattr(block, "cmm", None) is not None
    }
    assert replaced == {"layer2.1", "layer2.3", "layer3.1", "layer3.3"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "i3d"}, "variant is 'i3d'; allowed: one of cmm, cstm, stm"),
        ({"depth": 34}, "depth is 34; allowed: one of (26, 50, 101, 152)"),
        ({"depth": [50]}, "depth is [50]; allowed: an integer"),
        ({"temporal_kernel": "five"}, "temporal_kernel is 'five'; allowed: an integer"),
        ({"temporal_kernel": 3.0}, "temporal_kernel is 3.0; allowed: an integer"),
        (
            {"temporal_conv": ["ordinary"]},
            "temporal_conv is ['ordinary']; allowed: a string",
        ),
        ({"reduction": True}, "reduction is True; allowed: an integer"),
        ({"dropout": None}, "dropout is None; allowed"),
        ({"dropout": "half"}, "dropout is 'half'; allowed"),
        ({"stages": 3}, "stages is 3; allowed: a list of integers"),
        ({"blocks": 2}, "blocks is 2; allowed: a list of integers"),
        ({"blocks": (True,)}, "each of blocks is True; allowed: an integer"),
        ({"num_classes": 0}, "num_classes is 0; allowed"),
        ({"num_classes": True}, "num_classes is True; allowed"),
        ({"fusion": "max"}, "fusion is 'max'; allowed: one of sum, concat"),
        ({"temporal_conv": "dense"}, "temporal_conv is 'dense'; allowed: one of channelwise"),
        ({"stages": (1, 2)}, "stages is (1, 2); allowed: some of (2, 3, 4, 5)"),
        ({"stages": ()}, "stages is (); allowed"),
        ({"blocks": (2,)}, "blocks is (2,); allowed: 0 to 1, because stage 2 of depth 26"),
        ({"blocks": (-1,)}, "blocks is (-1,); allowed"),
        ({"blocks": ()}, "blocks is (); allowed"),
        ({"dropout": 1.0}, "dropout is 1.0; allowed"),
        ({"dropout": float("nan")}, "dropout is nan; allowed"),
        ({"width": 20}, "width is 20; allowed: a positive multiple of 8"),
        ({"reduction": 0}, "reduction is 0; allowed"),
        ({"reduction": 32}, "a block 16 channels, which reduction 32 of CMM does not divide"),
        ({"variant": "cstm", "fusion": "concat"}, "no effect on variant 'cstm'"),
        ({"variant": "cmm", "temporal_conv": "ordinary"}, "choose the variant from: cstm, stm"),
        ({"variant": "tsn", "stages": (2,)}, "stages is (2,), which has no effect"),
        ({"variant": "tsn", "blocks": (0,)}, "blocks is (0,), which has no effect"),
        ({"variant": "tsm", "reduction": 8}, "reduction is 8, which has no effect"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name_and_value(settings, message):
    with pytest.raises(UserError) as caught:
        build_model(**{**SMALL, **settings})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "clips",
    [
        torch.zeros(4, 3, 32, 32),
        torch.zeros(1, 4, 32, 32, 3),
        torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8),
    ],
    ids=["a frame batch", "channels at the end", "bytes"],
)
def test_clips_of_another_shape_or_type_are_refused(clips):
    with pytest.raises(ValueError, match=r"clips must be float \[N, T, 3, H, W\], got"):
        make()(clips)


def test_it_runs_under_autocast():
    model, clips = make().train(), torch.randn(2, 4, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(clips)
    logits.float().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())
