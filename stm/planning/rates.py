"""The measured rates that a plan starts from: read from what ``stm bench --json`` printed, or given.

A rate that nobody measured is never filled in: a plan without it is refused, with the command that measures it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stm.errors import UserError

HOW_TO_MEASURE = {
    "decode": "`stm bench data --manifest train.parquet --json > data.json` (or `stm bench decode`) on a CPU node",
    "train": "`stm bench model --device cuda --precision bfloat16 --json > model.json` on a GPU node",
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one core and one GPU were seen to do."""

    decode_clips_per_s_core: float
    train_clips_per_s_gpu: float
    batch_size: int
    """Clips of a step on one GPU, at which it was measured."""
    num_segments: int
    size: int
    """Side of a clip, px."""
    stream_clips_per_s: float | None = None
    """What one stream deals out at most (`stm bench scale`), the least that was measured; None where nobody did."""
    sources: dict[str, str] = field(default_factory=dict)
    """Rate -> where it comes from."""

    @property
    def clip_bytes(self) -> int:
        """uint8 [T, size, size, 3]."""
        return self.num_segments * self.size**2 * 3


def read_rates(
    files: Sequence[str],
    *,
    decode: float | None = None,
    train: float | None = None,
    batch_size: int | None = None,
    num_segments: int | None = None,
    size: int | None = None,
    network: str = "stm",
) -> Rates:
    """Rates out of bench files; a value given here wins over the files.

    Of ``stm bench data`` the stream's rate counts, of ``stm bench decode`` the packet plan's; the first is taken
    where there are both, as it includes what Ray Data costs.

    Raises ``UserError`` where a rate is missing, was measured on a CPU, or files are of clips of different shapes.
    """
    found = {name: result for name in files for result in [_read(name)]}
    sources: dict[str, str] = {}
    shape = {"num_segments": num_segments, "size": size, "batch_size": batch_size}
    for name, result in found.items():
        said = (
            f"{name} ({result.get('machine', 'unknown machine')}, {result.get('date', 'no date')})"
        )
        if result["what"] == "model" and train is None:
            train = _train_rate(name, result, network)
            sources["train"] = said
        if result["what"] == "model":
            _same_shape(name, shape, result)
    by_kind = {result["what"]: (name, result) for name, result in found.items()}
    if decode is None:
        kind = "data" if "data" in by_kind else "decode"
        if kind in by_kind:
            name, result = by_kind[kind]
            decode = _decode_rate(name, result)
            sources["decode"] = f"{name} ({result.get('machine')}, {result.get('date')})"
    for kind, value, option in (
        ("decode", decode, "--decode_clips_per_s_core"),
        ("train", train, "--train_clips_per_s_gpu"),
    ):
        if value is None:
            raise UserError(
                f"the rate of {option[2:]} is not known, and a plan does not guess it: measure it with "
                f"{HOW_TO_MEASURE[kind]} and give the file in --bench, or give {option}"
            )
        if value <= 0:
            raise UserError(f"{option} {value}: must be above 0")
        sources.setdefault(kind, "given on the command line")
    if shape["batch_size"] is None:
        raise UserError("--batch_size is not set: clips of a step on one GPU, as it was measured")
    rates = Rates(
        decode_clips_per_s_core=float(decode or 0),
        train_clips_per_s_gpu=float(train or 0),
        batch_size=int(shape["batch_size"]),
        num_segments=int(shape["num_segments"] or 8),
        size=int(shape["size"] or 224),
        stream_clips_per_s=_stream_rate(by_kind, sources),
        sources=sources,
    )
    if "data" in by_kind:
        name, result = by_kind["data"]
        if abs(result["clip_mb"] - rates.clip_bytes / 1e6) > 0.0011:  # it is rounded to 0.001
            raise UserError(
                f"{name} is of clips of {result['clip_mb']} MB, the training's are {rates.clip_bytes / 1e6:.3f} MB: "
                "measure both with the same --num_segments and --size"
            )
    return rates


def _read(name: str) -> dict[str, Any]:
    try:
        result = json.loads(Path(name).read_text())
    except OSError as error:
        raise UserError(f"--bench {name}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"--bench {name}: not what `stm bench ... --json` prints: {error}"
        ) from error
    if not isinstance(result, dict) or result.get("what") not in (
        "decode", "data", "model", "scale",
    ):  # fmt: skip
        raise UserError(f"--bench {name}: not what `stm bench ... --json` prints (no `what`)")
    return result


def _train_rate(name: str, result: dict[str, Any], network: str) -> float:
    if result["device"] == "cpu":
        raise UserError(
            f"--bench {name} was measured on a CPU, which says nothing of a GPU: "
            f"{HOW_TO_MEASURE['train']}"
        )
    for row in result["rows"]:
        if row["network"] == network and row["mode"] == "train":
            return float(row["clips_per_s"])
    raise UserError(f"--bench {name}: no row of {network} in training")


def _decode_rate(name: str, result: dict[str, Any]) -> float:
    try:
        if result["what"] == "data":
            return float(result["clips_per_s"]["stream"]) / int(result["cores"])
        return float(result["clips_per_s_core"]["packets"])
    except KeyError as error:
        raise UserError(f"--bench {name}: no {error}; measure it anew") from error


def _stream_rate(
    by_kind: dict[str, tuple[str, dict[str, Any]]], sources: dict[str, str]
) -> float | None:
    if "scale" not in by_kind:
        return None
    name, result = by_kind["scale"]
    sources["stream"] = f"{name} ({result.get('machine')}, {result.get('date')})"
    return min(row["ceiling_clips_per_s"] / row["streams"] for row in result["rows"])


def _same_shape(name: str, shape: dict[str, int | None], result: dict[str, Any]) -> None:
    measured = {
        "num_segments": result["num_frames"],
        "size": result["size"],
        "batch_size": result["batch_size"],
    }
    for key, value in measured.items():
        if shape[key] is not None and shape[key] != value:
            raise UserError(f"--{key} {shape[key]}, but --bench {name} was measured with {value}")
        shape[key] = value
