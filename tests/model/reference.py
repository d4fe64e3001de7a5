"""The network a second time, slowly and plainly, over a state dict: what the tests compare with.

Nothing here is taken from ``stm.model``: frames in the default memory format, time by permutes and
Python loops, batch normalisation by its running statistics (evaluation mode).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """Conv1d over T of every pixel; ``weight: [C, C / groups, K, 1]``."""
    batch, channels, height, width = frames.shape
    pixels = frames.reshape(batch // num_frames, num_frames, channels, height, width)
    pixels = pixels.permute(0, 3, 4, 2, 1).reshape(-1, channels, num_frames)
    groups = channels // weight.shape[1]
    mixed = F.conv1d(pixels, weight[..., 0], padding=weight.shape[2] // 2, groups=groups)
    mixed = mixed.reshape(batch // num_frames, height, width, channels, num_frames)
    return mixed.permute(0, 4, 3, 1, 2).reshape(frames.shape)


def temporal_shift(frames: Tensor, num_frames: int) -> Tensor:
    """TSM: channels [0, C/8) from t+1, [C/8, C/4) from t-1."""
    fold = frames.shape[1] // 8
    shifted = frames.clone()
    for i in range(len(frames)):
        t = i % num_frames
        shifted[i, :fold] = frames[i + 1, :fold] if t < num_frames - 1 else 0
        shifted[i, fold : 2 * fold] = frames[i - 1, fold : 2 * fold] if t > 0 else 0
    return shifted


def norm(state: State, name: str, x: Tensor) -> Tensor:
    parts = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in parts)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def cmm(state: State, name: str, u: Tensor, num_frames: int, stride: int) -> Tensor:
    """Frame by frame, clip by clip."""
    v = norm(state, f"{name}.bn", F.conv2d(u, state[f"{name}.reduce.weight"]))
    motion, expand = state[f"{name}.motion.weight"], state[f"{name}.expand.weight"]
    outputs = []
    for first in range(0, len(v), num_frames):
        for t in range(num_frames):
            if t < num_frames - 1:
                following = v[first + t + 1 : first + t + 2]
                following = F.conv2d(following, motion, padding=1, groups=len(motion))
                difference = following - v[first + t : first + t + 1]
            else:
                difference = torch.zeros_like(v[:1])
            outputs.append(F.conv2d(difference, expand))
    b = torch.cat(outputs)
    return F.max_pool2d(b, 2, ceil_mode=True) if stride == 2 else b


def bottleneck(
    state: State, name: str, x: Tensor, num_frames: int, stride: int, shift: bool = False
) -> Tensor:
    """Whatever the state dict says that the block is."""
    u = temporal_shift(x, num_frames) if shift else x
    u = F.relu(norm(state, f"{name}.bn1", F.conv2d(u, state[f"{name}.conv1.weight"])))
    a = u
    if f"{name}.temporal.weight" in state:
        a = temporal_conv(u, state[f"{name}.temporal.weight"], num_frames)
    a = F.conv2d(a, state[f"{name}.conv2.weight"], stride=stride, padding=1)
    a = F.relu(norm(state, f"{name}.bn2", a))
    weight = state[f"{name}.conv3.weight"]
    if f"{name}.cmm.reduce.weight" in state:
        b = cmm(state, f"{name}.cmm", u, num_frames, stride)
        if f"{name}.conv3_cmm.weight" in state:
            a = torch.cat([a, b], dim=1)
            weight = torch.cat([weight, state[f"{name}.conv3_cmm.weight"]], dim=1)
        else:
            a = a + b
    y = norm(state, f"{name}.bn3", F.conv2d(a, weight))
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = norm(state, f"{name}.downsample.1", x)
    return F.relu(y + x)


def network(state: State, clips: Tensor, shift: bool = False) -> Tensor:
    """``clips: [N, T, 3, H, W]`` -> the logits of every frame, ``[N, T, num_classes]``."""
    batch, num_frames = clips.shape[:2]
    x = clips.reshape(-1, *clips.shape[2:])
    x = F.relu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage in range(1, 5):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in state:
            stride = 2 if stage > 1 and index == 0 else 1
            x = bottleneck(state, f"layer{stage}.{index}", x, num_frames, stride, shift)
            index += 1
    x = x.mean(dim=3).mean(dim=2)
    return (x @ state["fc.weight"].T + state["fc.bias"]).view(batch, num_frames, -1)


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Give each weight and statistic a value of its own: no term can hide in a zero or a one."""
    for key, value in model.state_dict().items():
        if key.endswith("running_var") or ("bn" in key and key.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(std=0.2)
        elif "temporal" in key:
            value.add_(torch.randn_like(value), alpha=0.3)
        elif key == "fc.weight":
            value.normal_(std=0.1)
