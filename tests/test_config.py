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
        (DataConfig(), {"crop_area": [0.5, 1.0]}, "has no effect on --data.crop corners5; it goes "),
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
        (OptimConfig(), {"milestones": [0, 3]}, "must be rising epoch numbers, from 1"),
        (OptimConfig(), {"milestones": [3.0]}, "each must be an int, not a float"),
        (OptimConfig(), {"groups": [{}]}, "each must be a ParameterGroup, not a dict"),
        (OptimConfig(), {"sync_batchnorm": 1}, "must be a bool, not an int"),
        (OptimConfig(), {"reference_batch_size": 0}, "must be at least 1, or null"),
        (ParameterGroup(match="a"), {"lr_scale": -1}, "--optim.groups.lr_scale -1: must not be"),
        (ParameterGroup(match="a"), {"weight_decay": -1.0}, "must not be negative, or null"),
        (ParameterGroup(match="a"), {"match": "("}, "--optim.groups: '(' is no regular expression"),
        (TrainConfig(), {"max_failures": -2}, "--train.max_failures -2: must be -1 or more"),
        (TrainConfig(), {"min_workers": 2}, "must be between 1 and --train.num_workers 1, or null"),
        (TrainConfig(), {"min_workers": "2"}, "must be an int or null, not a str"),
        (TrainConfig(), {"checkpoint_every_minutes": 0}, "must be above 0, or null"),
        (TrainConfig(), {"checkpoint_every_minutes": float("nan")}, "must be a finite number or"),
        (TrainConfig(), {"name": ".."}, "--train.name ..: is a directory name: no slashes"),
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


def test_a_config_comes_back_from_its_dict():
    config = Config(model=ModelConfig(variant="tsm", blocks=[0]), optim=OptimConfig(lr=0.5))
    assert Config.from_dict(config.to_dict()) == config


def test_the_defaults_are_the_papers_schedule_for_something_something():
    optim = OptimConfig()
    assert (optim.lr, optim.momentum, optim.weight_decay) == (0.01, 0.9, 5e-4)
    assert (optim.epochs, optim.milestones, optim.batch_size) == (50, [30, 40, 45], 64)
