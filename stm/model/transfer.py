"""Batches on their way to the device: on a GPU they are copied during the step before, so no step waits for them."""

from __future__ import annotations

import numpy as np
import torch

from stm.model.inputs import normalise, normalised

NUM_SLOTS = 2
"""One that the step reads, one that the next batch is copied into."""


class Transfer:
    """Arrays of one batch in shared memory -> tensors on the device; one per process, called once a step or batch.

    A GPU's work is queued: while it computes a step, the process already calls this for the next one. So the copies
    need a stream of their own and pinned memory, and no thread: they overlap the step that is still computing. Two
    slots of memory, here and on the device, take turns. The process waits for a slot's last copy before it fills the
    slot again, which keeps it from running further ahead than a few steps; the copy waits until the step that had the
    slot has read it.

    On a CPU it converts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots: list[_Slot] = []
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(
        self, clips: np.ndarray, *others: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            clips: uint8 [N, T, H, W, 3].
            others: labels, weights, ...: each of the dtype that its tensor shall have.
            rows: int64 [N], which clip each row shows (``stm.train.step.usable_rows``); None shows them as they are.

        Returns:
            float32 [N, T, 3, H, W], normalised and channels-last in memory; the others as they are.
        """
        if self._stream is None:
            return (
                normalise(clips if rows is None else clips[rows], self.device),
                *(torch.from_numpy(array.copy()).to(self.device) for array in others),
            )
        return self._queued(self._stream, (clips, *others), rows)

    def _queued(
        self,
        copies: torch.cuda.Stream,
        arrays: tuple[np.ndarray, ...],
        rows: np.ndarray | None,
    ) -> tuple[torch.Tensor, ...]:
        step = torch.cuda.current_stream(self.device)
        slot = self._free_slot(arrays, step)
        shown = np.arange(len(arrays[0])) if rows is None else rows
        # `clip` says that every row exists; only then does NumPy write straight into pinned memory.
        np.take(arrays[0], shown, axis=0, out=slot.pinned[0].numpy(), mode="clip")
        for pinned, array in zip(slot.pinned[1:], arrays[1:], strict=True):
            np.copyto(pinned.numpy(), array)
        copies.wait_event(slot.read)
        with torch.cuda.stream(copies):
            for there, pinned in zip(slot.on_device, slot.pinned, strict=True):
                there.copy_(pinned, non_blocking=True)
            slot.copied.record(copies)
        step.wait_event(slot.copied)
        pixels, *others = slot.on_device
        # Everything is read here: what the step keeps is its own, and the slot is free again.
        result = normalised(pixels), *(there.clone() for there in others)
        slot.read.record(step)
        return result

    def _free_slot(self, arrays: tuple[np.ndarray, ...], step: torch.cuda.Stream) -> _Slot:
        """The slot whose turn it is, made anew where shapes changed; its last copy is over."""
        if len(self._slots) < NUM_SLOTS:
            self._slots.append(_Slot(arrays, self.device, step))
            return self._slots[-1]
        turn, self._turn = self._turn, (self._turn + 1) % NUM_SLOTS
        self._slots[turn].copied.synchronize()
        if not self._slots[turn].fits(arrays):
            self._slots[turn] = _Slot(arrays, self.device, step)
        return self._slots[turn]


class _Slot:
    """Room for one batch in pinned memory and on the device, and where its copy stands."""

    def __init__(
        self, arrays: tuple[np.ndarray, ...], device: torch.device, step: torch.cuda.Stream
    ) -> None:
        # Empty tensors for their dtypes: PyTorch keeps its table of NumPy's to itself.
        examples = [torch.from_numpy(np.empty(0, array.dtype)) for array in arrays]
        self.pinned = [
            torch.empty(array.shape, dtype=example.dtype, pin_memory=True)
            for array, example in zip(arrays, examples, strict=True)
        ]
        self.on_device = [torch.empty_like(pinned, device=device) for pinned in self.pinned]
        self.copied = torch.cuda.Event(blocking=True)
        """After the copy; the process sleeps while it waits for it."""
        self.read = torch.cuda.Event()
        """After the step has read the device's side."""
        self.read.record(step)  # this memory may be in use by what the step's stream has queued

    def fits(self, arrays: tuple[np.ndarray, ...]) -> bool:
        return all(
            pinned.shape == array.shape for pinned, array in zip(self.pinned, arrays, strict=True)
        )
