"""Which weights load into which network, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stm.errors import UserError
from stm.model import build_model, load_pretrained
from stm.model.pretrained import fill
from tests.model import reference

SMALL = {"depth": 26, "width": 16}


def make(variant: str = "stm", num_classes: int = 7, seed: int = 0, **settings) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = build_model(variant, num_classes=num_classes, **{**SMALL, **settings})
    reference.randomise(model)
    return model


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in state.items()}


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """A plain ResNet with 1000 classes in torchvision's layout, but smaller than the real one."""
    path = tmp_path / "resnet.pth"
    torch.save(contiguous(make("tsn", 1000, seed=1).state_dict()), path)
    return path


def assert_loaded(model: torch.nn.Module, source: dict[str, torch.Tensor], keys: set[str]) -> None:
    state = model.state_dict()
    assert keys
    for key in keys:
        assert torch.equal(state[key], source[key]), key


@pytest.mark.parametrize(
    "settings",
    [{}, {"variant": "tsn"}, {"variant": "cstm"}, {"fusion": "concat"}, {"stages": (4,)}],
    ids=str,
)
def test_imagenet_weights_fill_everything_but_temporal_cmm_and_fc(imagenet, settings):
    model = make(**settings)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    report = load_pretrained(model, imagenet)
    source = torch.load(imagenet, weights_only=True)
    assert_loaded(model, source, {key for key in source if not key.startswith("fc.")})
    assert "layer3.1.conv2.weight" in source
    assert report.loaded == len(source) - 2
    assert set(report.ignored) == {"fc.weight", "fc.bias"}
    ours = {
        key
        for key in initial
        if any(part in key for part in (".temporal.", ".cmm.", ".conv3_cmm.", "fc."))
    }
    assert {*report.missing} == {key for key in ours if not key.endswith("num_batches_tracked")}
    for key in ours:
        assert torch.equal(model.state_dict()[key], initial[key]), key


def test_after_loading_imagenet_a_silent_stm_says_what_the_resnet_says(imagenet):
    model = make().eval()
    load_pretrained(model, imagenet)
    source = torch.load(imagenet, weights_only=True)
    source |= {key: model.state_dict()[key] for key in ("fc.weight", "fc.bias")}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("temporal.weight"):
                weight.copy_(torch.tensor([0.0, 1.0, 0.0]).view(1, 1, 3, 1))
            if name.endswith("expand.weight"):
                weight.zero_()
        clips = torch.randn(1, 3, 3, 32, 32)
        expected = reference.network(source, clips).mean(dim=1)
        torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-4)


def test_weights_from_before_step_counts_load(imagenet, tmp_path):
    source = torch.load(imagenet, weights_only=True)
    old = {k: v for k, v in source.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")
    model = make()
    report = load_pretrained(model, tmp_path / "old.pt")
    assert report.loaded == len(old) - 2
    assert not any(key.endswith("num_batches_tracked") for key in report.missing)
    assert_loaded(model, old, {key for key in old if not key.startswith("fc.")})


@pytest.mark.parametrize("form", ["file", "folder"])
@pytest.mark.parametrize("num_classes", [7, 400])
def test_our_own_weights_load_but_for_the_fc(tmp_path, form, num_classes):
    source = contiguous(make("stm", num_classes, seed=1).state_dict())
    save_file(source, tmp_path / "model.safetensors")
    model = make()
    head = model.fc.weight.clone()
    path = tmp_path / "model.safetensors" if form == "file" else tmp_path
    report = load_pretrained(model, path)
    assert_loaded(model, source, {key for key in source if not key.startswith("fc.")})
    assert torch.equal(model.fc.weight, head)
    assert report.loaded == len(source) - 2
    assert report.missing == report.ignored == ("fc.bias", "fc.weight")


def test_half_precision_weights_become_the_models_type(imagenet, tmp_path):
    source = torch.load(imagenet, weights_only=True)
    half = {key: v.half() if v.is_floating_point() else v for key, v in source.items()}
    torch.save(half, tmp_path / "half.pth")
    model = make()
    load_pretrained(model, tmp_path / "half.pth")
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, half["conv1.weight"].float())


