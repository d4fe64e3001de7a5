"""What passes through a block, as one map a frame: read by forward hooks, while the network runs as it always does.

A feature map becomes a picture by the mean over its channels of the absolute value. Kinds of map, a block's layers
in order (see ``stm.model.block``):

    before   x, the block's input                     all blocks, of whatever class
    cstm     a = ReLU(BN(conv3x3(temporal(u))))       stm, cstm
    conv     a = ReLU(BN(conv3x3(u)))                 the others: the plain 3x3 in CSTM's place
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
"""Block name -> kind -> float32 [N, T, h, w], the cells of the block's resolution."""


@dataclass(frozen=True)
class Seen:
    """What a network made of N clips of T frames."""

    maps: Maps
    logits_NK: np.ndarray
    """float32 [N, K]."""
    _features_NTCHW: Tensor
    _classifier_KC: Tensor

    @property
    def scores_NK(self) -> np.ndarray:
        """float32 [N, K]: softmax of the logits."""
        return torch.from_numpy(self.logits_NK).softmax(1).numpy()

    def evidence(self, label: int) -> np.ndarray:
        """Where and when the network finds class ``label``: float32 [N, T, h, w], negative where it speaks against it.

        The class-activation map (Zhou et al., CVPR 2016) of each frame, less the mean over all classes, which softmax
        does not see. Its mean over T, h and w is the class's logit less the mean logit, apart from the biases.
        """
        weights_C = self._classifier_KC[label] - self._classifier_KC.mean(0)
        return torch.einsum("ntchw,c->nthw", self._features_NTCHW, weights_C).cpu().numpy()


@torch.inference_mode()
def look(model: VideoResNet, clips: Tensor, blocks: Sequence[str]) -> Seen:
    """Run ``clips: float [N, T, 3, H, W]`` and keep the maps of the named blocks.

    The model must be in evaluation mode; it is left as it was. Raises ``UserError`` for a block it does not have.
    """
    num_clips, num_frames = clips.shape[:2]
    maps: Maps = {name: {} for name in blocks}
    last: list[Tensor] = []

    def keep(name: str, kind: str, features: Tensor) -> None:
        # Reduced at once: what follows changes some of these tensors in place.
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
    """Whether the block has a layer of this name, as ``Bottleneck`` names them."""
    return isinstance(getattr(block, name, None), nn.Module)


def find_blocks(model: VideoResNet, names: Sequence[str]) -> dict[str, nn.Module]:
    """The blocks of these names, in the order given; ``UserError`` names those there are."""
    there = model.blocks
    for name in names:
        if name not in there:
            raise UserError(f"--block {name}: no such block; there are {', '.join(there)}")
    return {name: there[name] for name in names}


def default_block(model: VideoResNet) -> str:
    """The block that shows most: the first with CMM, else with a temporal convolution, else the first.

    In the paper's network that is ``layer1.0``, conv2_1 of its first figure.
    """
    blocks = model.blocks
    return max(
        blocks, key=lambda n: 2 * has_layer(blocks[n], "cmm") + has_layer(blocks[n], "temporal")
    )
