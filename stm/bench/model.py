"""Compare the speed of the network with its variants and with peers, in training and inference, on one device.

    stm, tsn, tsm, cstm, cmm    the variants of ``build_model``
    naive                       stm as other re-implementations do it (``tests.tools.naive``; needs the repository)
    mmaction2                   its TSM, in a separate process (``stm.bench.peers``; CPU, if requested)
    script                      naive, in a process with malloc's defaults (``tests.tools.script``; CPU, if requested)

    train       forward, backward, one step of SGD
    inference   evaluation mode
    folded      evaluation mode, after ``stm.model.folding.fold``
    packed      evaluation mode, after ``stm.model.packed.pack``, as in `stm predict` (x86 CPUs in float32)
    onnx        the folded network in ONNX Runtime (on a CPU, if requested)

In each round, all run once in a random order, together with the product of two large matrices, whose rate is what this
device reaches at this precision. Clips are random and already on the device, so no data is loaded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stm.bench.steps import PRECISIONS, bytes_of, make_step
from stm.model import build_model, count_operations, registry
from stm.model.allocator import keep_freed_memory
from stm.model.folding import fold
from stm.model.network import VideoResNet
from stm.model.packed import can_pack, pack
from stm.repository import has_tools, tool

NETWORKS = (*registry.names(), "naive")
ESSENTIAL = ("stm", "tsn", "naive")
"""STM, and the networks that its goals refer to."""
MODES = ("train", "inference", "folded")
SCRIPT = "script"
_SCRIPT_OPTION = "--script true"
BASES = ("tsn", "naive", SCRIPT)
"""Networks that the others are compared with, in the same mode, or else in inference."""
BACKWARD_COST = 2
"""Operations of a backward pass, in forward passes: gradients of the inputs and of the weights."""


def build(name: str, **settings: Any) -> VideoResNet:
    """Build one of `NETWORKS`; ``settings`` are those of ``build_model``."""
    if name == "naive":
        return tool("naive", "the comparison with a naive re-implementation").build_naive(
            **settings
        )
    return build_model(name, **settings)


@dataclass(frozen=True)
class Contender:
    """A network in a mode."""

    network: str
    mode: str
    step: Callable[[], Any]
    gflop: float
    """Operations of one step; a multiply-add counts as two, normalisation is not counted."""
    state_bytes: int
    """Bytes that stay allocated between steps: weights, statistics, momentum."""


def contenders(
    device: torch.device,
    *,
    depth: int,
    num_frames: int,
    batch_size: int,
    size: int,
    precision: str,
    compiled: bool = False,
    onnx: bool = False,
    width: int = 64,
    networks: Sequence[str] = NETWORKS,
) -> list[Contender]:
    """Return these networks in every mode that runs in this process, on one batch of random clips."""
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(batch_size, num_frames, size, size, 3, generator=generator)
    clips = clips.permute(0, 1, 4, 2, 3).to(device)  # as from ``stm.model.inputs.normalise``
    found = []
    for name in networks:
        torch.manual_seed(0)
        model = build(name, depth=depth, num_classes=174, width=width)
        folded = fold(model)
        multiply_adds = count_operations(folded, num_frames, size)  # it has no normalisation
        gflop = 2e-9 * multiply_adds * batch_size
        by_mode: dict[str, nn.Module] = {
            "train": build(name, depth=depth, num_classes=174, width=width),
            "inference": model,
            "folded": folded,
        }
        if name != "naive" and device.type == "cpu" and precision == "float32" and can_pack():
            by_mode["packed"] = pack(model)
        for mode, network in by_mode.items():
            network.to(device)
            step, state_bytes = make_step(mode, network, clips, precision, compiled)
            found.append(Contender(name, mode, step, _cost(mode) * gflop, state_bytes))
        if onnx:
            step = in_onnx_runtime(model, clips)
            found.append(Contender(name, "onnx", step, gflop, bytes_of(folded)))
    return found


def _scripts(stack: ExitStack, like: list[Contender], **settings: Any) -> list[Contender]:
    """Return the naive network in one process for each mode, because malloc depends on earlier allocations."""
    run = tool("script", _SCRIPT_OPTION)
    gflop = {entrant.mode: entrant.gflop for entrant in like if entrant.network == "naive"}
    return [
        Contender(
            SCRIPT, mode, stack.enter_context(run.Script(mode, **settings)).step, gflop[mode], 0
        )
        for mode in ("train", "inference")
    ]


def _peers(
    stack: ExitStack, like: list[Contender], python: str, settings: dict[str, Any]
) -> list[Contender]:
    """Return mmaction2's TSM, in one process for each mode."""
    from stm.bench import peers

    # TSM's shift needs no operations, so the sum is that of TSN, which is always measured.
    gflop = {entrant.mode: entrant.gflop for entrant in like if entrant.network == "tsn"}
    found = []
    for mode in ("train", "inference"):
        (peer,) = peers.start(python, (peers.TSM,), "model", stack, mode=mode, **settings).values()
        found.append(Contender(peers.TSM, mode, peer.ask, gflop[mode], 0))
    return found


