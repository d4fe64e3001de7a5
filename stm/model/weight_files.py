"""The state dict in a file that somebody else wrote: safetensors, or what ``torch.save`` makes. No code in it is run.

What a file is shows in its first bytes, not in its name: ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` and ``.pth.tar`` are
all the same to their writers.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from stm.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")
"""Where trainers put the network's state dict beside the optimizer's."""
_SHOWN = 4


def read_state_dict(content: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and the metadata of safetensors (JSON values are read, others stay text).

    Args:
        content: of the file.
        where: its name, for messages.

    Raises:
        UserError: (a ValueError) it is no state dict, is damaged, or holds Python objects beside tensors.
    """
    start = content[:200].lstrip().lower()
    if not content:
        raise UserError(f"{where} is empty: download it again")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise UserError(
            f"{where} is a web page, not weights. Fetch the file itself: the link behind `download`, on Hugging Face "
            "/resolve/ in place of /blob/, on GitHub /raw/"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{where} is a pointer of Git LFS, not the file: run `git lfs pull` there")
    try:
        if content[8:9] == b"{":
            return load(content), _metadata(content)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{where} is damaged, or holds Python objects beside tensors, which are never run here. Save the state "
            "dict: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # each format has errors of its own for a damaged file
        said = str(error).strip().splitlines()[0].partition(". ")[0] if str(error).strip() else ""
        raise UserError(
            f"{where} cannot be read ({type(error).__name__}: {said[:200]}). It may be incomplete; download it again"
        ) from error
    named = loaded if isinstance(loaded, Mapping) else {}
    for found in (loaded, *map(named.get, WRAPPERS)):
        if _is_state_dict(found):
            return {str(key): value for key, value in found.items()}, {}
    keys = first([str(key) for key in named])
    raise UserError(
        f"{where} holds a {type(loaded).__name__} ({keys}), no state dict. Save the state dict itself: "
        "torch.save(model.state_dict(), path)"
    )


def _is_state_dict(content: Any) -> bool:
    is_full = isinstance(content, Mapping) and bool(content)
    return is_full and all(isinstance(value, Tensor) for value in content.values())


def first(items: list[str], shown: int = _SHOWN) -> str:
    """The first few of a list, in words."""
    rest = len(items) - shown
    return ", ".join(items[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _metadata(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    values: dict[str, Any] = {}
    for key, text in json.loads(content[8 : 8 + size]).get("__metadata__", {}).items():
        try:
            values[key] = json.loads(text)
        except ValueError:
            values[key] = text
    return values
