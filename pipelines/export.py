"""Write a trained network for other programs: ``stm export --checkpoint runs/first --output stm.onnx``."""

from __future__ import annotations

import sys
from typing import Any, Literal

from pipelines.console import Parser, add_common, run_verb


def build_parser() -> Parser:
    parser = Parser(
        "export",
        "Write a trained network as one file for other programs, checked against the network.",
        """
        stm export --checkpoint runs/first --format onnx --output stm.onnx
        stm export --checkpoint runs/first --format torch_export --output stm.pt2
        stm export --checkpoint runs/first --format safetensors --output stm.safetensors
        """,
    )
    add_common(parser)
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="checkpoint, or run directory for its best one",
    )
    parser.add_argument(
        "--format",
        type=Literal["onnx", "torch_export", "safetensors"],
        default="onnx",
        help="`onnx` (needs the extra `export`) and `torch_export` hold the network, `safetensors` its weights",
    )
    parser.add_argument("--output", type=str, required=True, help="file to write")
    return parser


def run(args: Any) -> dict[str, Any]:
    """Export as the arguments say; the result of ``stm.export.export``."""
    from stm.export import export

    return export(args.checkpoint, args.format, args.output)


def show(result: dict[str, Any]) -> str:
    return (
        f"{result['output']}: {result['format']}, {result['bytes'] / 1e6:.1f} MB, {len(result['classes'])} classes, "
        f"clips of {result['num_frames']} frames of {result['size']} px; "
        f"logits differ from the network's by {result['difference']:.0e} of the largest"
    )


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
