"""Settings that cannot work are refused by name; the rest survives YAML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stm.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    ParameterGroup,
    TrackingConfig,
    TrainConfig,
)
from stm.errors import UserError


@pytest.mark.parametrize(
    ("make", "flag"),
    [
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


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (DataConfig(), {"size": 16}, "--data.size 16: must be at least 32 px"),
        (DataConfig(), {"size": "64"}, "--data.size 64: must be an int, not a str"),
        (DataConfig(), {"size": True}, "--data.size True: must be an int, not a bool"),
        (DataConfig(), {"size": 64.0}, "--data.size 64.0: must be an int, not a float"),
        (DataConfig(), {"size": None}, "--data.size None: must be an int, not a NoneType"),
        (DataConfig(), {"scales": []}, "--data.scales []: each scale is a share of the short side"),
        (DataConfig(), {"scales": ["1"]}, "--data.scales ['1']: each must be a float, not a str"),
        (DataConfig(), {"scales": 1.0}, "--data.scales 1.0: must be a list, not a float"),
        (DataConfig(), {"scales": [float("nan")]}, "each must be a finite number"),
        (DataConfig(), {"decoder": "fast"}, "--data.decoder fast: must be one of auto, packets, "),
        (DataConfig(), {"train": 3}, "--data.train 3: must be a str or null, not an int"),
        (DataConfig(), {"max_cpus": 0.5}, "must leave room for one task of --data.cpus_per_task 1"),
        (DataConfig(), {"cpus_per_task": 0}, "--data.cpus_per_task 0: must be above 0"),
        (DataConfig(), {"prefetch_batches": -1}, "must not be negative"),
        (DataConfig(), {"max_bad_fraction": 1.5}, "must be in [0, 1]"),
        (DataConfig(), {"frame_stride": 4}, "frame_stride 4: has no effect on --data.sampling seg"),
        (DataConfig(), {"crop_area": [0.5, 1.0]}, "has no effect on --data.crop corners5; it needs"),
        (DataConfig(crop="resized"), {"crop_area": [0.5, 1.1]}, "must be two rising shares of the"),
        (DataConfig(crop="resized"), {"crop_ratio": [2.0, 1.0]}, "must be two rising numbers above"),
        (DataConfig(), {"randaugment_magnitude": 5.0}, "has no effect on --data.randaugment 0"),
        (DataConfig(randaugment=1), {"randaugment_magnitude": 11.0}, "must be in [0, 10]"),
        (DataConfig(), {"hue": 0.6}, "--data.hue 0.6: must be in [0, 0.5]"),
        (DataConfig(), {"color_jitter": 1.5}, "--data.color_jitter 1.5: must be in [0, 1]"),
        (DataConfig(), {"reverse": "yes"}, "must be one of never, auto, swap"),
        (DataConfig(), {"sampling": "sparse"}, "must be one of segments, dense, seconds"),
        (DataConfig(sampling="seconds"), {"window_s": 0.0}, "--data.window_s 0.0: must be above 0"),
        (OptimConfig(), {"lr": float("inf")}, "--optim.lr inf: must be a finite number"),
        (OptimConfig(), {"lr": False}, "--optim.lr False: must be a float, not a bool"),
        (OptimConfig(), {"gamma": 0}, "--optim.gamma 0: must be in (0, 1]"),
        (OptimConfig(), {"momentum": 1}, "--optim.momentum 1: must be in [0, 1)"),
        (OptimConfig(), {"milestones": [0, 3]}, "must rise, and be either all epoch numbers, from 1, or all"),
        (OptimConfig(), {"milestones": [2.5]}, "all shares of the training, between 0 and 1"),
        (OptimConfig(), {"milestones": [0.5, 3]}, "all epoch numbers, from 1, or all shares"),
        (OptimConfig(), {"milestones": [0.8, 0.6]}, "--optim.milestones [0.8, 0.6]: must rise"),
        (OptimConfig(), {"milestones": ["3"]}, "each must be a float, not a str"),
        (OptimConfig(), {"name": "adam"}, "--optim.name adam: must be one of sgd, adamw"),
        (OptimConfig(), {"betas": [0.9]}, "--optim.betas [0.9]: must be two numbers in [0, 1)"),
        (OptimConfig(), {"betas": [0.8, 0.9]}, "has no effect on --optim.name sgd; leave it out"),
        (OptimConfig(name="adamw"), {"momentum": 0.5}, "--optim.momentum 0.5: has no effect on"),
        (OptimConfig(), {"min_lr": 0.1}, "--optim.min_lr 0.1: must not be above --optim.lr 0.01"),
        (OptimConfig(), {"layerwise_decay": 0}, "--optim.layerwise_decay 0: must be in (0, 1]"),
        (OptimConfig(), {"preset": "tsm"}, "must be one of no_decay_norm_bias, tsn or null"),
        (OptimConfig(), {"groups": [{}]}, "each must be a ParameterGroup, not a dict"),
        (OptimConfig(), {"sync_batchnorm": 1}, "must be a bool, not an int"),
        (OptimConfig(), {"reference_batch_size": 0}, "must be at least 1, or null"),
        (ParameterGroup(match="a"), {"lr_scale": -1}, "--optim.groups.lr_scale -1: must not be"),
        (ParameterGroup(match="a"), {"weight_decay": -1.0}, "must not be negative, or null"),
        (ParameterGroup(match="a"), {"match": "("}, "--optim.groups: '(' is not a regular expression"),
        (TrainConfig(), {"max_failures": -2}, "--train.max_failures -2: must be -1 or more"),
        (TrainConfig(), {"min_workers": 2}, "must not be above --train.num_workers 1"),
        (TrainConfig(), {"min_workers": 0}, "must be at least 1, or null"),
        (TrainConfig(), {"resources_per_worker": {"GPU": -1}}, "must not have a negative number"),
        (TrainConfig(), {"seed": 2**63}, "must be in [-9223372036854775808, 9223372036854775807]"),
        (TrainConfig(), {"min_workers": "2"}, "must be an int or null, not a str"),
        (TrainConfig(), {"checkpoint_every_minutes": 0}, "must be above 0, or null"),
        (TrainConfig(), {"checkpoint_every_minutes": float("nan")}, "must be a finite number or"),
        (TrainConfig(), {"name": ".."}, "--train.name ..: must be a directory name: no slashes"),
        (TrainConfig(), {"resources_per_worker": {1: 1}}, "each must be a str, not an int"),
        (TrainConfig(), {"resources_per_worker": {"a": "1"}}, "each must be a float, not a str"),
        (TrackingConfig(), {"experiment": None}, "must be a str, not a NoneType"),
    ],
)  # fmt: skip
def test_a_message_says_what_a_value_must_be(settings, values, message):
    with pytest.raises(UserError) as refused:
        replace(settings, **values)
    assert message in str(refused.value)


def test_null_and_whole_numbers_stand_where_the_type_takes_them():
    data = DataConfig(scales=[1], max_cpus=2, decode_deadline_s=10**400)
    assert (data.scales, data.root) == ([1], None)


def test_other_frames_can_be_asked_for_and_bring_their_own_defaults():
    trained = DataConfig(num_segments=16, sampling="dense", frame_stride=4)
    assert trained.resampled() == trained
    assert trained.resampled(frame_stride=2).frame_stride == 2
    assert trained.resampled(sampling="segments") == DataConfig(num_segments=16)
    assert trained.resampled(sampling="seconds", window_s=3.0).window_s == 3.0
    with pytest.raises(UserError, match=r"window_s 3.0: has no effect on --data.sampling dense"):
        trained.resampled(window_s=3.0)


def test_a_batch_that_workers_cannot_share_is_refused_with_one_that_they_can():
    with pytest.raises(
        UserError, match=r"batch_size 10 .*num_workers 4: .*a multiple of 4, such as 8"
    ):
        Config(optim=OptimConfig(batch_size=10), train=TrainConfig(num_workers=4))


def test_milestones_that_are_epochs_stay_whole_numbers_however_they_came():
    assert str(OptimConfig(milestones=[30.0, 40]).milestones) == "[30, 40]"
    assert OptimConfig(epochs=15, milestones=[0.6, 0.9]).milestone_epochs == [9, 13.5]
    assert OptimConfig(milestones=[]).milestones == []


def test_an_optimizer_is_described_as_it_is():
    assert OptimConfig().described == (
        "sgd (momentum 0.9, weight decay 0.0005), rate x 0.1 after epoch 30, 40, 45"
    )
    other = OptimConfig(
        name="adamw", lr=1e-3, min_lr=1e-5, schedule="cosine", warmup_epochs=2, batch_size=32,
        reference_batch_size=64, preset="tsn", layerwise_decay=0.75, freeze=["stem"],
        groups=[ParameterGroup(match="^layer1", lr_scale=0)], partial_bn=True,
    )  # fmt: skip
    assert other.described == (
        "adamw (betas 0.9 and 0.999, weight decay 0.0005), rate cosine to 5e-06, warm-up 2 epochs, tsn, "
        "layerwise 0.75; frozen: stem, ^layer1, batch normalisation except the first"
    )


def test_a_config_comes_back_from_its_dict():
    config = Config(model=ModelConfig(variant="tsm", blocks=[0]), optim=OptimConfig(lr=0.5))
    assert Config.from_dict(config.to_dict()) == config


def test_the_defaults_are_the_papers_schedule_for_something_something():
    optim = OptimConfig()
    assert (optim.lr, optim.momentum, optim.weight_decay) == (0.01, 0.9, 5e-4)
    assert (optim.epochs, optim.milestones, optim.batch_size) == (50, [30, 40, 45], 64)
