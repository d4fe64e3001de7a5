"""Estimate what a training needs and costs: ``stm plan --bench data.json model.json --prices prices.yaml``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pipelines.options import (
    Count,
    CountOrNull,
    FileOrNull,
    Files,
    NotNegative,
    OutputOrNull,
    Positive,
    PositiveOrNull,
    Root,
)
from stm.bounds import Bounds
from stm.errors import UserError
from stm.planning.model import Assumptions
from stm.plural import counted
from stm.storage import write_bytes


def plan(
    *,
    bench: Files = [],  # noqa: B006  (never changed)
    decode_clips_per_s_core: PositiveOrNull = None,
    train_clips_per_s_gpu: PositiveOrNull = None,
    batch_size: CountOrNull = None,
    num_segments: CountOrNull = None,
    size: CountOrNull = None,
    manifest: str | None = None,
    root: Root = None,
    num_videos: CountOrNull = None,
    epochs: CountOrNull = None,
    prices: FileOrNull = None,
    gpu_node: str = "gpu",
    cpu_node: str = "cpu",
    head_node: str | None = None,
    cpu_nodes_per_gpu_node: Annotated[float | None, Bounds(ge=0)] = None,
    variant: str = "stm",
    depth: Literal[26, 50, 101, 152] = 50,
    num_classes: Count = 174,
    checkpoint_minutes: Positive = 10.0,
    start_s: NotNegative = 120.0,
    restart_s: NotNegative = 120.0,
    assumed: Assumptions,
    output: OutputOrNull = None,
) -> dict[str, Any]:
    """Estimate the nodes, hours and cost of a training run from measured rates.

    The plan gives the number of CPU nodes that one GPU node needs, and the time and cost of a training run on 1 to
    256 GPUs, on demand and on spot nodes. Rates are never guessed, and every assumption is printed.

    Examples:
        stm plan --bench data.json model.json --prices prices.yaml --manifest train.parquet --epochs 50
        stm plan --bench data.json --train_clips_per_s_gpu 400 --batch_size 8 --prices sample --num_videos 99 --epochs 9
        stm plan --bench data.json model.json --prices prices.yaml --num_videos 86017 --epochs 50 --output plan

    Args:
        bench: files with the output of `stm bench ... --json`
        decode_clips_per_s_core: decoding rate of a core, instead of a file of `stm bench data` or `decode`
        train_clips_per_s_gpu: training rate of a GPU, instead of a file of `stm bench model --device cuda`
        batch_size: number of clips in a GPU's step; null uses the measured one
        num_segments: number of frames in a clip; null uses the measured one, or 8
        size: side of a clip, px; null uses the measured one, or 224
        manifest: manifest to train on, whose frame sizes and key frames show whether to run `stm prepare` first
        num_videos: number of videos, instead of a manifest
        epochs: number of epochs
        prices: YAML file of machines and prices; `sample` is one with made-up prices
        gpu_node: name of the training machine in the file of prices
        cpu_node: name of the decoding machine there
        head_node: name of the machine there that runs the job's driver, if it is a separate one
        cpu_nodes_per_gpu_node: number of CPU nodes for each GPU node; null plans as many as are needed
        variant: network, for the size of its gradients
        depth: ResNet depth of the network
        num_classes: number of classes of the network
        checkpoint_minutes: minutes between checkpoints, as in --train.checkpoint_every_minutes
        start_s: assumed seconds from the first paid second to the first step
        restart_s: assumed seconds from the loss of a node to the next step
        output: folder for plan.json and plan.png
    """
    from stm.planning.cost import Job
    from stm.planning.originals import estimate
    from stm.planning.plan import Question, make
    from stm.planning.prices import SAMPLE, read_prices
    from stm.planning.rates import read_rates

    rates = read_rates(
        bench,
        decode=decode_clips_per_s_core,
        train=train_clips_per_s_gpu,
        batch_size=batch_size,
        num_segments=num_segments,
        size=size,
        network=variant,
    )
    if epochs is None:
        raise UserError("--epochs is not set")
    if prices is None:
        raise UserError(f"--prices is not set: give a file of machines and prices like {SAMPLE}")
    videos = None if manifest is None else _numbers(manifest, root)
    if videos is None and num_videos is None:
        raise UserError("the number of videos is not set: give --manifest FILE or --num_videos N")
    question = Question(
        rates=rates,
        job=Job(
            num_videos=num_videos or (len(videos[0]) if videos else 0),
            epochs=epochs,
            start_s=start_s,
            restart_s=restart_s,
            checkpoint_minutes=checkpoint_minutes,
        ),
        prices=read_prices(str(SAMPLE) if prices == "sample" else prices),
        gpu=gpu_node,
        cpu=cpu_node,
        head=head_node,
        num_parameters=_num_parameters(variant, depth, num_classes),
        assumed=assumed,
        cpu_nodes_per_gpu_node=cpu_nodes_per_gpu_node,
        originals=None if videos is None else estimate(rates.num_segments, *videos),
    )
    result = make(question)
    if output:
        from stm.planning.figure import plot_curve

        folder = Path(output)
        title = (
            f"{counted(question.job.num_videos, 'video')}, {counted(question.job.epochs, 'epoch')}; planned, not "
            "measured"
        )
        figure = plot_curve(folder / "plan.png", result["rows"], result["currency"], title)
        result["files"] = {"figure": str(figure), "plan": str(folder / "plan.json")}
        write_bytes(result["files"]["plan"], (json.dumps(result, indent=1) + "\n").encode())
    return result


def _numbers(manifest: str, root: str | None) -> list[Any]:
    from stm.data.manifest import Manifest

    return Manifest.read(manifest, root).usable_numbers()


def _num_parameters(variant: str, depth: int, num_classes: int) -> int:
    import torch

    from stm.model import build_model, count_parameters

    try:
        with torch.device("meta"):
            return count_parameters(build_model(variant, depth, num_classes))
    except ValueError as error:
        raise UserError(f"--variant {variant}: {error}") from error


def show(result: dict[str, Any]) -> str:
    """Return the table, followed by the measured and the assumed values."""
    per, currency = result["per_gpu_node"], result["currency"]
    lines = [
        f"one GPU node ({counted(per['gpus'], 'GPU')}) needs {per['clips_mb_s']:.0f} MB/s of clips from "
        f"{per['decode_cores']:.0f} decoding cores: {per['own_cores']:g} of its own, and those of "
        f"{per['cpu_nodes']:.2f} CPU nodes; its network carries {per['network_mb_s']:.0f} MB/s",
        f"a clip is {result['clip_mb']} MB, the gradients {result['gradient_mb']} MB",
        *_originals(result["originals"]),
        "",
        f"{'GPUs':>5}{'GPU':>6}{'CPU':>6}{'clips/s':>10}{'effi-':>8}{'MB/s into':>11}{'':>13}{'hours':>9}"
        f"{'on demand':>12}{'hours':>9}{'spot':>11}{'cuts':>7}",
        f"{'':>5}{'nodes':>6}{'nodes':>6}{'':>10}{'ciency':>8}{'a GPU node':>11}{'  limited by':<13}{'':>9}"
        f"{currency:>12}{'on spot':>9}{currency:>11}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['gpus']:>5}{row['gpu_nodes']:>6}{row['cpu_nodes']:>6}{row['clips_per_s']:>10.0f}"
            f"{row['efficiency']:>8.1%}{row['network_mb_s']:>11.0f}  {row['limit']:<11}{row['hours']:>9.2f}"
            f"{row['on_demand']:>12.2f}{_or_dash(row['spot_hours']):>9}{_or_dash(row['spot']):>11}"
            f"{_or_dash(row['interruptions']):>7}"
        )
    lines += ["", "measured:"]
    lines += [f"  {name} {rate:g}: {source}" for name, (rate, source) in result["measured"].items()]
    lines += ["assumed:", *(f"  {line}" for line in result["assumed"])]
    lines += [f"{kind}: {path}" for kind, path in result.get("files", {}).items()]
    return "\n".join(lines)


def _originals(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        found["said"] + ("; prepare them first: `stm prepare`" if found["prepare_first"] else "")
    ]


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
