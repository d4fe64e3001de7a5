"""Measure on this machine: ``stm bench decode --videos FOLDER``, ``stm bench model``, ``stm bench scale``."""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
from argparse import Namespace
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pipelines.bench_tables import show as show
from pipelines.options import Address, Count, CountOrNull, OutputOrNull, Positive, Root
from stm.bounds import Rule
from stm.errors import UserError
from stm.plural import counted
from stm.ticker import Ticker

Counts = Annotated[
    list[int], Rule(lambda each: bool(each) and min(each) >= 1, "must be numbers of at least 1")
]
Depth = Literal[26, 50, 101, 152]
NUM_CLIPS = {"data": 960, "train": 240}
REPETITIONS = {"decode": 3, "data": 3, "model": 7, "train": 3, "scale": 3}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a measurement."""

    manifest: str | None = None
    """Manifest of the videos to measure on."""
    videos: str | None = None
    """Folder of videos to measure on, instead of a manifest (decode)."""
    num_videos: Count = 60
    """Largest number of videos to measure on (decode)."""
    num_clips: CountOrNull = None
    """Number of clips in a run; null is 960 for data (Ray starts during the first seconds) and 240 for train."""
    repetitions: CountOrNull = None
    """Number of interleaved repetitions; null is 7 for model and 3 for the others."""
    num_segments: Count = 8
    """Number of frames in a clip."""
    size: Count = 224
    """Side of a clip, px."""
    batch_size: Count = 8
    """Number of clips in a batch (data, model, train)."""
    gpu_clips_per_s: Positive = 400.0
    """Training rate of one GPU in clips/s, from which the number of cores it needs is estimated."""
    depth: Depth = 50
    """ResNet depth (model, train)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses a GPU if there is one (model, train)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of the forward pass (model, train)."""
    threads: CountOrNull = None
    """Number of PyTorch threads; null is PyTorch's default (model, train)."""
    compile: bool = False
    """Compile with torch.compile (model, train)."""
    onnx: bool = False
    """Also measure ONNX Runtime, on a CPU in float32 (model)."""
    ablations: bool = True
    """Also measure TSM, CSTM and CMM, besides STM, TSN and the naive layout; without them, more rounds
    fit into the same time (model)."""
    script: bool = False
    """Also measure the naive layout in separate processes with malloc's defaults, on a CPU; this needs more memory
    (model)."""
    peers: str | None = None
    """Python of an environment with torchcodec or mmaction2, to measure these as well (decode, data, model)."""
    augment: bool = False
    """Measure the CPU time of each augmentation and each sampling of frames instead of the stream (data)."""
    ranks: Counts = field(default_factory=lambda: [8, 64, 256])
    """Numbers of training workers (scale)."""
    clips: Counts = field(default_factory=lambda: [8, 64])
    """Numbers of clips that a worker trains on in a step (scale)."""
    streams: Counts = field(default_factory=lambda: [1])
    """Numbers of streams that feed the workers; numbers larger than the number of workers are skipped (scale)."""
    seconds: Positive = 15.0
    """Seconds for which each combination is measured in a round (scale)."""
    output: OutputOrNull = None
    """Folder for the figure."""


def bench(
    what: Literal["decode", "data", "model", "train", "scale"],
    *,
    settings: Settings,
    root: Root = None,
    address: Address = None,
) -> dict[str, Any]:
    """Measure the speed of decoding, of the data stream, of the network, or of training.

    Examples:
        stm bench decode --videos FOLDER --output bench
        stm bench decode --videos FOLDER --peers peers/bin/python
        stm bench data --manifest train.parquet --gpu_clips_per_s 400
        stm bench data --manifest train.parquet --augment true
        stm bench model --batch_size 2 --threads 1 --onnx --script
        stm bench train --manifest train.parquet --depth 50 --batch_size 8
        stm bench model --device cuda --precision bfloat16 --num_segments 16 --output bench
        stm bench scale --ranks [8,64,256] --clips [8,64] --size 32

    Args:
        what: `decode` for the decoders, `data` for the stream of clips, `model` for the network, `train` for training
            on the stream, `scale` for the rate at which streams can feed many workers
    """
    settings = replace(
        settings,
        repetitions=settings.repetitions or REPETITIONS[what],
        num_clips=settings.num_clips or NUM_CLIPS.get(what),
    )
    args = Namespace(**vars(settings), root=root, address=address)
    if what in ("decode", "data"):  # a decoding process has one thread
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    measures = {"decode": _decode, "data": _data, "model": _model, "train": _train, "scale": _scale}
    result = measures[what](args)
    cores = os.cpu_count() or 1
    machine = f"{_processor()}, {counted(cores, 'core')}, {platform.system()}, Python {platform.python_version()}"
    return {"what": what, "machine": machine, "date": time.strftime("%Y-%m-%d"), **result}


