"""What a run says before it trains: its schedule, what may surprise in it, and the settings for its record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stm import spool
from stm.checkpoint.format import Meta
from stm.config import Config, OptimConfig
from stm.data.stream.plan import Position
from stm.results import TrainResult
from stm.tracking import Tracker
from stm.train.summary import parameters, record_result, schedule, schedule_warnings
from tests.package.untrained import write_checkpoint
from tests.report.makers import make_facts

MANIFEST = make_facts(num_videos=41).manifest  # 40 of them usable


def said_of(previous=None, **optim):
    return schedule_warnings(Config(optim=OptimConfig(batch_size=4, **optim)), MANIFEST, previous)


def kept_after(done, **optim):
    config = Config(optim=OptimConfig(batch_size=4, **optim))
    return Meta(
        config=config.to_dict(), classes=["a"], position=Position(done, 0), step=10 * done, fingerprint="f"
    )  # fmt: skip


@pytest.mark.parametrize(
    "optim",
    [
        {},
        {"epochs": 15, "milestones": [0.6, 0.8, 0.9]},
        {"epochs": 15, "milestones": []},
        {"epochs": 15, "milestones": [14]},
        {"epochs": 15, "schedule": "cosine"},
        {"epochs": 1, "milestones": [0.5], "warmup_epochs": 1},
    ],
)
def test_a_schedule_that_falls_or_is_constant_on_purpose_is_not_warned_about(optim):
    assert said_of(**optim) == []


@pytest.mark.parametrize("epochs", [15, 30])
def test_a_rate_that_never_falls_within_its_epochs_is_warned_about(epochs):
    (said,) = said_of(epochs=epochs)
    assert said.startswith("the rate never falls: the first of --optim.milestones [30, 40, 45] is")
    assert f"the end of {epochs} epochs" in said
    assert said.endswith("--optim.milestones 0.6 0.8 0.9")


def test_a_warm_up_longer_than_the_training_is_warned_about():
    (said,) = said_of(epochs=2, milestones=[], warmup_epochs=5)
    assert said == (
        "the rate never reaches 0.01: --optim.warmup_epochs 5 is longer than the training, of 2 epochs"
    )


def test_more_epochs_that_stretch_a_schedule_are_warned_about_with_both_rates():
    kept = kept_after(8, epochs=10, milestones=[0.6, 0.8])
    (said,) = said_of(kept, epochs=20, milestones=[0.6, 0.8])
    assert said == (
        "the rate goes on at 0.01 in place of 0.0001: its schedule follows --optim.epochs, which were 10 and are 20"
    )
    assert said_of(kept, epochs=10, milestones=[0.6, 0.8]) == []
    kept = kept_after(8, epochs=10, milestones=[6, 8])
    assert said_of(kept, epochs=20, milestones=[6, 8]) == []


def test_the_line_before_training_says_how_it_is_trained():
    config = Config(
        optim=OptimConfig(name="adamw", lr=5e-4, schedule="linear", warmup_epochs=2, freeze=["stem"])
    )  # fmt: skip
    assert schedule(config, MANIFEST, None).endswith(
        "global batch 64 (64 a worker), lr 0.0005; adamw (betas 0.9 and 0.999, weight decay 0.0005), "
        "rate linear to 0, warm-up 2 epochs; frozen: stem"
    )


def test_the_record_has_the_settings_that_count_and_no_others():
    recorded = parameters(Config())
    assert (recorded["optim.name"], recorded["optim.momentum"]) == ("sgd", 0.9)
    assert recorded["optim.milestones"] == [30, 40, 45]
    assert not {"optim.betas", "optim.eps"} & recorded.keys()
    optim = replace(OptimConfig(), name="adamw", schedule="cosine")
    recorded = parameters(Config(optim=optim))
    assert (recorded["optim.name"], recorded["optim.betas"]) == ("adamw", [0.9, 0.999])
    assert not {"optim.momentum", "optim.milestones", "optim.gamma"} & recorded.keys()


@pytest.mark.parametrize("log_model", [True, False])
def test_the_weights_go_into_the_record_once(tmp_path, log_model):
    checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint-00000007")
    tracker = Tracker("sqlite:///unused.db", "r", tmp_path / "run" / "tracking.jsonl")
    result = TrainResult(
        run="run", run_id="r", checkpoint=str(checkpoint), last_checkpoint=str(checkpoint),
        steps=7, epochs=1, best_epoch=None, val_top1=None, val_top5=None, val_num_videos=None,
    )  # fmt: skip
    record_result(tracker, tmp_path / "run", result, log_model)
    recorded = [(row["kind"], row["path"]) for row in spool.read(tracker.spool) if "path" in row]
    curves = ("artifact", str(tmp_path / "run" / "curves.png"))
    if log_model:
        assert recorded == [curves, ("model", str(checkpoint))]
    else:
        files = [
            ("artifact", f"{checkpoint}/{name}") for name in ("model.safetensors", "meta.json")
        ]
        assert recorded == [curves, *files]
