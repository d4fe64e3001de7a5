"""Send batches to the device. To a GPU, a batch is copied while the previous step still computes."""

from __future__ import annotations

import numpy as np
import torch

from stm.model.inputs import normalise, normalised

NUM_SLOTS = 2
"""The step reads one slot, and the next batch is copied into the other."""


class Transfer:
    """Turn the arrays of one batch (in shared memory) into tensors on the device. Each process has one instance.

    A GPU's work is queued: while it computes a step, the process already calls this for the next one. Copies from
    pinned memory in a separate stream therefore overlap with that step, without a thread. Two slots of memory, on the
    host and on the device, take turns. Before the process fills a slot again, it waits for the slot's last copy, so
    that it is never more than a few steps ahead. The copy waits until the step that used the slot has read it.

    For a CPU, the arrays are only converted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots: list[_Slot] = []
        self._turn = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(
        self, clips: np.ndarray, *others: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Send one batch.

        Args:
            clips: uint8 [N, T, H, W, 3].
            others: labels, weights, ..., in the dtypes that the tensors should have.
            rows: int64 [N], the clip for each row of the result (``stm.train.step.usable_rows``); None keeps the order.

        Returns:
            The clips as float32 [N, T, 3, H, W], normalised and channels-last in memory, and the others unchanged.
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
        # All rows exist, so `clip` changes none. Without it, NumPy would not write straight into pinned memory.
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
        # The step gets copies of everything, so that the slot is free again after these reads.
        result = normalised(pixels), *(there.clone() for there in others)
        slot.read.record(step)
        return result

    def _free_slot(self, arrays: tuple[np.ndarray, ...], step: torch.cuda.Stream) -> _Slot:
        """Return the next slot, after its last copy. It is replaced if shapes have changed."""
        if len(self._slots) < NUM_SLOTS:
            self._slots.append(_Slot(arrays, self.device, step))
            return self._slots[-1]
        turn, self._turn = self._turn, (self._turn + 1) % NUM_SLOTS
        self._slots[turn].copied.synchronize()
        if not self._slots[turn].fits(arrays):
            self._slots[turn] = _Slot(arrays, self.device, step)
        return self._slots[turn]


class _Slot:
    """Memory for one batch, pinned and on the device, with the events of its copy."""

    def __init__(
        self, arrays: tuple[np.ndarray, ...], device: torch.device, step: torch.cuda.Stream
    ) -> None:
        # Empty tensors give PyTorch's dtypes: its table of NumPy's dtypes is not public.
        examples = [torch.from_numpy(np.empty(0, array.dtype)) for array in arrays]
        self.pinned = [
            torch.empty(array.shape, dtype=example.dtype, pin_memory=True)
            for array, example in zip(arrays, examples, strict=True)
        ]
        self.on_device = [torch.empty_like(pinned, device=device) for pinned in self.pinned]
        self.copied = torch.cuda.Event(blocking=True)
        """Recorded after the copy. The process sleeps while it waits for this event."""
        self.read = torch.cuda.Event()
        """Recorded after the step has read the device's memory."""
        self.read.record(step)  # queued work of the step's stream may still use this memory

    def fits(self, arrays: tuple[np.ndarray, ...]) -> bool:
        return all(
            pinned.shape == array.shape for pinned, array in zip(self.pinned, arrays, strict=True)
        )
