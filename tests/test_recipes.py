"""Recipes: each is the paper's schedule, is found by name, builds its network and takes a training step."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pipelines import cli
from pipelines.options import Options
from pipelines.words import read
from stm import recipes
from stm.checkpoint.format import model_arguments
from stm.config import Config, DataConfig
from stm.errors import UserError
from stm.model import build_model
from stm.train.freezing import freeze
from stm.train.optim import build_optimizer, learning_rate, weighted_loss_sum

ROOT = Path(__file__).parents[1]

# name: (classes, T, global batch, rate, dropout, epochs, decays after, flip, accuracies of the paper in its header)
LARGE = (0.01, 0.5, 50, [30, 40, 45])  # from ImageNet
SMALL = (0.001, 0.8, 25, [15])  # from Kinetics
OURS = ["laptop", "one-gpu", "scratch-small", "something-v2-t8-modern"]
PAPER = {
    "something-v1-t8": (174, 8, 64, *LARGE, "never", ["49.2", "79.3", "47.5"]),
    "something-v1-t16": (174, 16, 32, *LARGE, "never", ["50.7", "80.4", "49.8"]),
    "something-v2-t8": (174, 8, 64, *LARGE, "never", ["62.3", "88.8"]),
    "something-v2-t16": (174, 16, 32, *LARGE, "never", ["64.2", "89.8"]),
    "jester-t8": (27, 8, 64, *LARGE, "never", ["96.6", "99.9"]),
    "jester-t16": (27, 16, 32, *LARGE, "never", ["96.7", "99.9"]),
    "kinetics400-t16": (400, 16, 32, *LARGE, "auto", ["73.7", "91.6"]),
    "ucf101-t16": (101, 16, 32, *SMALL, "auto", ["96.2"]),
    "hmdb51-t16": (51, 16, 32, *SMALL, "auto", ["72.2"]),
}


def load(name: str) -> Config:
    """A recipe as a config; an unknown section, like an unknown key, is an error."""
    values = yaml.safe_load(Path(recipes.path_of(name)).read_text())
    assert set(values) <= set(Config().to_dict())
    return Config.from_dict(values)


def header(name: str) -> str:
    lines = Path(recipes.path_of(name)).read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_there_is_a_recipe_for_each_dataset_of_the_paper_and_some_of_ours():
    assert recipes.names() == sorted([*PAPER, *OURS])


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers_schedule(name):
    config = load(name)
    _, num_segments, batch_size, lr, dropout, epochs, milestones, flip, _ = PAPER[name]
    optim, data, model = config.optim, config.data, config.model
    assert (model.variant, model.depth, model.dropout) == ("stm", 50, dropout)
    assert (model.width, model.fusion, model.temporal_conv, model.blocks) == (
        64, "sum", "channelwise", None,
    )  # fmt: skip
    assert (data.num_segments, data.size, data.flip) == (num_segments, 224, flip)
    kept = {"num_segments": 8, "flip": "auto"} | dict.fromkeys(("train", "val", "root"))
    assert replace(data, **kept) == DataConfig()  # no augmentation that the paper has not
    assert (optim.batch_size, optim.lr, optim.epochs) == (batch_size, lr, epochs)
    assert (optim.milestone_epochs, optim.gamma) == (milestones, 0.1)
    assert (optim.name, optim.schedule, optim.freeze, optim.preset) == ("sgd", "step", [], None)
    assert (optim.momentum, optim.weight_decay, optim.clip_grad_norm) == (0.9, 5e-4, 20.0)
    assert (optim.warmup_epochs, optim.label_smoothing) == (0.0, 0.0)
    assert config.train.num_workers == 8


@pytest.mark.parametrize("name", PAPER)
def test_the_rate_is_the_papers_at_its_batch_and_follows_another(name):
    optim, lr = load(name).optim, PAPER[name][3]
    assert optim.effective_lr == pytest.approx(lr)
    assert replace(optim, batch_size=optim.batch_size // 2).effective_lr == pytest.approx(lr / 2)
    rates = [learning_rate(optim, epoch * 10, 10) for epoch in range(optim.epochs)]
    for number, first in enumerate([0, *PAPER[name][6]]):
        assert rates[first] == pytest.approx(lr * 0.1**number)
        assert first == 0 or rates[first - 1] == pytest.approx(lr * 0.1 ** (number - 1))
    short = replace(optim, epochs=optim.epochs // 5)
    assert [learning_rate(short, epoch * 10, 10) for epoch in range(short.epochs)] == rates[::5]


@pytest.mark.parametrize("name", [*PAPER, *OURS])
def test_a_recipe_builds_its_network_and_takes_a_step(name):
    config, num_classes = load(name), PAPER[name][0] if name in PAPER else 5
    torch.manual_seed(0)
    model = build_model(**model_arguments(config), num_classes=num_classes).train()
    freeze(model, config.optim)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = build_optimizer(model, config.optim)
    clips = torch.randn(2, config.data.num_segments, 3, 64, 64)
    logits = model(clips)
    assert logits.shape == (2, num_classes)
    loss = weighted_loss_sum(logits, torch.tensor([0, num_classes - 1]), torch.ones(2)) / 2
    loss.backward()
    torch.nn.utils.clip_grad_norm_(
        model.parameters(), config.optim.clip_grad_norm, error_if_nonfinite=True
    )
    optimizer.step()
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert still == {key for key, value in model.named_parameters() if not value.requires_grad}
    assert any(still) is (name == "laptop")


@pytest.mark.parametrize("name", [*PAPER, *OURS])
def test_a_header_names_commands_that_parse_hardware_accuracy_and_what_is_unseen(name, capfd):
    text = header(name)
    if name in PAPER:
        for accuracy in PAPER[name][-1]:
            assert f"{accuracy} %" in text
        assert "8 GPUs" in text
        assert f"global batch {PAPER[name][2]}" in text
        assert "We have not reproduced these figures" in text
    else:
        assert "Hardware: " in text
        assert "Not run: this recipe has not been run to completion" in text
    for number in re.findall(r"global batch (\d+)", text):
        assert int(number) == load(name).optim.batch_size
    commands = re.findall(r"^#   (?:for .*; do )?(stm .*?)(?:; done)?$", joined(text), re.MULTILINE)
    assert {command.split()[1] for command in commands} >= {"index"}
    verb = "splits" if "splits" in text else "train"
    assert f"stm {verb} --config {name}" in text
    for command in commands:
        words = command.replace("$n", "1").split()[1:]
        verb_module = importlib.import_module(f"pipelines.{words[0]}")
        read(Options.of(verb_module), words[1:])
    assert capfd.readouterr().err == ""


def joined(text: str) -> str:
    return re.sub(r" \\\n#\s+", " ", text)


@pytest.mark.parametrize("name", [*PAPER, *OURS])
def test_a_recipe_reads_the_manifests_that_its_header_writes(name):
    written = re.findall(r"--output (\S+?)(?:;|\s|$)", joined(header(name)))
    config = load(name)
    assert written
    folder = written[0].replace("$n", "1")
    assert (config.data.train, config.data.val) == (
        f"{folder}/train.parquet",
        f"{folder}/val.parquet",
    )
    if name not in PAPER:
        return
    start = "weights/kinetics400-t16.safetensors" if name[:3] in ("ucf", "hmd") else "imagenet"
    assert config.model.pretrained == start


def test_a_recipe_is_taken_by_name_from_anywhere(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(["train", "--config", "jester-t8", "--optim.epochs", "3", "--print_config"]) == 0
    )
    values = yaml.safe_load(capfd.readouterr().out)
    assert values["data"]["train"] == "manifests/jester/train.parquet"
    assert values["optim"]["epochs"] == 3


def test_a_file_of_that_name_comes_before_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jester-t8").write_text("optim: {epochs: 2}")
    (tmp_path / "jester-t16").mkdir()
    assert recipes.path_of("jester-t8") == "jester-t8"
    assert Path(recipes.path_of("jester-t16")).is_file()


def test_yaml_in_place_of_a_file_still_works(capfd):
    assert cli.main(["train", "--config", "optim: {epochs: 7}", "--print_config"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["optim"]["epochs"] == 7


def test_a_misspelt_recipe_is_refused_with_those_there_are(capfd):
    try:
        status = cli.main(["train", "--config", "something-v1-t9"])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert "--config something-v1-t9: neither a file nor a recipe" in err
    assert "did you mean something-v1-t8?" in err
    assert all(name in err for name in recipes.names())
    assert "Traceback" not in err
    with pytest.raises(UserError, match="recipes are hmdb51-t16, "):
        recipes.path_of("kinetics.yaml")


def test_recipes_are_in_the_wheel(tmp_path):
    """Built from what setuptools collects, without a network."""
    code = f"import setuptools.build_meta as build; build.build_wheel({str(tmp_path)!r})"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for package in ("stm", "pipelines"):
        (source / package).symlink_to(ROOT / package)
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {Path(name).stem for name in zipfile.ZipFile(wheel).namelist() if "recipes/" in name}
    assert inside >= {*PAPER, *OURS}
