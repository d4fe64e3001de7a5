"""Read the features in a block as one map for each frame, with forward hooks and without changing the network.

A map is the mean over channels of the absolute feature value. The kinds of map, in the order of a block's layers
(``stm.model.block``; paper, sections 3.1 to 3.3):

    before   x, the block's input                     all blocks, of any class
    cstm     a = ReLU(BN(conv3x3(temporal(u))))       stm, cstm
    conv     a = ReLU(BN(conv3x3(u)))                 other variants: the plain 3x3 instead of CSTM
    cmm      b = CMM(u)                               stm, cmm
    after    the block's output                       all blocks

    seen = look(model, clips, ["layer1.0"])  # float [N, T, 3, H, W]
    seen.maps["layer1.0"]["cmm"]             # float32 [N, T, h, w]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stm.errors import UserError
from stm.model.network import VideoResNet

Maps = dict[str, dict[str, np.ndarray]]
"""Block name -> kind -> float32 [N, T, h, w], at the block's resolution."""


@dataclass(frozen=True)
class Seen:
    """Maps and logits that a network computed for N clips of T frames."""

    maps: Maps
    logits_NK: np.ndarray
    """float32 [N, K]."""
    _features_NTCHW: Tensor
    _classifier_KC: Tensor

    @property
    def scores_NK(self) -> np.ndarray:
        """Softmax of the logits, float32 [N, K]."""
        return torch.from_numpy(self.logits_NK).softmax(1).numpy()

    def evidence(self, label: int) -> np.ndarray:
        """Evidence for class ``label`` in space and time: float32 [N, T, h, w], negative for evidence against it.

        This is the class-activation map (Zhou et al., CVPR 2016) of each frame minus the mean over all classes, which
        does not change softmax. Its mean over T, h and w is the logit minus the mean logit, without the biases.
        """
        weights_C = self._classifier_KC[label] - self._classifier_KC.mean(0)
        return torch.einsum("ntchw,c->nthw", self._features_NTCHW, weights_C).cpu().numpy()


@torch.inference_mode()
def look(model: VideoResNet, clips: Tensor, blocks: Sequence[str]) -> Seen:
    """Run the model on ``clips: float [N, T, 3, H, W]`` and keep the maps of the named blocks.

    The model must be in evaluation mode, and does not change. Raises ``UserError`` if it lacks a named block.
    """
    num_clips, num_frames = clips.shape[:2]
    maps: Maps = {name: {} for name in blocks}
    last: list[Tensor] = []

    def keep(name: str, kind: str, features: Tensor) -> None:
        # Reduce now, because later layers change some of these tensors in place.
        map_BHW = features.abs().mean(1).float().cpu().numpy()
        maps[name][kind] = map_BHW.reshape(num_clips, num_frames, *map_BHW.shape[1:])

    with _hooks(model, blocks, keep, last):
        logits_NK = model(clips)
    return Seen(
        maps,
        logits_NK.float().cpu().numpy(),
        last[0].float().unflatten(0, (num_clips, num_frames)),
        model.fc.weight.detach().float(),
    )


@contextmanager
def _hooks(
    model: VideoResNet,
    blocks: Sequence[str],
    keep: Callable[[str, str, Tensor], None],
    last: list[Tensor],
) -> Iterator[None]:
    handles: list[Any] = []
    try:
        for name, block in find_blocks(model, blocks).items():
            handles += _hook(name, block, keep)
        final: Any = model.layer4[-1]
        handles.append(final.register_forward_hook(lambda _m, _i, output: last.append(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, block: nn.Module, keep: Callable[[str, str, Tensor], None]) -> list[Any]:
    def before(_module: Any, inputs: tuple[Tensor, int]) -> None:
        keep(name, "before", inputs[0])

    def a(_module: Any, _inputs: Any, output: Tensor) -> None:
        keep(name, "cstm" if has_layer(block, "temporal") else "conv", output)

    def cmm(_module: Any, _inputs: Any, output: Tensor) -> None:
        keep(name, "cmm", output)

    def after(_module: Any, _inputs: Any, output: Tensor) -> None:
        keep(name, "after", output)

    handles = [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
    for layer, hook in (("relu2", a), ("cmm", cmm)):
        if has_layer(block, layer):
            handles.append(block.get_submodule(layer).register_forward_hook(hook))
    return handles


def has_layer(block: nn.Module, name: str) -> bool:
    """Whether the block has a layer with this name of ``Bottleneck``."""
    return isinstance(getattr(block, name, None), nn.Module)


def find_blocks(model: VideoResNet, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the blocks with these names, in the same order; ``UserError`` with all names if one does not exist."""
    there = model.blocks
    for name in names:
        if name not in there:
            raise UserError(f"--block {name}: no such block; the blocks are {', '.join(there)}")
    return {name: there[name] for name in names}


def default_block(model: VideoResNet) -> str:
    """Name of the first block with CMM, else of the first with a temporal convolution, else of the first block.

    In the paper's network this is ``layer1.0``, which is conv2_1 in the paper's first figure.
    """
    blocks = model.blocks
    return max(
        blocks, key=lambda n: 2 * has_layer(blocks[n], "cmm") + has_layer(blocks[n], "temporal")
    )
