"""Export a trained network as one file for other programs, and check the file against the network.

    onnx            BN folded; for any ONNX runtime
    torch_export    BN folded; ``torch.export.load(FILE).module()(clips)``, and FILE.json beside it
    safetensors     the trained weights; ``build_model(**network)`` and ``load_state_dict``

The first two map ``clips: float32 [batch, T, 3, size, size]`` (RGB, scaled to [0, 1], then normalised with ``mean``
and ``std``) to ``logits: float32 [batch, num_classes]``. The batch may have any length; T and size are those of
training. ONNX and safetensors files hold the values of `describe` in their metadata, each as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import find
from stm.errors import UserError
from stm.log import get_logger
from stm.storage import on_this_machine, whole_file, write_bytes
from stm.version import DISTRIBUTION, __version__

if TYPE_CHECKING:
    import torch

    from stm.model import VideoResNet

logger = get_logger(__name__)

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest allowed difference of a logit, as a share of the largest logit."""
CHECKED_BATCHES = (1, 3)
TRACED_BATCH = 2

Run = Callable[["torch.Tensor"], "torch.Tensor"]


def export(
    checkpoint: str,
    kind: str,
    output: str,
    *,
    which: str = "best",
) -> dict[str, Any]:
    """Write ``output`` from a checkpoint (or a run directory's ``which``, best or last), read it back, and compare.

    The file is written beside ``output`` under another name, run on seeded clips in batches of 1 and 3, and renamed
    only if its logits match the network's; otherwise ``output`` is not changed.

    Args:
        kind: ``onnx``, ``torch_export`` or ``safetensors``.

    Returns:
        ``output``, ``format``, ``checkpoint``, ``taken``, ``bytes``, ``difference`` (of `parity`) and the values of
        `describe`.

    Raises:
        UserError: there is no checkpoint, a package is missing, or the file cannot be written or does not match.
    """
    if kind == "onnx":
        require_onnx()
    target = Path(on_this_machine(output, "--output"))
    if os.path.isdir(target):
        raise UserError(f"--output {output}: is a directory; name the file")
    located = find(checkpoint, which)
    directory, meta = located.directory, located.meta
    model = _network(
        checkpoints.network_arguments(meta, directory),
        checkpoints.read_weights(directory),
        directory,
    )
    metadata = describe(meta)
    write, read = {
        "onnx": (write_onnx, read_onnx),
        "torch_export": (_write_program, _read_program),
        "safetensors": (_write_weights, _read_weights),
    }[kind]
    logger.info(f"writing {kind} from {directory}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target, ".pt2") as unfinished:
            with quiet():
                write(model, metadata, unfinished)
                difference = parity(model, read(unfinished), metadata)
            if kind == "torch_export":
                beside = target.with_name(f"{target.name}.json")
                write_bytes(str(beside), json.dumps(metadata, indent=1).encode())
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error}") from error
    return {
        "output": output,
        "format": kind,
        "checkpoint": directory,
        "taken": located.taken,
        "bytes": target.stat().st_size,
        "difference": difference,
        **metadata,
    }


def describe(meta: checkpoints.Meta) -> dict[str, Any]:
    """Return what a user of the exported file must know, as JSON types."""
    from stm.model.inputs import IMAGENET_MEAN, IMAGENET_STD

    config = checkpoints.config_of(meta)
    plugin = {} if meta.plugin is None else {"plugin": meta.plugin}
    return {
        "classes": meta.classes,
        "num_frames": config.data.num_segments,
        "frames": config.data.frames,
        "size": config.data.size,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "network": {
            **checkpoints.model_arguments(config),
            "num_classes": len(meta.classes),
        },
        "dataset": meta.dataset,
        "step": meta.step,
        "stm_version": __version__,
        **plugin,
    }


def parity(model: VideoResNet, run: Run, metadata: dict[str, Any]) -> float:
    """Return the largest difference between the logits of ``run`` and ``model``, as a share of the largest logit.

    Raises ``UserError`` if it is more than `TOLERANCE`, or a logit is not finite.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        clips = torch.randn(_shape(metadata, batch), generator=generator)
        with torch.inference_mode():
            expected, found = model(clips), run(clips)
        if not expected.isfinite().all():
            raise UserError("the network's own logits are not finite: its training diverged")
        largest = float(expected.abs().max())
        share = float((found - expected).abs().max()) / (largest or 1.0)
        if not share <= TOLERANCE:  # so that nan fails too
            raise UserError(
                f"the written file and the network differ by {share:.1e} of the largest logit, at a batch of {batch} "
                f"(allowed: {TOLERANCE:.0e}); nothing was written"
            )
        worst = max(worst, share)
    return worst


def _shape(metadata: dict[str, Any], batch: int) -> tuple[int, ...]:
    return (batch, metadata["num_frames"], 3, metadata["size"], metadata["size"])


def _network(
    arguments: dict[str, Any], weights: dict[str, torch.Tensor], source: str
) -> VideoResNet:
    from stm.model import build_model

    model = build_model(**arguments)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{source}: the weights are not those of its network: {error}") from error
    return model.eval()


def _program(model: VideoResNet, metadata: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the folded network as a graph, for batches of any length."""
    import torch

    from stm.model.folding import fold

    clips = torch.zeros(_shape(metadata, TRACED_BATCH))
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(fold(model), (clips,), dynamic_shapes=({0: batch},))


def _write_program(model: VideoResNet, metadata: dict[str, Any], path: Path) -> None:
    import torch

    torch.export.save(_program(model, metadata), path)


def _read_program(path: Path) -> Run:
    import torch

    return torch.export.load(path).module()


def write_onnx(model: VideoResNet, metadata: dict[str, Any], path: Path) -> None:
    """Fold a network in evaluation mode and write it with ``metadata``, which needs ``num_frames`` and ``size``."""
    import torch

    program = torch.onnx.export(
        _program(model, metadata),
        dynamo=True,
        verbose=False,
        input_names=["clips"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),  # the name of that axis in the file
    )
    assert program is not None
    program.model.metadata_props.update(_as_text(metadata))
    program.save(path, external_data=False)


def read_onnx(path: Path) -> Run:
    """Return a function that runs the file in ONNX Runtime on the CPU, with as many threads as PyTorch."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


def _write_weights(model: VideoResNet, metadata: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save

    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    path.write_bytes(save(weights, _as_text(metadata)))


def _read_weights(path: Path) -> Run:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        arguments = json.loads(file.metadata()["network"])
    return _network(arguments, load_file(path), str(path))


def _as_text(metadata: dict[str, Any]) -> dict[str, str]:
    """Return the values as JSON, since both formats store only strings."""
    return {key: json.dumps(value) for key, value in metadata.items()}


def require_onnx() -> None:
    """Raise ``UserError`` if ONNX or its runtime is not installed."""
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install '{DISTRIBUTION}[export]' (or use --format torch_export)"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While the body runs, hide the exporter's warnings about torchvision and its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
