"""The curve of a plan as a figure: speed and efficiency by GPUs, money by GPUs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from stm.storage import write_bytes

COLOURS = {"ideal": "0.6", "planned": "tab:blue", "on demand": "tab:orange", "spot": "tab:green"}


def plot_curve(path: Path, rows: list[dict[str, Any]], currency: str, title: str) -> Path:
    """Draw the rows of ``stm.planning.plan.make``; returns ``path``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, (speed, money) = pyplot.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    gpus = [row["gpus"] for row in rows]
    first = rows[0]["clips_per_s"] / rows[0]["efficiency"] / rows[0]["gpus"]
    speed.plot(
        gpus, [first * g for g in gpus], "--", color=COLOURS["ideal"], label="one GPU, G times"
    )
    speed.plot(
        gpus, [row["clips_per_s"] for row in rows], "o-", color=COLOURS["planned"], label="planned"
    )
    for row in rows:
        speed.annotate(
            f"{row['efficiency']:.0%}",
            (row["gpus"], row["clips_per_s"]),
            textcoords="offset points",
            xytext=(5, -12),
            fontsize=8,
        )
    speed.set(xlabel="GPUs", ylabel="clips/s", title="speed, and share of the ideal")
    for name, key in (("on demand", "on_demand"), ("spot", "spot")):
        points = [
            (row["hours" if key == "on_demand" else "spot_hours"], row[key], row["gpus"])
            for row in rows
        ]
        points = [point for point in points if point[1] is not None]
        if not points:
            continue
        hours, cost, _ = zip(*points, strict=True)
        money.plot(hours, cost, "o-", color=COLOURS[name], label=name)
        for hour, price, count in points:
            money.annotate(
                str(count), (hour, price), textcoords="offset points", xytext=(4, 5), fontsize=8
            )
    money.set(xlabel="hours", ylabel=currency, title="time and money; beside each point its GPUs")
    for axes in (speed, money):
        axes.set_xscale("log", base=2 if axes is speed else 10)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis) if axes is money else (axes.yaxis,):
            axis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())
        axes.grid(alpha=0.3, which="major")
        axes.legend()
    speed.set_xticks(gpus, [str(count) for count in gpus])
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, facecolor="white", format="png")
    write_bytes(str(path), buffer.getvalue())
    pyplot.close(figure)
    return path
