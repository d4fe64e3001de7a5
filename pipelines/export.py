"""Write a trained network for other programs: ``stm export --checkpoint runs/first --output stm.onnx``."""

from __future__ import annotations

from typing import Any, Literal

from pipelines.options import Address, Checkpoint, Output, Which
from stm.plural import counted


def export(
    *,
    checkpoint: Checkpoint,
    which: Which = "best",
    format: Literal["onnx", "torch_export", "safetensors"] = "onnx",
    output: Output,
    address: Address = None,
) -> dict[str, Any]:
    """Write a trained network as one file for other programs.

    The command succeeds only if the file gives the same answers as the network.

    Examples:
        stm export --checkpoint runs/first --format onnx --output stm.onnx
        stm export --checkpoint runs/first --format torch_export --output stm.pt2
        stm export --checkpoint runs/first --format safetensors --output stm.safetensors

    Args:
        format: `onnx` (which needs the extra `export`) or `torch_export` for the network, `safetensors` for the weights
        output: file to write
    """
    from stm.export import export as write

    return write(checkpoint, format, output, which=which)


def show(result: dict[str, Any]) -> str:
    return (
        f"{result['output']}: {result['format']}, {result['bytes'] / 1e6:.1f} MB, "
        f"{counted(len(result['classes']), 'class')}, clips of {counted(result['num_frames'], 'frame')} of "
        f"{result['size']} px; logits differ from the network's by {result['difference']:.0e} of the largest"
    )
