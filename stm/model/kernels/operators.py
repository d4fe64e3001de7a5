"""Wrap a Triton kernel as a PyTorch operator, with a gradient, and opaque to ``torch.compile`` and ``torch.export``.

It is opaque because a compiler could fuse little around a memory-bound kernel, and because the compiled network then
runs the kernel that the tests run.

Both kernels accept, in this order: frames, taps, output, inputs, sums, T, H, W, C. Backward is the same kernel with the
constant BACKWARD, and ``frames`` is the gradient of the output. ``output`` is then the gradient of ``inputs``, and each
program writes its tile's part of the gradient of the taps into its row of ``sums``. Forward does not use ``inputs`` and
``sums``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from stm.model.kernels.tiles import grid_of_tiles, tile_size

NUM_WARPS = 8
"""8 warps are 256 threads, each with 8 of the 2,048 values of a tile."""


def operator(
    name: str, kernel: Any, *, num_taps: int, walks_time: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """Register ``stm::NAME`` and ``stm::NAME_backward``, and return the function to call.

    The function accepts clips, float ``[N, T, H, W, C]``, and taps, float ``[C, 1, *kernel]``, and returns contiguous
    clips. Under autocast, clips are converted to autocast's dtype. Taps and their gradient keep their dtype.

    Args:
        kernel: a ``triton.jit`` function as described above.
        num_taps: number of taps of each channel.
        walks_time: whether a program computes its tile in all frames of a clip, or in only one frame.
    """

    def launch(frames: Tensor, weight: Tensor, output: Tensor, inputs: Tensor | None) -> Tensor:
        batch, num_frames, height, width, channels = frames.shape
        num_programs = batch if walks_time else batch * num_frames
        grid = grid_of_tiles(num_programs, height * width, channels)
        # Sums are float32, or float64 if the frames are.
        is_double = frames.dtype == torch.float64
        # Each tile has a row, and PyTorch adds the rows. Unlike atomic additions, this gives the same bits every time.
        num_rows = 0 if inputs is None else grid[0] * grid[1]
        sums = frames.new_empty(
            (num_rows, num_taps, channels), dtype=torch.float64 if is_double else torch.float32
        )
        with torch.cuda.device_of(frames):  # Triton launches on the current device
            kernel[grid](
                frames,
                weight.contiguous(),
                output,
                frames if inputs is None else inputs,
                sums,
                num_frames,
                height,
                width,
                channels,
                BACKWARD=inputs is not None,
                SUMS=tl.float64 if is_double else tl.float32,
                **tile_size(channels),
                num_warps=NUM_WARPS,
            )
        return sums

    @torch.library.custom_op(f"stm::{name}", mutates_args=())
    def forward(clips: Tensor, weight: Tensor) -> Tensor:
        output = _like(clips)
        launch(clips.contiguous(), weight, output, None)
        return output

    @torch.library.custom_op(f"stm::{name}_backward", mutates_args=())
    def backward(gradient: Tensor, clips: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        of_clips = _like(clips)
        sums = launch(gradient.contiguous(), weight, of_clips, clips.contiguous())
        of_taps = sums.sum(0).t().contiguous().view(weight.shape)
        return of_clips, of_taps.to(weight.dtype)

    @forward.register_fake
    def _(clips: Tensor, weight: Tensor) -> Tensor:
        del weight
        return _like(clips)

    @backward.register_fake
    def _(gradient: Tensor, clips: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        del gradient
        return _like(clips), _like(weight)

    def save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs)

    def differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return backward(gradient, *ctx.saved_tensors)

    forward.register_autograd(differentiate, setup_context=save)

    def call(clips: Tensor, weight: Tensor) -> Tensor:
        return forward(_in_type_of_autocast(clips), weight)

    return call


def _like(values: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _in_type_of_autocast(clips: Tensor) -> Tensor:
    """Convert clips as autocast converts the input of a convolution. Autocast does not know these operators."""
    device = clips.device.type
    if torch.is_autocast_enabled(device) and clips.dtype != torch.float64:
        return clips.to(torch.get_autocast_dtype(device))
    return clips