def _cost(mode: str) -> int:
    return 1 + BACKWARD_COST if mode == "train" else 1


def in_onnx_runtime(model: VideoResNet, clips: Tensor) -> Callable[[], Any]:
    import tempfile

    from stm.export import quiet, read_onnx, write_onnx

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "network.onnx"
        write_onnx(model, {"num_frames": clips.shape[1], "size": clips.shape[-1]}, path)
        run = read_onnx(path)
    contiguous = clips.contiguous()  # as from a program without PyTorch
    return lambda: run(contiguous)


def matrix_product(device: torch.device, precision: str, size: int) -> Contender:
    """Return the product of two square matrices of ``size``."""
    left, right = (torch.randn(size, size, device=device).to(PRECISIONS[precision]) for _ in "ab")
    return Contender("matrix product", str(size), lambda: left @ right, 2e-9 * size**3, 0)


def measure(
    device: torch.device,
    *,
    depth: int = 50,
    num_frames: int = 8,
    batch_size: int = 8,
    size: int = 224,
    precision: str = "float32",
    rounds: int = 7,
    threads: int | None = None,
    compiled: bool = False,
    onnx: bool = False,
    script: bool = False,
    peers: str | None = None,
    networks: Sequence[str] = NETWORKS,
    width: int = 64,
    matrix_size: int | None = None,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure a step of every network and mode, interleaved; return medians, with the smallest and the largest value.

    ``networks`` are some of `NETWORKS`, including the `ESSENTIAL` ones; `naive` is left out if stm is installed without
    its repository. ``peers`` is the interpreter of an environment with mmaction2. A ratio is the median over rounds of
    the ratio within a round, so that a slow round does not matter.

    Returns ``rows``, one for each network and mode (``ms``, ``spread_ms``, ``clips_per_s``, ``gflop_per_s``,
    ``share_of_matrix_product``, ``times_BASE`` for each of `BASES`, a ratio of times, and ``peak_mb``, None on a CPU),
    ``matrix_product``, and the settings.
    """
    if script:
        tool("script", _SCRIPT_OPTION)  # raises before anything is measured
    if not has_tools():
        networks = [name for name in networks if name != "naive"]
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads or before[0])
    torch.backends.cudnn.benchmark = True
    on_gpu = device.type == "cuda"
    shape: dict[str, Any] = {
        "depth": depth,
        "num_frames": num_frames,
        "batch_size": batch_size,
        "size": size,
        "precision": precision,
        "width": width,
    }
    try:
        used_threads = torch.get_num_threads()
        if not on_gpu:
            keep_freed_memory()  # as training and inference do
        multiplied = matrix_product(device, precision, matrix_size or (8192 if on_gpu else 2048))
        entrants = contenders(device, **shape, compiled=compiled, onnx=onnx, networks=networks)
        with ExitStack() as stack:
            if script:
                entrants += _scripts(stack, entrants, **shape, threads=used_threads)
            if peers:
                names = ("depth", "num_frames", "batch_size", "size")
                settings = {name: shape[name] for name in names} | {"threads": used_threads}
                entrants += _peers(stack, entrants, peers, settings)
            times, peaks = _race([*entrants, multiplied], device, rounds, seed, tick)
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]

    product = times.pop((multiplied.network, multiplied.mode))
    reached = multiplied.gflop / statistics.median(product)
    rows = []
    for entrant in entrants:
        seconds = times[entrant.network, entrant.mode]
        median = statistics.median(seconds)
        rows.append(
            {
                "network": entrant.network,
                "mode": entrant.mode,
                "ms": _rounded(1000 * median),
                "spread_ms": [_rounded(1000 * min(seconds)), _rounded(1000 * max(seconds))],
                "clips_per_s": _rounded(batch_size / median),
                "gflop_per_s": _rounded(entrant.gflop / median),
                "share_of_matrix_product": round(entrant.gflop / median / reached, 3),
                **{
                    f"times_{base}": _ratio(seconds, _base(times, base, entrant.mode))
                    for base in BASES
                },
                "peak_mb": peaks.get((entrant.network, entrant.mode)),
            }
        )
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "torch": torch.__version__,
        "precision": precision,
        "threads": used_threads,
        "compiled": compiled,
        "depth": depth,
        "num_frames": num_frames,
        "batch_size": batch_size,
        "size": size,
        "rounds": rounds,
        "rows": rows,
        "matrix_product": {
            "size": int(multiplied.mode),
            "gflop_per_s": _rounded(reached),
            "spread": [_rounded(multiplied.gflop / s) for s in (max(product), min(product))],
        },
    }


Times = dict[tuple[str, str], list[float]]


def _race(
    entrants: list[Contender],
    device: torch.device,
    rounds: int,
    seed: int,
    tick: Callable[[int, int], None],
) -> tuple[Times, dict[tuple[str, str], float]]:
    """Return the seconds of a step of each entrant in each round, and, on a GPU, the memory of each in MB."""
    on_gpu = device.type == "cuda"
    times: Times = {(entrant.network, entrant.mode): [] for entrant in entrants}
    peaks: dict[tuple[str, str], float] = {}
    for entrant in entrants:
        for _ in range(3 if on_gpu else 2):  # chooses kernels, creates momentum, grows the heap
            entrant.step()
        if on_gpu and entrant.network in NETWORKS:
            peaks[entrant.network, entrant.mode] = _peak_mb(entrant, device)
    generator = np.random.default_rng(seed)
    for number in range(rounds):
        for place in generator.permutation(len(entrants)):
            entrant = entrants[place]
            seconds = _cuda_s(entrant.step) if on_gpu else _cpu_s(entrant.step)
            times[entrant.network, entrant.mode].append(seconds)
        tick(number + 1, rounds)
    return times, peaks


def _cpu_s(step: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def _cuda_s(step: Callable[[], Any], repetitions: int = 10) -> float:
    """Return the seconds of a step by the device's clock, in a sequence of steps as in training."""
    step()  # the previous step was of another network
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    for _ in range(repetitions):
        step()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1000 / repetitions


def _peak_mb(entrant: Contender, device: torch.device) -> float:
    """Return the peak memory of a step plus the entrant's own state, in MB, without the other entrants."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    found = torch.cuda.memory_allocated(device)
    entrant.step()
    torch.cuda.synchronize(device)
    needed = torch.cuda.max_memory_allocated(device) - found
    return round((needed + entrant.state_bytes) / 1e6, 1)


def _base(times: Times, name: str, mode: str) -> list[float] | None:
    return times.get((name, mode)) or times.get((name, "inference"))


def _ratio(seconds: list[float], base: list[float] | None) -> float | None:
    if base is None:
        return None
    return round(statistics.median(a / b for a, b in zip(seconds, base, strict=True)), 3)


def _rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")
