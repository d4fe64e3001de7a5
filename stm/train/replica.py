"""One rank's copy of network, optimizer and moving average, and the training step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from stm.checkpoint import format as checkpoints
from stm.config import Config
from stm.data.stream.graph import ClipBatch
from stm.errors import UserError
from stm.model import build_model
from stm.model.allocator import keep_freed_memory
from stm.model.compiling import compile_blocks
from stm.model.inputs import autocast, set_arithmetic
from stm.model.sync_batchnorm import count_batch, synchronise_batchnorm
from stm.model.transfer import Transfer
from stm.train.average import MovingAverage
from stm.train.freezing import freeze, keep_still
from stm.train.mixing import mix_pairs
from stm.train.optim import build_optimizer, restore, set_learning_rate, weighted_loss_sum
from stm.train.rarity import ClassTerms
from stm.train.step import Batch, gradients, usable_rows


class Replica:
    """Network and optimizer on this rank's device, loaded from ``checkpoint``, or else filled by ``begin``."""

    def __init__(
        self,
        config: Config,
        num_classes: int,
        device: torch.device,
        world_size: int,
        checkpoint: str | None,
        begin: Callable[[nn.Module], Any] | None = None,
        class_terms: ClassTerms | None = None,
    ) -> None:
        self._config, self._device, self._world_size = config, device, world_size
        if device.type == "cpu":
            keep_freed_memory()
        set_arithmetic(device)
        self.transfer = Transfer(device)
        self._module = build_model(**checkpoints.model_arguments(config), num_classes=num_classes)
        if config.optim.sync_batchnorm:
            synchronise_batchnorm(self._module)
        self._module.to(device)
        self._still = freeze(self._module, config.optim)
        decay = config.optim.ema_decay
        self._average = MovingAverage(self._module, decay) if decay else None
        self.autocast = autocast(config.train.precision, device)
        # With scaled gradients the first step may be skipped; the fused optimizer would then leave its momentum unset.
        fused = device.type == "cuda" and not self.autocast.scale_gradients
        self._optimizer = build_optimizer(self._module, config.optim, fused=fused)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.autocast.scale_gradients)
        if checkpoint is not None:
            self._load(checkpoint)
        elif begin is not None:
            begin(self._module)
        self._model = self._data_parallel()
        self._loss = self._build_loss(class_terms or ClassTerms())

    @property
    def shipped(self) -> nn.Module:
        """The network to validate, save and ship: the moving average if it is on, else the network itself."""
        return self._module if self._average is None else self._average.module

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs in addition to the weights of `shipped`."""
        state: dict[str, Any] = {
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        if self._average is not None:
            state["weights"] = self._module.state_dict()
            state["averaged"] = self._average.num_updates
        return state

    def step(self, batch: ClipBatch, rate: float, seed: int) -> tuple[torch.Tensor, float]:
        """Take one optimizer step on this rank's share of a batch, together with the other ranks.

        ``seed`` is this rank's, for dropout and mixing. Returns float64 [3] on the device (this rank's loss sum, weight
        and weight of the correct predictions) and the seconds waited for the other ranks to begin (0 on a GPU, whose
        collectives return at once).
        """
        optim = self._config.optim
        torch.manual_seed(seed)
        set_learning_rate(self._optimizer, rate)
        rows = usable_rows(batch.weights)
        # A rank without usable clips joins the collectives but does not update the statistics of BN.
        self._model.train(rows is not None or optim.sync_batchnorm)
        keep_still(self._still)
        if optim.sync_batchnorm:
            count_batch(self._module, rows is not None)
        share = self._on_device(batch, rows, seed)
        global_weight, summed, waited_s = share.weights_N.sum(), None, 0.0
        if self._world_size > 1:
            summed = dist.all_reduce(global_weight, async_op=True)
            if self._device.type == "cpu":  # the wait shows which rank is late
                began = time.perf_counter()
                summed.wait()
                waited_s = time.perf_counter() - began
        self._optimizer.zero_grad(set_to_none=True)
        sums = gradients(
            self._model,
            share,
            global_weight,
            summed=summed,
            world_size=self._world_size,
            accumulate=optim.accumulate,
            loss=self._loss,
            autocast=self.autocast,
            scaler=self._scaler,
        )
        if optim.clip_grad_norm:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._module.parameters(), optim.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._module)
        return sums, waited_s

    def _build_loss(self, terms: ClassTerms) -> Callable[..., torch.Tensor]:
        def on_device(values: list[float] | None) -> torch.Tensor | None:
            return None if values is None else torch.tensor(values, device=self._device)

        return functools.partial(
            weighted_loss_sum,
            label_smoothing=self._config.optim.label_smoothing,
            class_weights_K=on_device(terms.weights),
            adjustment_K=on_device(terms.adjustment),
        )

    def _load(self, checkpoint: str) -> None:
        weights, state = checkpoints.read_weights(checkpoint), checkpoints.read_state(checkpoint)
        try:
            self._restore(weights, state)
        except UserError as error:
            raise UserError(f"{checkpoint} does not fit this run: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{checkpoint} does not fit this run: {error!r}") from error

    def _restore(self, weights: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        self._module.load_state_dict(state.get("weights", weights))
        if self._average is not None:
            self._average.module.load_state_dict(weights)
            self._average.num_updates = state["averaged"]
        restore(self._optimizer, state["optimizer"])
        if state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _data_parallel(self) -> nn.Module:
        if self._config.train.compile:
            compile_blocks(self._module)
        if self._world_size == 1:
            return self._module
        # DDP reorders its buckets by the order in which gradients arrive in the first step. Buckets determine the order
        # of a sum over three or more ranks, so a restarted run would differ in the last bit. This option keeps the
        # buckets. It is off on GPUs, where it costs time and sums are not bit-exact anyway.
        keep_buckets = self._device.type == "cpu" and self._world_size > 2
        model = nn.parallel.DistributedDataParallel(
            self._module,
            gradient_as_bucket_view=True,
            find_unused_parameters=keep_buckets,
            # `validate` and checkpoints use the running statistics of rank 0, and training steps do not read them, so
            # there is no need to broadcast them before every forward pass.
            broadcast_buffers=False,
        )
        if self._config.train.exchange == "bfloat16":
            model.register_comm_hook(None, lambda _, bucket: _mean_in_bfloat16(bucket))
        return model

    def _on_device(self, batch: ClipBatch, rows: np.ndarray | None, seed: int) -> Batch:
        optim = self._config.optim
        mixes = rows is not None and (optim.mixup or optim.cutmix)
        labels = batch.labels[rows] if mixes else batch.labels
        clips_NTCHW, labels_N, weights_N = self.transfer(
            batch.clips[:, 0], labels, batch.weights, rows=rows
        )
        if not mixes:
            return Batch(clips_NTCHW, labels_N, weights_N)
        mixed_NTCHW, partners_N, shares_N = mix_pairs(
            clips_NTCHW,
            labels_N,
            mixup=optim.mixup,
            cutmix=optim.cutmix,
            generator=np.random.default_rng(seed),
        )
        return Batch(mixed_NTCHW, labels_N, weights_N, partners_N, shares_N)


def _mean_in_bfloat16(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average a bucket of gradients over all ranks. PyTorch's own hook does the same, but does not support CPUs."""
    buffer = bucket.buffer()
    halved = buffer.to(torch.bfloat16).div_(dist.get_world_size())
    summed = dist.all_reduce(halved, async_op=True).get_future()
    return summed.then(lambda done: buffer.copy_(done.value()[0]))
