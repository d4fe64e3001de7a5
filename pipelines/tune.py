"""Search for the best settings, with an ordinary training run for each trial: ``stm tune --config sweep.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.options import Address, File, Root
from stm.errors import UserError

if TYPE_CHECKING:
    from stm.tune.settings import Sweep


def tune(
    *,
    config: File,
    name: str | None = None,
    set: list[str] = [],  # noqa: B006  (never changed)
    root: Root = None,
    address: Address = None,
) -> dict[str, Any]:
    """Search for the best values of any settings; each trial is a training run.

    The same command continues an interrupted sweep.

    Examples:
        stm tune --config demo
        stm tune --config sweep.yaml
        stm tune --config something-v2 --name wide --set train.num_workers=4 optim.batch_size=32

    Args:
        config: YAML file of a sweep (docs/sweeps.md), or one that comes with stm: demo, something-v2
        name: name of the sweep, instead of the name in the file
        set: settings of the base run, such as optim.batch_size=16, instead of those in the file
    """
    sweep = sweep_of(config, name, set, root)
    from stm.tune.sweep import run_sweep

    return run_sweep(sweep, address=address)


def sweep_of(config: str, name: str | None, changes: list[str], root: str | None) -> Sweep:
    """Return the sweep that the arguments describe. Raises ``UserError`` if they are wrong."""
    from stm.tune.reading import path_of, read_sweep

    values = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or "." not in key:
            raise UserError(
                f"--set {change}: write SECTION.SETTING=VALUE, such as optim.batch_size=16"
            )
        values[key] = value
    if root is not None:
        values["data.root"] = root
    return read_sweep(path_of(config), name, values)


def show(result: dict[str, Any]) -> str:
    rows = result["table"]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    counts = ", ".join(f"{count} {state}" for state, count in result["trials"].items())
    lines += ["", f"{counts}; cost in {result['cost_unit']}; {result['seconds']:.0f} s in all"]
    lines += [f"  {trial} failed: {why}" for trial, why in result["failures"].items()]
    if result["importance"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importance"].items())
        lines.append(f"variance explained (Optuna's fANOVA): {shares}")
    lines += [f"  {file}" for file in result["files"]]
    if result["best"]:
        lines.append(f"next: stm train --config {result['files'][0]}")
    return "\n".join(lines)
