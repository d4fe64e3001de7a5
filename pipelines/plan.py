"""What a training takes and costs: ``python -m pipelines.plan --bench data.json model.json --prices prices.yaml``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Literal

from pipelines.console import Parser, add_root, run_verb
from stm.errors import UserError

ASSUMPTIONS = {
    "decode_headroom": "decoding cores for each one that the mean rate asks for",
    "cpus_per_worker": "CPUs each training worker reserves",
    "network_share": "share of its nominal rate that a network carries",
    "overlap": "share of a step in which the all-reduce is hidden",
    "hop_us": "microseconds of one hop of the ring",
    "jitter": "standard deviation of step times between ranks, as a share",
}


def build_parser() -> Parser:
    parser = Parser(
        "plan",
        "Say how many CPU nodes feed a GPU node, and how long and how dear a training is on 1 to 256 GPUs, on demand "
        "and on spot nodes. Starts from measured rates and refuses to guess them; names whatever it assumes.",
        """
        stm plan --bench data.json model.json --prices prices.yaml --manifest train.parquet --epochs 50
        stm plan --bench data.json --train_clips_per_s_gpu 400 --batch_size 8 --prices sample --num_videos 99 --epochs 9
        stm plan --bench data.json model.json --prices prices.yaml --num_videos 86017 --epochs 50 --output plan
        """,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout and nothing else there"
    )
    add = parser.add_argument
    add("--bench", nargs="+", type=str, default=[], help="what `stm bench ... --json` printed")
    add(
        "--decode_clips_per_s_core",
        type=float | None,
        default=None,
        help="instead of a file of `stm bench data` or `decode`",
    )
    add(
        "--train_clips_per_s_gpu",
        type=float | None,
        default=None,
        help="instead of a file of `stm bench model --device cuda`",
    )
    add(
        "--batch_size",
        type=int | None,
        default=None,
        help="clips a step on a GPU; null: as measured",
    )
    add(
        "--num_segments",
        type=int | None,
        default=None,
        help="frames a clip; null: as measured, or 8",
    )
    add(
        "--size",
        type=int | None,
        default=None,
        help="side of a clip, px; null: as measured, or 224",
    )
    add("--manifest", type=str | None, default=None, help="manifest to train on")
    add_root(parser)
    add("--num_videos", type=int | None, default=None, help="or how many videos it would have")
    add("--epochs", type=int | None, default=None, help="epochs")
    add(
        "--prices",
        type=str | None,
        default=None,
        help="YAML of machines and prices; `sample` is one with made-up prices",
    )
    add("--gpu_node", type=str, default="gpu", help="the machine that trains, by its name there")
    add("--cpu_node", type=str, default="cpu", help="the machine that decodes")
    add("--head_node", type=str | None, default=None, help="the machine that holds the job, if any")
    add(
        "--cpu_nodes_per_gpu_node",
        type=float | None,
        default=None,
        help="as many as there will be; null plans as many as it takes",
    )
    add("--variant", type=str, default="stm", help="network, for the size of its gradients")
    add("--depth", type=Literal[26, 50, 101, 152], default=50, help="its ResNet depth")
    add("--num_classes", type=int, default=174, help="its classes")
    add(
        "--checkpoint_minutes",
        type=float,
        default=10.0,
        help="as in train.checkpoint_every_minutes",
    )
    add("--start_s", type=float, default=120.0, help="assumed: from paying to the first step, s")
    add(
        "--restart_s",
        type=float,
        default=120.0,
        help="assumed: from a lost node to the next step, s",
    )
    for name, said in ASSUMPTIONS.items():
        add(
            f"--{name}",
            type=float | None,
            default=None,
            help=f"assumed: {said}; null: docs/scaling.md",
        )
    add("--output", type=str | None, default=None, help="directory for plan.json and plan.png")
    return parser


def run(args: Any) -> dict[str, Any]:
    """The plan that the arguments ask for; the result of ``stm.planning.plan.make``."""
    from stm.planning.cost import Job
    from stm.planning.model import Assumptions
    from stm.planning.plan import Question, make
    from stm.planning.prices import SAMPLE, read_prices
    from stm.planning.rates import read_rates

    for name in ("batch_size", "num_segments", "size", "num_classes"):
        if args[name] is not None and args[name] < 1:
            raise UserError(f"--{name} {args[name]}: must be at least 1")
    rates = read_rates(
        args.bench,
        decode=args.decode_clips_per_s_core,
        train=args.train_clips_per_s_gpu,
        batch_size=args.batch_size,
        num_segments=args.num_segments,
        size=args.size,
        network=args.variant,
    )
    if args.epochs is None:
        raise UserError("--epochs is not set")
    if args.prices is None:
        raise UserError(f"--prices is not set: a file of machines and prices like {SAMPLE}")
    given = {name: args[name] for name in ASSUMPTIONS if args[name] is not None}
    question = Question(
        rates=rates,
        job=Job(
            num_videos=_num_videos(args),
            epochs=args.epochs,
            start_s=args.start_s,
            restart_s=args.restart_s,
            checkpoint_minutes=args.checkpoint_minutes,
        ),
        prices=read_prices(str(SAMPLE) if args.prices == "sample" else args.prices),
        gpu=args.gpu_node,
        cpu=args.cpu_node,
        head=args.head_node,
        num_parameters=_num_parameters(args),
        assumed=dataclasses.replace(Assumptions(), **given),
        cpu_nodes_per_gpu_node=args.cpu_nodes_per_gpu_node,
    )
    result = make(question)
    if args.output:
        from stm.planning.figure import plot_curve

        folder = Path(args.output)
        title = (
            f"{question.job.num_videos} videos, {question.job.epochs} epochs; planned, not measured"
        )
        figure = plot_curve(folder / "plan.png", result["rows"], result["currency"], title)
        result["files"] = {"figure": str(figure), "plan": str(folder / "plan.json")}
        (folder / "plan.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def _num_videos(args: Any) -> int:
    if args.num_videos is not None:
        return int(args.num_videos)
    if args.manifest is None:
        raise UserError("how many videos? give --manifest FILE or --num_videos N")
    from stm.data.manifest import Manifest

    return len(Manifest.read(args.manifest, args.root).usable)


def _num_parameters(args: Any) -> int:
    import torch

    from stm.model import build_model, count_parameters

    try:
        with torch.device("meta"):
            return count_parameters(build_model(args.variant, args.depth, args.num_classes))
    except ValueError as error:
        raise UserError(f"--variant {args.variant}: {error}") from error


def show(result: dict[str, Any]) -> str:
    """The table, and under it what was measured and what was assumed."""
    per, currency = result["per_gpu_node"], result["currency"]
    lines = [
        f"one GPU node ({per['gpus']} GPUs) takes {per['clips_mb_s']:.0f} MB/s of clips from {per['decode_cores']:.0f} "
        f"decoding cores: {per['own_cores']:g} of its own, and {per['cpu_nodes']:.2f} CPU nodes beside it; its network "
        f"carries {per['network_mb_s']:.0f} MB/s",
        f"a clip is {result['clip_mb']} MB, the gradients {result['gradient_mb']} MB",
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


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(argv: list[str] | None = None) -> int:
    return run_verb(build_parser, run, argv, show)


if __name__ == "__main__":
    sys.exit(main())
