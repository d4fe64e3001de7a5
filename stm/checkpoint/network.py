"""Load the network of a checkpoint."""

from __future__ import annotations

import torch

from stm.checkpoint import format as checkpoints
from stm.model import VideoResNet, build_model


def load_network(checkpoint: str) -> VideoResNet:
    """Return the network of a checkpoint in evaluation mode, on this process's GPU if it has one.

    ``checkpoint`` is its folder or URL. Raises ``UserError`` if there is none, or it cannot be read.
    """
    meta = checkpoints.read_meta(checkpoint)
    model = build_model(**checkpoints.network_arguments(meta, checkpoint))
    model.load_state_dict(checkpoints.read_weights(checkpoint))
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
