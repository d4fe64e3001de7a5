"""The STM network (Jiang et al., ICCV 2019) and its baselines, in PyTorch alone.

A network maps float clips ``[N, T, 3, H, W]`` to float logits ``[N, num_classes]``::

    from stm.model import build_model
    logits = build_model("stm", depth=50, num_classes=174)(clips)
"""

from __future__ import annotations

from stm.model import variants as _variants  # importing registers them  # noqa: F401
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