def refusal(model: torch.nn.Module, path: Path) -> str:
    """The message; whatever it says, the model must be as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_another_depth_is_refused_with_both_depths_and_the_first_keys(tmp_path):
    deeper = build_model("tsn", depth=50, width=16)
    torch.save(deeper.state_dict(), tmp_path / "deeper.pth")
    message = refusal(make(), tmp_path / "deeper.pth")
    assert "(3, 4, 6, 3) blocks in stages 2 to 5, and the model (2, 2, 2, 2)" in message
    assert "layer1.2.bn1.bias" in message
    assert "more" in message


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ({"variant": "cstm"}, {}, "layer1.0.cmm.bn.bias"),
        ({}, {"variant": "cstm"}, "layer1.0.cmm.bn.bias"),
        ({}, {"variant": "tsn"}, "not in the model"),
        ({"stages": (2,)}, {}, "It fits a model of variant stm, depth 26, width 16, stages [2]"),
        ({"blocks": (1,)}, {}, "stages [2, 3, 4, 5], blocks [1]"),
        ({"reduction": 8}, {}, "reduction 8"),
        ({"temporal_kernel": 5}, {}, "temporal_kernel 5"),
        (
            {},
            {"depth": 50},
            "It has (2, 2, 2, 2) blocks in stages 2 to 5, and the model (3, 4, 6, 3)",
        ),
        ({}, {"fusion": "concat"}, "conv3_cmm"),
        ({"width": 32}, {}, "depth 26, width 32"),
        ({"temporal_conv": "ordinary"}, {}, "layer1.0.temporal.weight is [16, 16, 3, 1] in it"),
    ],
    ids=str,
)
def test_weights_of_another_network_of_ours_are_refused(tmp_path, there, here, words):
    torch.save(make(seed=1, **there).state_dict(), tmp_path / "other.pth")
    assert words in refusal(make(**here), tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("layer2.1.conv2.weight"), "layer2.1.conv2.weight"),
        (lambda state: state.pop("bn1.running_mean"), "bn1.running_mean"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra"),
        (
            lambda state: state.update({"layer1.0.conv2.weight": torch.zeros(16, 1, 3, 3)}),
            "layer1.0.conv2.weight is [16, 1, 3, 3] in it and [16, 16, 3, 3] in the model",
        ),
    ],
    ids=["a 3x3 is missing", "a statistic is missing", "one too many", "a 3x3 of another shape"],
)
def test_a_single_tensor_that_does_not_fit_is_refused(imagenet, change, words):
    state = torch.load(imagenet, weights_only=True)
    change(state)
    torch.save(state, imagenet)
    assert words in refusal(make(), imagenet)


def test_names_of_another_family_are_told_apart(imagenet):
    torch.save({"blocks.0.attn.weight": torch.zeros(1)}, imagenet)
    assert "is not a ResNet with torchvision's layers" in refusal(make(), imagenet)
    torch.save({"encoder.weight": torch.zeros(1)}, imagenet)
    assert "do not have the names of a ResNet" in refusal(make(), imagenet)


def test_basic_blocks_are_told_apart(imagenet):
    state = torch.load(imagenet, weights_only=True)
    torch.save({k: v for k, v in state.items() if "3." not in k.split("layer")[-1][4:]}, imagenet)
    assert "basic blocks" in refusal(make(), imagenet)


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_files_that_are_no_state_dict_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make()
    assert "there is no file" in refusal(model, tmp_path / "absent.pth")

    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"there is no file .*model\.safetensors"):
        load_pretrained(model, tmp_path / "folder")

    for content, words in {
        b"": "is empty",
        b"\n<!DOCTYPE html><html><body>Not found": "is a web page, not weights",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab": "git lfs pull",
    }.items():
        (tmp_path / "weights.ckpt").write_bytes(content)
        assert words in refusal(model, tmp_path / "weights.ckpt")

    for name in ("noise.pth", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        message = refusal(model, tmp_path / name)
        assert "cannot be read" in message or "damaged" in message

    torch.save(Harmful(), tmp_path / "harmful.pt")
    assert "which stm does not load" in refusal(model, tmp_path / "harmful.pt")
    assert not (tmp_path / "ran").exists()

    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "training.pth")
    assert "epoch, state_dict" in refusal(model, tmp_path / "training.pth")

    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "not a state dict" in refusal(model, tmp_path / "list.pth")


def test_a_file_cut_short_is_refused(imagenet):
    imagenet.write_bytes(imagenet.read_bytes()[:-5000])
    assert "may be incomplete" in refusal(make(), imagenet)


# ---------------------------------------------------------------------- other people's names


def in_hugging_faces_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of what is read, written by hand: their model has a module for each of these words."""

    def name(key: str) -> str:
        parts = key.split(".")
        if parts[0] == "fc":
            return f"classifier.1.{parts[1]}"
        if parts[0] in ("conv1", "bn1"):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            return f"resnet.embedder.embedder.{kind}.{parts[1]}"
        stage = f"resnet.encoder.stages.{int(parts[0][-1]) - 1}.layers.{parts[1]}"
        if parts[2] == "downsample":
            return f"{stage}.shortcut.{('convolution', 'normalization')[int(parts[3])]}.{parts[4]}"
        kind = "convolution" if parts[2].startswith("conv") else "normalization"
        return f"{stage}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"

    return {name(key): value for key, value in state.items()}


