"""Find frames that damage has reached, by the rule of ``stm.data.decode.sequential``, while a stream is decoded."""

from __future__ import annotations

from typing import NamedTuple

_KEYS_KEPT = 8
"""Number of key frames remembered: no picture refers past two of them."""


class _At(NamedTuple):
    order: int
    pts: int | None


class Damage:
    """Damage and key frames by their positions in decoding order."""

    def __init__(self) -> None:
        self._keys: list[_At] = []
        self._damages: list[_At] = []

    def key(self, order: int, pts: int) -> None:
        """Record a key frame. Pictures stored after it refer to none before it, unless they are shown before it."""
        self._keys = sorted([*self._keys, _At(order, pts)])[-_KEYS_KEPT:]
        self._damages = [each for each in self._damages if each.order >= self._keys[0].order]

    def add(self, order: int, pts: int | None) -> None:
        """Record that the picture at this position is missing or incomplete."""
        # Damage that reaches this picture also reaches every picture that this one reaches.
        if not self.has_reached(order, pts) or self._is_leading(_At(order, pts)):
            self._damages.append(_At(order, pts))

    def has_reached(self, order: int, pts: int | None) -> bool:
        """Whether the picture may refer to a damaged one: up to the next key frame, and its leading pictures."""
        return any(self._reaches(each, order, pts) for each in self._damages)

    def _reaches(self, damage: _At, order: int, pts: int | None) -> bool:
        if damage.order > order:
            return False
        if damage.order == order:
            return True
        if pts is not None and (first := self._leads(damage)) is not None and pts >= first:
            return False  # no picture after the key frame refers to a leading one
        return not any(
            damage.order < key.order <= order and (pts is None or key.pts is None or key.pts <= pts)
            for key in self._keys
        )

    def _is_leading(self, at: _At) -> bool:
        return self._leads(at) is not None

    def _leads(self, at: _At) -> int | None:
        """Presentation time of the key frame that a picture is stored after and shown before; None if there is none."""
        before = [key for key in self._keys if key.order < at.order]
        if not before or at.pts is None or before[-1].pts is None or at.pts >= before[-1].pts:
            return None
        return before[-1].pts
