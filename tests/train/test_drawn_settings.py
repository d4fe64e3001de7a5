"""Settings drawn at random: a run that is kept, loaded and continued takes the steps of the one that went on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stm.config import Config
from stm.model import registry
from stm.train.optim import learning_rate
from tests.train.ranks import on_ranks
from tests.train.test_pairs import assert_equal, batch_of, built, kept

PER_EPOCH = 3
EVERY_KNOB = {
    "name": "adamw", "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.05, "lr": 0.002, "min_lr": 1e-5,
    "schedule": "cosine", "warmup_epochs": 0.5, "preset": "tsn", "layerwise_decay": 0.75, "freeze": ["stem"],
    "partial_bn": True, "groups": [{"match": "^layer1", "lr_scale": 0}, {"match": "^fc", "lr_scale": 3.0}],
    "accumulate": 2, "ema_decay": 0.6, "mixup": 0.3, "cutmix": 0.5, "label_smoothing": 0.1, "sync_batchnorm": True,
}  # fmt: skip


def config_of(optim, model=None, workers=1, **train):
    return Config.from_dict(
        {
            "model": {"depth": 26, "width": 16, "dropout": 0.3, **(model or {})},
            "data": {"num_segments": 4, "size": 32},
            "optim": {"batch_size": 4 * workers, "epochs": 2, **optim},
            "train": {"num_workers": workers, **train},
        }
    )


def take(replica, config, steps, rank=0):
    """Each with the rate, the clips and the seed of its number, as the training loop has them."""
    for step in steps:
        rate = learning_rate(config.optim, step, PER_EPOCH)
        sums, _ = replica.step(batch_of(2 * step + rank), rate, seed=2 * step + rank)
        assert torch.isfinite(sums).all()


def check(config, steps, at, folder, world_size=1, rank=0):
    """Interrupted before step ``at``, and whole."""
    whole, first = (built(config, world_size=world_size) for _ in "ab")
    take(whole, config, range(steps), rank)
    take(first, config, range(at), rank)
    again = built(config, kept(first, config, folder), world_size)
    take(again, config, range(at, steps), rank)
    assert_equal(whole.shipped.state_dict(), again.shipped.state_dict())
    ours, theirs = (replica.state()["optimizer"]["state"] for replica in (whole, again))
    assert ours.keys() == theirs.keys()
    for number in ours:
        assert_equal(ours[number], theirs[number])


@st.composite
def configs(draw):
    optim = {
        "schedule": draw(st.sampled_from(["step", "cosine", "linear"])),
        "milestones": draw(st.sampled_from([[], [1], [0.3, 0.7]])),
        "warmup_epochs": draw(st.sampled_from([0, 0.5, 1])),
        "min_lr": draw(st.sampled_from([0, 1e-3])),
        "weight_decay": draw(st.sampled_from([0, 0.05])),
        "clip_grad_norm": draw(st.sampled_from([0, 0.5, 20])),
        "accumulate": draw(st.sampled_from([1, 3])),
        "preset": draw(st.sampled_from([None, "no_decay_norm_bias", "tsn"])),
        "layerwise_decay": draw(st.sampled_from([1, 0.75])),
        "freeze": draw(st.lists(st.sampled_from(["stem", "layer1", "layer3.0"]), unique=True)),
        "partial_bn": draw(st.booleans()),
        "sync_batchnorm": draw(st.booleans()),
        "ema_decay": draw(st.sampled_from([0, 0.7])),
        "mixup": draw(st.sampled_from([0, 0.4])),
        "groups": [{"match": "^layer2", "lr_scale": s} for s in draw(st.lists(st.sampled_from([0, 2]), max_size=1))],
    }  # fmt: skip
    if draw(st.booleans()):
        optim |= {"name": "adamw", "betas": draw(st.sampled_from([[0.9, 0.999], [0, 0.5]]))}
    else:
        optim["momentum"] = draw(st.sampled_from([0, 0.9]))
    model = {
        "variant": draw(st.sampled_from(registry.names())),
        "gradient_checkpointing": draw(st.booleans()),
    }
    return config_of(optim, model, precision=draw(st.sampled_from(["float32", "bfloat16"])))


@pytest.mark.long
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(), at=st.integers(1, 3))
def test_a_run_of_any_settings_continues_as_if_it_had_not_stopped(config, at):
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        check(config, 4, at, Path(folder) / "checkpoint")


def test_with_every_setting_at_once_it_does_too(tmp_path):
    torch.set_num_threads(1)
    config = config_of(EVERY_KNOB, {"gradient_checkpointing": True})
    check(config, 5, 3, tmp_path / "checkpoint")


def one_rank(rank, folder):
    config = config_of(EVERY_KNOB, {"gradient_checkpointing": True}, workers=2)
    check(config, 5, 3, Path(folder) / f"checkpoint-{rank}", world_size=2, rank=rank)


@pytest.mark.long
def test_with_every_setting_at_once_it_does_so_on_two_workers(tmp_path):
    on_ranks(2, tmp_path, one_rank, str(tmp_path))


def test_a_state_of_another_optimizer_is_refused_with_what_to_do(tmp_path):
    sgd, adamw = config_of({}), config_of({"name": "adamw"})
    for before, now, words in (
        (sgd, adamw, "holds the state of sgd, and --optim.name is adamw: set it back, or choose"),
        (adamw, sgd, "holds the state of adamw, and --optim.name is sgd: set it back, or choose"),
    ):
        checkpoint = kept(built(before), before, tmp_path / before.optim.name)
        with pytest.raises(ValueError, match=words) as error:
            built(now, checkpoint)
        assert str(error.value).startswith(f"{checkpoint} does not fit this run: it holds")