def in_open_mmlabs_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def name(key: str) -> str:
        if key.startswith("fc."):
            return f"cls_head.fc_cls.{key[3:]}"
        key = key.replace("downsample.0.", "downsample.conv.").replace(
            "downsample.1.", "downsample.bn."
        )
        for n in "123":
            key = key.replace(f"bn{n}.", f"conv{n}.bn.").replace(
                f"conv{n}.weight", f"conv{n}.conv.weight"
            )
        return f"backbone.{key}"

    return {name(key): value for key, value in state.items()}


OTHER_NAMES = {
    "Hugging Face": (in_hugging_faces_names, "Hugging Face's"),
    "their bare model": (
        lambda s: {k.removeprefix("resnet."): v for k, v in in_hugging_faces_names(s).items()},
        "Hugging Face's",
    ),
    "OpenMMLab": (in_open_mmlabs_names, "OpenMMLab's below 'backbone.'"),
    "inside DDP": (lambda s: {f"module.{k}": v for k, v in s.items()}, "below 'module.'"),
    "TSM": (
        lambda s: {
            "module.new_fc.weight"
            if k == "fc.weight"
            else "module.base_model."
            + (k.replace("conv1.", "conv1.net.") if k.startswith("layer") else k): v
            for k, v in s.items()
        },
        "TSM's below 'module.base_model.'",
    ),
    "beside an optimizer": (lambda s: {"epoch": 3, "state_dict": s, "arch": "resnet50"}, ""),
    "in safetensors": (lambda s: s, ""),
}


@pytest.mark.parametrize("form", OTHER_NAMES)
def test_the_same_resnet_under_other_names_is_the_same(imagenet, tmp_path, form):
    renamed, adapted = OTHER_NAMES[form]
    state = torch.load(imagenet, weights_only=True)
    path = tmp_path / "weights.pth.tar"
    (save_file if form == "in safetensors" else torch.save)(renamed(dict(state)), path)
    model = make()
    report = load_pretrained(model, path)
    assert_loaded(model, state, {key for key in state if not key.startswith("fc.")})
    assert report.adapted == adapted


def without(state, *words):
    return {k: v for k, v in state.items() if not any(word in k for word in words)}


OTHER_KINDS = {
    "deep stem": (lambda s: s | {"conv1.0.weight": s["conv1.weight"]}, "resnet50d"),
    "ResNet-D": (
        lambda s: s | {"layer1.0.downsample.1.weight": s["layer1.0.downsample.0.weight"]},
        "shortcuts have an average pool",
    ),
    "SE": (lambda s: s | {"layer1.0.se.fc1.weight": torch.zeros(1)}, "attention in its blocks"),
    "group norm": (
        lambda s: without(s, "running", "tracked"),
        "without batch normalisation statistics",
    ),
    "ResNeXt": (
        lambda s: {k: v[:, :4] if "layer" in k and "conv2" in k else v for k, v in s.items()},
        "ResNeXt",
    ),
    "wide": (
        lambda s: s | {"layer1.0.conv1.weight": torch.zeros(32, 16, 1, 1)},
        "wide ResNet, whose first block has 32 channels",
    ),
    "two": (
        lambda s: {f"{e}.{k}": v for k, v in s.items() for e in ("encoder_q", "encoder_k")},
        "holds 2 networks, under 'encoder_q.' and 'encoder_k.'",
    ),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_resnet_are_refused_by_what_they_are(imagenet, kind):
    change, words = OTHER_KINDS[kind]
    torch.save(change(torch.load(imagenet, weights_only=True)), imagenet)
    assert words in refusal(make(), imagenet)


def test_rows_of_the_classifier_go_where_they_are_told(imagenet):
    source = torch.load(imagenet, weights_only=True)
    model = make()
    before = {key: model.state_dict()[f"fc.{key}"].clone() for key in ("weight", "bias")}
    report = fill(model, source, "resnet.pth", rows={0: 999, 4: 2})
    assert report.rows == 2
    for key, fresh in before.items():
        now = model.state_dict()[f"fc.{key}"]
        assert torch.equal(now[[0, 4]], source[f"fc.{key}"][[999, 2]])
        assert torch.equal(now[[1, 2, 3, 5, 6]], fresh[[1, 2, 3, 5, 6]])


def test_a_classifier_shorter_than_its_class_names_is_refused(imagenet):
    source = torch.load(imagenet, weights_only=True)
    with pytest.raises(UserError, match="shape of its classifier does not match its class names"):
        fill(make(), source, "resnet.pth", rows={0: 1000})
