"""The STM network and its baselines, in PyTorch alone.

Float clips ``[N, T, 3, H, W]`` in, float logits ``[N, num_classes]`` out::

    from stm.model import build_model
    logits = build_model("stm", depth=50, num_classes=174)(clips)
"""

from __future__ import annotations

from stm.model import variants as _variants  # registers them  # noqa: F401
from stm.model.block import Bottleneck as Block
from stm.model.counting import count_operations, count_parameters
from stm.model.network import VideoResNet, build_model, check_settings
from stm.model.pretrained import PretrainedReport, load_pretrained
from stm.model.registry import register

__all__ = [
    "Block",
    "PretrainedReport",
    "VideoResNet",
    "build_model",
    "check_settings",
    "count_operations",
    "count_parameters",
    "load_pretrained",
    "register",
]
