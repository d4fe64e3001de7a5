"""The frames of a clip in another order: as played, reversed, shuffled, or one of them repeated.

What a network says of these clips tells how much it uses time: the pictures are the same, only their order differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np

from stm.data.stream.plan import mix
from stm.errors import UserError

FrameOrder = Literal["played", "reversed", "shuffled", "still"]
ORDERS: tuple[FrameOrder, ...] = get_args(FrameOrder)

_OF_SHUFFLES = 0x0DE8  # so that a shuffle shares no bits with the frames that the same seed draws


def checked(orders: Iterable[str]) -> tuple[FrameOrder, ...]:
    """Each order once, in the order of `ORDERS`; ``played`` always, since the others are compared with it.

    Raises ``UserError`` for a name that is no order.
    """
    asked = [orders] if isinstance(orders, str) else list(orders)
    if unknown := [each for each in asked if each not in ORDERS]:
        raise UserError(f"--frames {unknown[0]}: use {', '.join(ORDERS[:-1])} or {ORDERS[-1]}")
    return tuple(each for each in ORDERS if each == "played" or each in asked)


def frame_order(order: FrameOrder, num_frames: int, seed: int) -> np.ndarray:
    """Which frame of a clip of T stands in each place: int64 [T].

    ``still`` is the middle frame, T times. A shuffle is drawn from ``seed`` alone, evenly from all orders but the one
    in which the frames were (with T = 1 there is no other). It is the same in every process and version.
    """
    played = np.arange(num_frames)
    if order == "played" or num_frames == 1:
        return played
    if order == "reversed":
        return played[::-1]
    if order == "still":
        return np.full(num_frames, num_frames // 2)
    attempt, drawn = 0, played
    while np.array_equal(drawn, played):
        drawn = np.argsort(mix(_OF_SHUFFLES, seed, attempt, played), kind="stable")
        attempt += 1
    return drawn


def in_order(clips: np.ndarray, order: FrameOrder, seeds_B: np.ndarray) -> np.ndarray:
    """uint8 [B, V, T, S, S, 3], its frames in another order; all views of a sample in the same."""
    if order == "played":
        return clips
    num_frames = clips.shape[2]
    orders = [frame_order(order, num_frames, int(seed)) for seed in seeds_B]
    return np.stack([views[:, frames] for views, frames in zip(clips, orders, strict=True)])
