"""Read the state dict of a file from elsewhere (safetensors, or from ``torch.save``), without running code in it.

The format is recognised by the first bytes and not by the suffix, because ``.pth``, ``.pt``, ``.bin``, ``.ckpt`` and
``.pth.tar`` do not tell formats apart.
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
"""Keys under which trainers save the network's state dict, next to the optimizer's."""
_SHOWN = 4


def read_state_dict(content: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, and the metadata of safetensors (parsed if a value is JSON, else text).

    Args:
        content: the bytes of the file.
        where: the name of the file, for messages.

    Raises:
        UserError: (a ValueError) the content is not a state dict, is damaged, or has Python objects besides tensors.
    """
    start = content[:200].lstrip().lower()
    if not content:
        raise UserError(f"{where} is empty: download it again")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise UserError(
            f"{where} is a web page, not weights. Use the link of the file itself: with /resolve/ instead of /blob/ on "
            "Hugging Face, with /raw/ on GitHub"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{where} is a Git LFS pointer, not the file: run `git lfs pull` there")
    try:
        if content[8:9] == b"{":
            return load(content), _metadata(content)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{where} is damaged, or has Python objects besides tensors, which stm does not load. Save the state "
            "dict: torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # each format has its own errors for a damaged file
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
        f"{where} holds a {type(loaded).__name__} ({keys}), not a state dict. Save the state dict itself: "
        "torch.save(model.state_dict(), path)"
    )


def _is_state_dict(content: Any) -> bool:
    is_full = isinstance(content, Mapping) and bool(content)
    return is_full and all(isinstance(value, Tensor) for value in content.values())


def first(items: list[str], shown: int = _SHOWN) -> str:
    """The first ``shown`` items as text: ``"a, b and 3 more"``."""
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
