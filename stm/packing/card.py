"""The model card: what a version is, its accuracy and on which videos, how it was trained, and its limits."""

from __future__ import annotations

import json
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.config import DataConfig
from stm.plural import counted
from stm.redaction import redact
from stm.version import __version__

_MOST_CLASSES = 50
"""With more classes, the card gives only their number, and ``meta.json`` lists them."""


def model_card(
    name: str,
    meta: checkpoints.Meta,
    num_parameters: int,
    measured: Any,
    per_class: dict[str, float | None],
    command: str,
    requirements: list[str],
    uri: str | None = None,
) -> str:
    """Return the card as Markdown, without secrets in URLs.

    ``measured`` is a ``stm.package.rules.Measurement`` or None. ``per_class`` has the top-1 accuracy of each measured
    class, and ``command`` is the command of that measurement. ``uri`` is what the example loads, by default the
    champion of ``name``.
    """
    config = checkpoints.config_of(meta)
    model, data, optim = config.model, config.data, config.optim
    shape = f"{counted(data.num_segments, 'frame')} of {data.size} x {data.size} px"
    workers = counted(meta.world_size, "worker")
    parts = [
        f"# {name}",
        f"{model.variant.upper()}, ResNet depth {model.depth} (Jiang et al., ICCV 2019). It recognises which of "
        f"{counted(len(meta.classes), 'action')} a video shows, from {shape}. It has {num_parameters:,} parameters. "
        f"Written by stm {__version__}.",
        "## Numbers",
        _numbers(meta, measured, per_class, command),
        "## Use",
        "```python\n"
        "import mlflow\n"
        f'model = mlflow.pyfunc.load_model("{uri or f"models:/{name}@champion"}")\n'
        'model.predict(["clip.mp4"])                   # paths or URLs: classes, scores, error\n'
        'model.predict({"clip": list(clips)})          # clips: uint8 [N, T, H, W, 3], RGB\n'
        'model.predict(["clip.mp4"], params={"top_k": 1})\n'
        "```\n"
        f"The model reads a video as training's validation does: {_frames(data)}, the "
        f"centre square of 224/256 of the short side, resized to {data.size} px. Cut clips in the same way.",
        "It needs: " + ", ".join(f"`{line}`" for line in requirements) + ".",
        "## Data",
        f"- dataset: {meta.dataset or 'unnamed'}\n"
        f"- training manifest: SHA-256 `{meta.fingerprint}` of ids, labels, lengths, usable rows and class names\n"
        f"- classes: {_classes(meta.classes)}",
        "## Training",
        f"Step {meta.step}, epoch {meta.position.epoch} of {optim.epochs}, on {workers}; {optim.described}; with "
        + ", ".join(f"{library} {version}" for library, version in meta.versions.items())
        + (f"; MLflow run `{meta.mlflow_run_id}`" if meta.mlflow_run_id else "")
        + ".",
        *([f"Began with {meta.started_from['summary']}."] if meta.started_from else []),
        "```json\n" + json.dumps(meta.config, indent=1) + "\n```",
        "## Limits",
        _limits(meta),
    ]
    return redact("\n\n".join(parts) + "\n")


def _numbers(
    meta: checkpoints.Meta,
    measured: Any,
    per_class: dict[str, float | None],
    command: str,
) -> str:
    lines = []
    if measured is None:
        lines.append(
            "This version was not measured when it was registered. `stm register --manifest` measures one."
        )
    else:
        lines.append(
            "| protocol | N | unreadable, counted as wrong | top-1 | top-5 | mean class accuracy |\n"
            "|---|---|---|---|---|---|\n"
            f"| {measured.protocol} | {measured.num_videos} | {measured.unreadable} | {measured.top1:.2%} "
            f"| {measured.top5:.2%} | {measured.mean_class_accuracy:.2%} |\n\n"
            f"Manifest `{measured.manifest_path}`, SHA-256 `{measured.manifest}`. This command measured it:\n\n"
            f"    {command}"
        )
        known = {key: value for key, value in per_class.items() if value is not None}
        if known and len(known) <= _MOST_CLASSES:
            lines.append(
                "| class | top-1 |\n|---|---|\n"
                + "\n".join(f"| {_cell(key)} | {value:.1%} |" for key, value in known.items())
            )
        if measured.manifest == meta.fingerprint:
            lines.append(
                "**The model was trained on this manifest: these numbers say nothing about new videos.**"
            )
    if "val_top1" in meta.metrics:
        lines.append(
            f"Training measured top-1 {meta.metrics['val_top1']:.2%} on the validation manifest, "
            f"N = {int(meta.metrics.get('val_num_videos', 0))}. If the "
            "checkpoint was chosen by this number, the number is too high."
        )
    return "\n\n".join(lines)


def _frames(data: DataConfig) -> str:
    if data.sampling == "segments":
        return f"the middle frame of each of {counted(data.num_segments, 'equal segment')}"
    return f"{data.frames}, from its middle"


def _limits(meta: checkpoints.Meta) -> str:
    return "\n".join(
        [
            f"- It knows {counted(len(meta.classes), 'class')}, and always answers with one, even if a video shows "
            "none. Scores are softmax values and are not calibrated: of answers with a score of 0.9, more or fewer "
            "than nine in ten may be right.",
            "- It sees a few frames from the whole video. It can miss a short action in a long video: cut long videos "
            "into clips first."
            if checkpoints.config_of(meta).data.sampling == "segments"
            else "- It sees only a window in the middle of the video: cut long videos into clips first.",
            "- It was trained on the cameras, places and people of its training videos. Measure it on your own videos "
            "before you use it.",
            "- It has not been examined for bias, or for use in decisions about people.",
        ]
    )


def _classes(classes: list[str]) -> str:
    if len(classes) > _MOST_CLASSES:
        return f"{len(classes)}, in `data/checkpoint/meta.json`"
    return ", ".join(classes)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
