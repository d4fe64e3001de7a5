"""An exported file says what the network says, knows what it is for, and never half exists."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from pipelines import cli
from stm import export as exporting
from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model import build_model
from tests.model import reference

CLASSES = ["Pushing “it”", "käse, halb", "c"]
T, SIZE = 4, 64
DESCRIPTION = {
    "classes": CLASSES,
    "num_frames": T,
    "size": SIZE,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint whose weights and statistics are all random, and its network."""
    directory = tmp_path_factory.mktemp("checkpoint")
    config = Config(
        model=ModelConfig(depth=26, width=16), data=DataConfig(num_segments=T, size=SIZE)
    )
    torch.manual_seed(0)
    model = build_model(**checkpoints.model_arguments(config), num_classes=len(CLASSES))
    reference.randomise(model)
    meta = checkpoints.Meta(
        config=config.to_dict(),
        classes=CLASSES,
        position=Position(1, 0),
        step=7,
        fingerprint="f" * 64,
    )
    checkpoints.write(directory, model, {}, meta)
    return directory, model.eval()


def read_onnx(path):
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert session.get_inputs()[0].shape == ["batch", T, 3, SIZE, SIZE]
    return metadata, lambda clips: torch.from_numpy(
        session.run(None, {session.get_inputs()[0].name: np.asarray(clips)})[0]
    )


def read_torch_export(path):
    text = path.with_name(f"{path.name}.json").read_text()
    metadata = {key: json.dumps(value) for key, value in json.loads(text).items()}
    return metadata, torch.export.load(path).module()


def read_safetensors(path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    model = build_model(**json.loads(metadata["network"])).eval()
    model.load_state_dict(load_file(path))
    return metadata, model


READERS = {"onnx": read_onnx, "torch_export": read_torch_export, "safetensors": read_safetensors}


@torch.no_grad()
@pytest.mark.parametrize("kind", READERS)
def test_the_file_says_what_the_network_says_at_any_batch_and_what_it_is_for(
    kind, checkpoint, tmp_path, capfd
):
    directory, model = checkpoint
    output = tmp_path / "new" / "stm.pt2"
    arguments = ["--checkpoint", str(directory), "--format", kind, "--output", str(output)]
    assert cli.main(["export", *arguments, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["difference"] <= 1e-4
    assert result["bytes"] == output.stat().st_size

    metadata, run = READERS[kind](output)
    assert {key: json.loads(metadata[key]) for key in DESCRIPTION} == DESCRIPTION
    for batch in (1, 3):
        clips = torch.randn(batch, T, 3, SIZE, SIZE)
        expected = model(clips)
        assert (run(clips) - expected).abs().max() <= 1e-4 * expected.abs().max()
    beside = {"stm.pt2", "stm.pt2.json"} if kind == "torch_export" else {"stm.pt2"}
    assert {path.name for path in output.parent.iterdir()} == beside


def test_a_file_that_says_something_else_never_counts(checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "stm.safetensors"
    output.write_bytes(b"before")
    network = exporting._network

    def damaged(arguments, weights, source):
        """The network as it would come back from a file with one damaged weight."""
        model = network(arguments, weights, source)
        if source.endswith(".pt2"):
            with torch.no_grad():
                model.fc.weight[0, 0] += 10
        return model

    monkeypatch.setattr(exporting, "_network", damaged)
    with pytest.raises(UserError, match=r"differ by .* of the largest logit, at a batch of 1"):
        exporting.export(str(checkpoint[0]), "safetensors", str(output))
    assert output.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["stm.safetensors"]


def test_a_network_that_diverged_is_refused(checkpoint):
    _, model = checkpoint

    def nowhere(clips):
        return torch.full((len(clips), len(CLASSES)), torch.nan)

    metadata = {"num_frames": T, "size": SIZE}
    with pytest.raises(UserError, match="differ by nan"):
        exporting.parity(model, nowhere, metadata)
    with pytest.raises(UserError, match="training diverged"):
        exporting.parity(nowhere, model, metadata)


def test_without_the_extra_the_message_says_how_to_get_it(checkpoint, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    output = tmp_path / "stm.onnx"
    arguments = ["--checkpoint", str(checkpoint[0]), "--output", str(output)]
    assert cli.main(["export", *arguments]) == 2
    told = capfd.readouterr().err
    assert "needs onnxscript, which is not installed: pip install 'stm-video[export]'" in told
    assert not output.exists()


def test_an_output_that_is_a_directory_and_a_checkpoint_that_is_none_are_refused(
    checkpoint, tmp_path
):
    with pytest.raises(UserError, match="is a directory; name the file"):
        exporting.export(str(checkpoint[0]), "safetensors", str(tmp_path))
    with pytest.raises(UserError, match="no such directory"):
        exporting.export("nowhere", "safetensors", str(tmp_path / "a"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        exporting.export(str(checkpoint[0]), "safetensors", str(tmp_path / "file" / "a"))


@pytest.mark.parametrize("variant", ["tsm", "stm"])
def test_no_network_writes_into_parts_of_a_tensor_in_onnx(variant, tmp_path):
    """ONNX Runtime does that in one thread, element by element: TSM took five times as long as TSN."""
    import onnx

    network = build_model(variant, depth=26, num_classes=3, width=16)
    exporting.write_onnx(network, DESCRIPTION, tmp_path / "network.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "network.onnx").graph.node}
    assert "Conv" in kinds
    assert not [kind for kind in kinds if kind.startswith("Scatter")]
