"""The two named test protocols (paper, section 4.1, and the practice of its family).

efficient   1 clip: the middle frame of each segment, centre crop (224 of 256)
accurate    30 views: 10 random samplings x 3 crops along the long side, softmax scores averaged

If a network was trained on windows (``data.sampling`` dense, seconds), ``efficient`` uses the window in the middle, and
``accurate`` uses 10 windows: each is the middle one of a tenth of the possible positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from stm.config import DataConfig
from stm.data.stream.clips import ClipSpec
from stm.errors import UserError

ProtocolName = Literal["efficient", "accurate"]


@dataclass(frozen=True)
class Protocol:
    """The views of a video whose scores are averaged."""

    num_samplings: int
    num_crops: int

    @property
    def num_views(self) -> int:
        return self.num_samplings * self.num_crops

    def clip(self, data: DataConfig) -> ClipSpec:
        """Return the clip of each sampling; the samplings of a video differ by their number and seed."""
        return replace(
            ClipSpec.one_clip(data),
            num_samplings=self.num_samplings,
            num_crops=self.num_crops,
        )


PROTOCOLS: dict[str, Protocol] = {"efficient": Protocol(1, 1), "accurate": Protocol(10, 3)}


def protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raises ``UserError`` if there is none."""
    if name not in PROTOCOLS:
        raise UserError(f"--protocol {name}: use {' or '.join(get_args(ProtocolName))}")
    return PROTOCOLS[name]
