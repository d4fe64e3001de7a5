"""Write the figures of an evaluation for other programs: classes, confusions and answers as CSV and JSON.

file                  row          columns
classes.csv, .json    class        class, num_videos, right, unreadable, top1, low and high (95 %), taken_for,
                                   taken_for_videos
confusion.csv         class        the number of its videos by answer, then the unreadable ones
confusion.json                     classes; counts [K, K], rows true, columns answered; unreadable [K]
answers.csv           video        video_id, class, readable, is_right, rank of its class, answer_1, score_1, to 5

Missing values, such as the top1 of a class without videos, are empty cells, or ``null`` in JSON.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stm.report.intervals import wilson
from stm.scoring.metrics import Metrics
from stm.storage import write_bytes

_ANSWERS = 5


def write_tables(
    folder: Path,
    classes: Sequence[str],
    metrics: Metrics,
    video_ids: Sequence[str],
    labels_N: np.ndarray,
    readable_N: np.ndarray,
    scores_NK: np.ndarray,
) -> dict[str, str]:
    """Write the files above into an existing ``folder``; return their paths by kind."""
    rows = list(_classes(classes, metrics, labels_N, readable_N))
    unreadable = [row["unreadable"] for row in rows]
    counts = metrics.confusion.tolist()
    answers = _answers(classes, video_ids, labels_N, readable_N, scores_NK)
    first = min(_ANSWERS, len(classes))
    places = [f"{what}_{i}" for i in range(1, first + 1) for what in ("answer", "score")]
    files = {
        "classes_csv": folder / "classes.csv",
        "classes_json": folder / "classes.json",
        "confusion_csv": folder / "confusion.csv",
        "confusion_json": folder / "confusion.json",
        "answers_csv": folder / "answers.csv",
    }
    _csv(files["classes_csv"], list(rows[0]), (row.values() for row in rows))
    _json(files["classes_json"], rows)
    matrix = zip(classes, counts, unreadable, strict=True)
    _csv(
        files["confusion_csv"],
        ["true class", *classes, "(unreadable)"],
        ([name, *row, bad] for name, row, bad in matrix),
    )
    _json(
        files["confusion_json"],
        {"classes": list(classes), "counts": counts, "unreadable": unreadable},
    )
    heads = ["video_id", "class", "readable", "is_right", "rank", *places]
    _csv(files["answers_csv"], heads, answers)
    return {kind: str(path) for kind, path in files.items()}


def _classes(
    classes: Sequence[str], metrics: Metrics, labels_N: np.ndarray, readable_N: np.ndarray
) -> Iterator[dict[str, Any]]:
    unreadable = np.bincount(labels_N[~readable_N], minlength=len(classes)).tolist()
    for label, name in enumerate(classes):
        total, right = metrics.class_counts[label], int(metrics.confusion[label, label])
        wrong = metrics.confusion[label].copy()
        wrong[label] = 0
        low, high = wilson(right, total) if total else (None, None)
        yield {
            "class": name,
            "num_videos": total,
            "right": right,
            "unreadable": unreadable[label],
            "top1": metrics.per_class[label],
            "low": low,
            "high": high,
            "taken_for": classes[int(wrong.argmax())] if wrong.any() else None,
            "taken_for_videos": int(wrong.max()),
        }


def _answers(
    classes: Sequence[str],
    video_ids: Sequence[str],
    labels_N: np.ndarray,
    readable_N: np.ndarray,
    scores_NK: np.ndarray,
) -> Iterator[list[Any]]:
    for row, video_id in enumerate(video_ids):
        label = int(labels_N[row])
        if not readable_N[row]:
            yield [video_id, classes[label], "false", "false"]
            continue
        ranked = np.argsort(-scores_NK[row], kind="stable")
        best = [(classes[k], f"{scores_NK[row, k]:.6f}") for k in ranked[:_ANSWERS]]
        rank = int(np.flatnonzero(ranked == label)[0]) + 1
        is_right = "true" if rank == 1 else "false"
        yield [
            video_id,
            classes[label],
            "true",
            is_right,
            rank,
            *(cell for two in best for cell in two),
        ]


def _csv(path: Path, heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    for row in rows:
        cells = list(row)
        writer.writerow([*cells, *[None] * (len(heads) - len(cells))])
    write_bytes(str(path), file.getvalue().encode())


def _json(path: Path, value: Any) -> None:
    write_bytes(str(path), (json.dumps(value, ensure_ascii=False) + "\n").encode())
