"""The tables that `stm bench` prints, one for each kind of result."""

from __future__ import annotations

from typing import Any

from stm.plural import counted


def show(result: dict[str, Any]) -> str:
    if result["what"] == "model":
        lines = _model_lines(result)
    elif result["what"] == "decode":
        lines = _decode_lines(result)
    elif result["what"] == "scale":
        lines = _scale_lines(result)
    elif result["what"] == "train":
        lines = [
            f"{result['device']}, {result['precision']}, {counted(result['threads'], 'thread')}, depth "
            f"{result['depth']}, batches of {result['batch_size']}, {counted(result['steps'], 'step')} per run; "
            "clips/s, smallest and largest value"
        ]
        lines += [
            f"  {name:<8}{value:>8.2f}   {result['spread'][name]}"
            for name, value in result["clips_per_s"].items()
        ]
    elif "rows" in result:
        lines = [
            f"{counted(result['num_clips'], 'clip')} of {result['num_frames']} x {result['size']} px; CPU ms per clip, "
            "median; quartiles; clips/s per core; cost relative to the first"
        ]
        lines += [
            f"  {name:<34}{row['ms']:>8.1f}  ({row['quartiles_ms'][0]:.1f} to {row['quartiles_ms'][1]:.1f})"
            f"{row['clips_per_s_core']:>8.1f}{row['times']:>8.2f} x"
            for name, row in result["rows"].items()
        ]
    else:
        lines = [
            f"{counted(result['cores'], 'core')}; clips/s, smallest and largest value of the repetitions"
        ]
        lines += [
            f"  {name:<30}{value:>8.1f}   {result['spread'][name]}"
            for name, value in result["clips_per_s"].items()
        ]
        lines.append(
            f"  the stream reaches {result['stream_to_pool']:.2f} of the pool's rate; a consumer at 0.8 of that rate "
            f"waits {result['wait_share']:.0%} of the time"
        )
    return "\n".join([*lines, result["sum"], f"({result['machine']}, {result['date']})"])


def _decode_lines(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{counted(result['num_videos'], 'video')}; wrong frames, unreadable videos, CPU ms per clip, spread, clips/s "
        "per core, cost relative to packets"
    ]
    for name, ms in result["ms"].items():
        wrong = "{} of {}".format(*result["wrong"][name])
        lines.append(
            f"  {name:<23}{wrong:>14}{result['failed'][name]:>5}{ms:>8.1f}  +-{result['spread_ms'][name] / 2:<6.1f}"
            f"{result['clips_per_s_core'][name]:>7.1f}{result['ratio_to_packets'][name]:>8.2f} x"
        )
    lines += [f"  {name:<26}{ms:>8.1f} ms" for name, ms in result["stages_ms"].items()]
    lines += [f"  not read: {what}: {why}" for what, why in list(result["unreadable"].items())[:5]]
    lines += [f"  {count} wrong: {what}" for what, count in list(result["wrong_in"].items())[:5]]
    if result["peers"]:
        lines.append(f"  peers: {', '.join(sorted(set(result['peers'].values())))}")
    return lines


def _model_lines(result: dict[str, Any]) -> list[str]:
    product = result["matrix_product"]
    head = (
        f"{result['device']}, {result['precision']}, {counted(result['threads'], 'thread')}, depth {result['depth']}, "
        f"{counted(result['batch_size'], 'clip')} of {result['num_frames']} x {result['size']} px, "
        f"{counted(result['rounds'], 'round')}"
        f"{', compiled' if result['compiled'] else ''}; PyTorch {result['torch']}"
    )
    columns = (
        f"  {'':<20}{'ms/step':>10}{'least':>9}{'most':>9}{'clips/s':>9}{'GFLOP/s':>10}{'of max':>8}"
        f"{'x TSN':>8}{'x naive':>9}{'x script':>10}{'peak MB':>9}"
    )
    lines = [head, columns]
    for row in sorted(result["rows"], key=lambda row: row["mode"], reverse=True):
        least, most = row["spread_ms"]
        peak = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        naive, script = (
            "-" if row[times] is None else f"{row[times]:.3f}"
            for times in ("times_naive", "times_script")
        )
        lines.append(
            f"  {row['network']:<10}{row['mode']:<10}{row['ms']:>10.4g}{least:>9.4g}{most:>9.4g}"
            f"{row['clips_per_s']:>9.4g}{row['gflop_per_s']:>10.4g}{row['share_of_matrix_product']:>8.1%}"
            f"{row['times_tsn']:>8.3f}{naive:>9}{script:>10}{peak:>9}"
        )
    least, most = product["spread"]
    lines.append(
        f"  the product of two {product['size']} x {product['size']} matrices: {product['gflop_per_s']:.4g} GFLOP/s "
        f"({least:.4g} to {most:.4g})"
    )
    return lines


def _scale_lines(result: dict[str, Any]) -> list[str]:
    parts = list(result["rows"][0]["parts"])
    lines = [
        f"{result['num_frames']} x {result['size']} px, ready arrays instead of decoding, "
        f"{counted(result['cores'], 'core')}, {counted(result['rounds'], 'round')}, "
        f"load {result['load'][0]:g}; CPU ms per clip",
        f"  {'ranks':>5}{'clips':>6}{'streams':>8}{'ms':>8}  {'least to most':<16}"
        + "".join(f"{part:>14}" for part in parts)
        + f"{'clips/s':>9}{'blocks/s':>9}{'ceiling':>9}",
    ]
    for row in result["rows"]:
        least, most = row["spread"]
        lines.append(
            f"  {row['ranks']:>5}{row['clips']:>6}{row['streams']:>8}{row['ms_per_clip']:>8.3f}"
            f"  {f'{least:.3f} to {most:.3f}':<16}"
            + "".join(f"{row['parts'][part]:>14.3f}" for part in parts)
            + f"{row['clips_per_s']:>9}{row['blocks_per_s']:>9.1f}{row['ceiling_clips_per_s']:>9}"
        )
    return lines