def _decode(args: Any) -> dict[str, Any]:
    from stm.bench import decode

    if args.manifest:
        from stm.data.manifest import Manifest

        manifest = Manifest.read(args.manifest, args.root)
        paths = [manifest.table["path"][int(i)].as_py() for i in manifest.usable]
    elif args.videos:
        from stm.data.finding import find_videos

        paths = find_videos([args.videos])
    else:
        raise UserError("stm bench decode needs --manifest FILE or --videos FOLDER")
    # Videos from the whole list, since neighbours often have the same class and camera.
    paths = paths[:: max(1, len(paths) // args.num_videos)][: args.num_videos]
    result = decode.measure(
        paths,
        num_frames=args.num_segments,
        size=args.size,
        repetitions=args.repetitions,
        peers=args.peers,
        tick=Ticker("videos"),
    )
    if not result["num_videos"]:
        named = [f"  {what}: {why}" for what, why in result["unreadable"].items()]
        raise UserError(
            "\n".join([f"no video can be read by every decoder ({len(paths)} tried)", *named[:6]])
        )
    per_core = result["clips_per_s_core"]["packets"]
    result["sum"] = needs(args.gpu_clips_per_s, per_core, _clip_mb(args))
    _draw(args, result, "decode.png", result["clips_per_s_core"], "clips/s per core")
    return result


def _data(args: Any) -> dict[str, Any]:
    if not args.manifest:
        raise UserError("stm bench data needs --manifest FILE, written by `stm index`")
    from stm import cluster
    from stm.bench import data
    from stm.config import DataConfig
    from stm.data.manifest import Manifest
    from stm.data.stream.clips import ClipSpec

    manifest = Manifest.read(args.manifest, args.root)
    config = DataConfig(num_segments=args.num_segments, size=args.size)
    if args.augment:
        result = data.measure_augmentations(
            manifest, config, num_clips=args.num_clips // 16, repetitions=args.repetitions
        )
        per_core = result["rows"]["as the paper"]["clips_per_s_core"]
        result["sum"] = needs(args.gpu_clips_per_s, per_core, _clip_mb(args))
        return result
    spec = ClipSpec.training(
        config, flip=manifest.flip, flip_map=manifest.flip_map, classes=manifest.classes
    )
    cores = os.cpu_count() or 1
    cluster.connect(args.address, num_cpus=cores)
    result = data.measure(
        manifest,
        spec,
        cores=cores,
        num_clips=args.num_clips,
        batch_size=args.batch_size,
        repetitions=args.repetitions,
        peers=args.peers,
    )
    per_core = result["clips_per_s"]["stream"] / cores
    result["sum"] = needs(args.gpu_clips_per_s, per_core, _clip_mb(args))
    _draw(args, result, "data.png", result["clips_per_s"], "clips/s")
    return result


def _train(args: Any) -> dict[str, Any]:
    if not args.manifest:
        raise UserError("stm bench train needs --manifest FILE, written by `stm index`")
    from stm import cluster
    from stm.bench import train
    from stm.config import Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
    from stm.data.manifest import Manifest

    manifest = Manifest.read(args.manifest, args.root)
    if len(manifest.usable) < args.batch_size:
        raise UserError(f"{args.manifest} has fewer usable videos than --batch_size")
    device = _device(args)
    config = Config(
        model=ModelConfig(depth=args.depth),
        data=DataConfig(num_segments=args.num_segments, size=args.size),
        optim=OptimConfig(batch_size=args.batch_size),
        train=TrainConfig(precision=args.precision, compile=args.compile),
    )
    cluster.connect(args.address, num_cpus=os.cpu_count() or 1)
    steps = max(1, args.num_clips // args.batch_size)
    result = train.measure(
        manifest,
        config,
        device,
        steps=steps,
        repetitions=args.repetitions,
        threads=args.threads,
    )
    result |= {"precision": args.precision, "depth": args.depth, "batch_size": args.batch_size}
    result["sum"] = (
        f"fed by the stream, training reaches {result['stream_to_ready']:.2f} of its rate on clips that are already "
        f"in memory, and waits for data {result['wait_share']:.0%} of the time"
    )
    _draw(args, result, "train.png", result["clips_per_s"], "clips/s")
    return result


def _device(args: Any) -> Any:
    import torch

    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise UserError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return torch.device(("cuda" if has_gpu else "cpu") if args.device == "auto" else args.device)


def _model(args: Any) -> dict[str, Any]:
    from stm.bench import model
    from stm.repository import has_tools

    device = _device(args)
    if args.onnx:
        from stm.export import require_onnx

        require_onnx()
        if device.type != "cpu" or args.precision != "float32":
            raise UserError(
                "--onnx true: ONNX Runtime is compared on a CPU in float32 only; add --device cpu --precision float32"
            )
    if args.script and device.type != "cpu":
        raise UserError(
            "--script true: differs from the naive layout only on a CPU; add --device cpu"
        )
    if args.peers and (device.type != "cpu" or args.precision != "float32"):
        raise UserError(
            "--peers: their networks are compared on a CPU in float32 only; add --device cpu --precision float32"
        )
    result = model.measure(
        device,
        depth=args.depth,
        num_frames=args.num_segments,
        batch_size=args.batch_size,
        size=args.size,
        precision=args.precision,
        rounds=args.repetitions,
        threads=args.threads,
        compiled=args.compile,
        onnx=args.onnx,
        script=args.script,
        peers=args.peers,
        networks=model.NETWORKS if args.ablations else model.ESSENTIAL,
        tick=Ticker("rounds"),
    )
    by_mode = {row["mode"]: row for row in result["rows"] if row["network"] == "stm"}
    result["sum"] = "STM takes " + ", ".join(
        f"{row['times_tsn']:.2f} of TSN's"
        + (f" and {row['times_naive']:.2f} of the naive layout's" if row["times_naive"] else "")
        + f" time in {mode}"
        for mode, row in by_mode.items()
    )
    if not has_tools():
        result["sum"] += "; comparing with a naive re-implementation needs stm's repository"
    rates = {f"{row['network']}, {row['mode']}": row["clips_per_s"] for row in result["rows"]}
    _draw(args, result, "model.png", rates, "clips/s")
    return result


def _scale(args: Any) -> dict[str, Any]:
    import ray

    from stm import cluster
    from stm.bench import scale

    loads = [
        scale.Load(ranks=ranks, clips=clips, streams=streams)
        for clips, ranks, streams in itertools.product(args.clips, args.ranks, args.streams)
        if streams <= ranks
    ]
    if not loads:
        raise UserError(
            f"--streams {min(args.streams)}: must not be more than --ranks {max(args.ranks)}"
        )
    if args.address not in (None, "local") or os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        raise UserError(
            "stm bench scale starts its own Ray on this machine and measures its processes: leave out --address and "
            "unset $RAY_ADDRESS"
        )
    cluster.connect("local", num_cpus=os.cpu_count() or 1)
    result = scale.measure(
        loads,
        num_segments=args.num_segments,
        size=args.size,
        seconds=args.seconds,
        rounds=args.repetitions,
    )
    result["sum"] = "; ".join(
        f"with {counted(row['ranks'], 'rank')} x {counted(row['clips'], 'clip')}, "
        f"{counted(row['streams'], 'stream')} can feed at most {row['ceiling_clips_per_s']} clips/s: "
        f"{row['ceiling_clips_per_s'] / args.gpu_clips_per_s:.1f} GPUs at "
        f"{args.gpu_clips_per_s:g} clips/s"
        for row in result["rows"]
    )
    return result


def _clip_mb(args: Any) -> float:
    return args.num_segments * args.size**2 * 3 / 1e6


def needs(gpu_clips_per_s: float, clips_per_s_core: float, clip_mb: float) -> str:
    """State how many cores, and how much network between them, one GPU needs."""
    cores = math.ceil(gpu_clips_per_s / clips_per_s_core)
    return (
        f"one GPU at {gpu_clips_per_s:g} clips/s needs {counted(cores, 'core')} of this kind "
        f"and {gpu_clips_per_s * clip_mb:.0f} MB/s between them"
    )


def _draw(args: Any, result: dict[str, Any], name: str, bars: dict[str, float], unit: str) -> None:
    if args.output:
        from stm.figures import plot_bars

        result["figure"] = str(plot_bars(Path(args.output) / name, bars, result["sum"], unit))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line),
        platform.machine(),
    )
