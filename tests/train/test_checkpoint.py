"""Checkpoints: written whole, read back exactly, refused by name where they are none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import find, resolve
from stm.config import Config, ModelConfig
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model import build_model
from stm.train.checks import check_same_run


def make_meta(**changes):
    config = Config(model=ModelConfig(depth=26, width=16))
    values = {
        "config": config.to_dict(),
        "classes": ["a", "b", "c"],
        "position": Position(2, 8),
        "step": 21,
        "fingerprint": "f" * 64,
    }
    return checkpoints.Meta(**{**values, **changes})


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("stm", 26, 3, width=16)


def save(directory, model, meta):
    directory.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(1, 2, 3, 32, 32)).sum().backward()
    optimizer.step()
    checkpoints.write(directory, model, {"optimizer": optimizer.state_dict()}, meta)
    return optimizer


def test_weights_state_and_meta_come_back_exactly(tmp_path, model):
    meta = make_meta(metrics={"val_top1": 0.5})
    optimizer = save(tmp_path, model, meta)
    found = checkpoints.read_meta(tmp_path)
    assert replace(found, files={}) == meta
    assert set(found.files) == {checkpoints.MODEL, checkpoints.STATE, checkpoints.HISTORY}
    weights = checkpoints.read_weights(tmp_path)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    state = checkpoints.read_state(tmp_path)["optimizer"]["state"]
    for key, value in optimizer.state_dict()["state"].items():
        assert torch.equal(state[key]["momentum_buffer"], value["momentum_buffer"])


def test_a_checkpoint_alone_rebuilds_the_network(tmp_path, model):
    save(tmp_path, model, make_meta())
    meta = checkpoints.read_meta(tmp_path)
    again = build_model(**checkpoints.network_arguments(meta, str(tmp_path)))
    again.load_state_dict(checkpoints.read_weights(tmp_path))
    clips = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(again.eval()(clips), model.eval()(clips))


def test_a_directory_cut_short_is_not_taken_for_a_checkpoint(tmp_path, model):
    save(tmp_path / "whole", model, make_meta())
    (tmp_path / "whole" / checkpoints.META).unlink()
    with pytest.raises(UserError, match=r"no meta\.json"):
        checkpoints.read_meta(tmp_path / "whole")


def test_a_damaged_meta_names_the_file(tmp_path):
    (tmp_path / checkpoints.META).write_text("{")
    with pytest.raises(UserError, match=r"meta\.json is damaged"):
        checkpoints.read_meta(tmp_path)


def test_damaged_weights_name_the_file(tmp_path, model):
    save(tmp_path, model, make_meta())
    (tmp_path / checkpoints.MODEL).write_bytes(b"short")
    with pytest.raises(
        UserError, match=r"model\.safetensors is damaged: it has 5 bytes, and \d+ were"
    ):
        checkpoints.read_weights(tmp_path)


def test_a_run_directory_means_its_best_checkpoint(tmp_path, model):
    save(
        tmp_path / "checkpoint-1",
        model,
        make_meta(metrics={"val_top1": 0.9}, position=Position(1, 0)),
    )
    save(
        tmp_path / "checkpoint-2",
        model,
        make_meta(metrics={"val_top1": 0.4}, position=Position(2, 0)),
    )
    assert resolve(str(tmp_path)).endswith("checkpoint-1")
    assert resolve(str(tmp_path / "checkpoint-2")).endswith("checkpoint-2")


def test_without_validation_a_run_directory_means_its_last_checkpoint(tmp_path, model):
    save(tmp_path / "checkpoint-3", model, make_meta(position=Position(3, 0)))
    save(tmp_path / "checkpoint-2", model, make_meta(position=Position(2, 8)))
    assert resolve(str(tmp_path)).endswith("checkpoint-3")


@pytest.mark.parametrize("path", ["missing", "."])
def test_what_is_no_checkpoint_is_refused(tmp_path, path):
    with pytest.raises(UserError, match="--checkpoint"):
        resolve(str(tmp_path / path))


def test_a_run_is_not_continued_with_other_settings():
    other = Config(model=ModelConfig(depth=50, width=16))
    with pytest.raises(UserError, match=r"model\.depth: was 26, now 50"):
        check_same_run(other, "f" * 64, make_meta())


def test_epochs_and_shares_that_decay_alike_are_one_schedule():
    """Runs of recipes from before shares go on."""
    meta, values = make_meta(), make_meta().config
    assert values["optim"]["milestones"] == [30, 40, 45]
    for new in ("name", "schedule", "betas", "eps", "min_lr", "preset", "freeze", "partial_bn"):
        del meta.config["optim"][new]  # an older version wrote it
    values["optim"]["milestones"] = [0.6, 0.8, 0.9]
    check_same_run(Config.from_dict(values), "f" * 64, meta)
    values["optim"]["milestones"] = [0.6, 0.8]
    with pytest.raises(UserError, match=r"milestones: was \[30, 40, 45\], now \[0.6, 0.8\]"):
        check_same_run(Config.from_dict(values), "f" * 64, meta)


def test_a_setting_that_neither_run_looks_at_may_differ():
    values = make_meta().config
    values["optim"] |= {"schedule": "cosine", "gamma": 0.5}
    meta = replace(make_meta(), config=values)
    check_same_run(
        Config.from_dict({**values, "optim": {**values["optim"], "gamma": 0.1}}), "f" * 64, meta
    )
    with pytest.raises(UserError, match=r"optim\.name: was sgd, now adamw\): choose another"):
        check_same_run(
            Config.from_dict({**values, "optim": {**values["optim"], "name": "adamw"}}),
            "f" * 64,
            meta,
        )


def test_a_run_is_not_continued_on_another_manifest():
    with pytest.raises(UserError, match="another manifest"):
        check_same_run(Config(model=ModelConfig(depth=26, width=16)), "0" * 64, make_meta())


def test_settings_that_change_no_result_may_differ_when_a_run_is_continued():
    values = make_meta().config
    values = {**values, "train": {**values["train"], "num_workers": 4, "log_every_steps": 1}}
    values["data"] = {**values["data"], "decoder": "sequential"}
    check_same_run(Config.from_dict(values), "f" * 64, make_meta())


def test_a_meta_with_a_setting_of_another_version_is_refused(tmp_path):
    meta = json.loads(make_meta().to_json())
    del meta["checksum"]
    meta["config"]["optim"]["lookahead"] = 3
    with pytest.raises(UserError, match=r"unknown setting optim\.lookahead"):
        checkpoints.config_of(checkpoints.Meta.from_json(checkpoints.sealed(meta)))


def test_of_a_run_directory_best_or_last_is_taken_and_said(tmp_path, model, caplog):
    for number, top1 in [(1, 0.5), (2, 0.75), (3, 0.25)]:
        meta = make_meta(step=number, position=Position(number, 0), metrics={"val_top1": top1})
        save(tmp_path / f"checkpoint-{number}", model, meta)
    with caplog.at_level("INFO", "stm"):
        assert resolve(str(tmp_path)).endswith("checkpoint-2")
        assert resolve(str(tmp_path), "last").endswith("checkpoint-3")
    assert [record.getMessage().partition(": its ")[2] for record in caplog.records] == [
        "best checkpoint, step 2, epoch 2, validation top-1 75.0%",
        "last checkpoint, step 3, epoch 3, validation top-1 25.0%",
    ]
    caplog.clear()
    with caplog.at_level("INFO", "stm"):
        assert resolve(str(tmp_path / "checkpoint-1"), "last").endswith("checkpoint-1")
    said = caplog.records[0].getMessage()
    assert "checkpoint-1: step 1, epoch 1, validation top-1 50.0% (it is one" in said
    with pytest.raises(UserError, match="--which lst: must be best or last"):
        resolve(str(tmp_path), "lst")


def test_what_was_chosen_by_its_validation_is_known_however_it_is_named(tmp_path, model):
    run = tmp_path / "run"
    for number, top1 in [(1, 0.5), (2, 0.75), (3, 0.25)]:
        meta = make_meta(step=number, position=Position(number, 0), metrics={"val_top1": top1})
        save(run / f"checkpoint-{number}", model, meta)
    assert find(str(run)).was_chosen
    assert find(f"{run}/checkpoint-2").was_chosen
    assert not find(str(run), "last").was_chosen
    assert not find(f"{run}/checkpoint-3").was_chosen
    assert not find(f"{run}/checkpoint-1").was_chosen
    assert find(str(run)).taken == {"which": "best", "step": 2, "epoch": 2}


def test_a_figure_on_the_videos_that_chose_the_best_is_said_to_flatter():
    on = {"metrics": {"val_top1": 0.5}, "val_fingerprint": "v"}
    published = checkpoints.chosen_on(make_meta(**on, val_dataset="ucf101"), "v", "ucf101")
    assert "UCF-101 publishes no validation list" in published
    assert "HMDB-51" in checkpoints.chosen_on(make_meta(**on, val_dataset="hmdb51"), "v", "hmdb51")
    mine = make_meta(**on, val_dataset="mine")
    assert "these very videos" in checkpoints.chosen_on(mine, "v", "mine")
    assert checkpoints.chosen_on(mine, "w", "mine") is None
    assert checkpoints.chosen_on(make_meta(val_fingerprint="v"), "v", "mine") is None
