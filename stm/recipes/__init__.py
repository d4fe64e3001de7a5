"""The paper's schedule for each dataset, and some for smaller machines: YAML files that `--config` takes by name.

Try: ``stm train --config something-v1-t8 --print_config``.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from stm.errors import UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """What `--config` takes besides a file."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(config: str) -> str:
    """The file that `--config CONFIG` means: CONFIG itself where it exists, else the recipe of that name.

    YAML in place of a file (`--config "optim: {lr: 0.02}"`) and URLs are returned as they are.
    Raises UserError, with the recipes there are, where it is none of these.
    """
    if ":" in config or (os.path.exists(config) and not os.path.isdir(config)):
        return config
    if config in names():
        return str(FOLDER / f"{config}.yaml")
    near = difflib.get_close_matches(config, names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"--config {config}: neither a file nor a recipe; {hint}recipes are {', '.join(names())}"
    )
