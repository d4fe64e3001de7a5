"""A timeline on disk: a journal while it grows, then the final files. Each is written completely or not at all.

    timeline.parquet                  a row per window: start_s, end_s, error, classes and scores (five, best first)
    timeline.segments.parquet         a row per segment: class, start_s, end_s, score, peak
    timeline.png                      the segments, and the scores of the most frequent classes
    timeline.parquet.partial.jsonl    the journal: one JSON object per window, flushed at once; removed at the end

In .csv files the classes are columns; a .json file has windows and segments in one object. A run that was killed leaves
its journal. If the source is a file, the same command continues from the journal. The journal of a stream is never
overwritten.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from stm import spool
from stm.errors import UserError
from stm.figures import INK, MUTED, new_figure, plain, save
from stm.results import Segment, WindowPrediction
from stm.storage import make_writable, whole_file

_SUFFIXES = (".parquet", ".csv", ".json")
_ROWS = 4096
"""Rows of Parquet that are written together."""
_KEPT = 5
_POINTS, _DRAWN = 1000, 8


class Timeline:
    """The files of one timeline.

    Args:
        output: The file of the windows; its suffix gives the format.
        settings: A run continues from the journal only if these are the same.
        classes: The K classes of the scores.
        may_go_on: Whether the source can be read again.

    Raises ``UserError`` for an unknown suffix, for files that exist already, and if the folder is not writable.
    """

    def __init__(
        self, output: Path, settings: dict[str, Any], classes: Sequence[str], *, may_go_on: bool
    ) -> None:
        self.output, self._settings, self._classes = output, settings, classes
        self.journal = output.with_name(f"{output.name}.partial.jsonl")
        self.files: dict[str, str] = {}
        suffix = output.suffix
        if suffix not in _SUFFIXES:
            raise UserError(f"--output {output}: a timeline is {', '.join(_SUFFIXES)}")
        self._segments = output.with_suffix(f".segments{suffix}")
        self._figure = output.with_suffix(".png")
        make_writable(output.parent)
        self._has_journal = self.journal.exists()
        if self._has_journal:
            self._check_journal(may_go_on)
            return
        made = [output, self._figure, *([] if suffix == ".json" else [self._segments])]
        for path in made:
            if os.path.lexists(path):
                raise UserError(
                    f"--output {output}: {path} is there already; name another, or remove it"
                )

    def _check_journal(self, may_go_on: bool) -> None:
        with self.journal.open("rb") as file:
            before = spool.parse(file.readline())
        if before is None or before.get("settings") != self._settings or not may_go_on:
            raise UserError(
                f"--output {self.output}: {self.journal} has what another run left that was killed, one JSON object "
                "a window; move it away, or remove it"
            )

    def known(self) -> Iterator[WindowPrediction]:
        """Yield the windows in the journal of a run that was killed."""
        if not self._has_journal:
            return
        for row in self._rows():
            scores = None
            if not row["error"]:
                scores = np.zeros(len(self._classes))
                scores[row["labels"]] = row["scores"]
            yield WindowPrediction(
                start_s=row["start_s"],
                end_s=row["end_s"],
                top5=None if row["error"] else self._top5(row),
                error=row["error"] or None,
                scores=scores,
                next_number=row["next_number"],
            )

    def add(self, window: WindowPrediction) -> None:
        """Append a window to the journal. Raises ``UserError`` if it cannot be written."""
        labels: list[int] = []
        if window.scores is not None:
            # Keep the best classes, and all that can be part of a segment.
            order = np.argsort(-window.scores, kind="stable")
            many = int((window.scores >= self._settings["leave"]).sum())
            labels = order[: max(_KEPT, many)].tolist()
        row = {
            "start_s": window.start_s,
            "end_s": window.end_s,
            "next_number": window.next_number,
            "error": window.error or "",
            "labels": labels,
            "scores": [float(window.scores[k]) for k in labels],
        }
        try:
            if not self._has_journal:
                spool.append(
                    self.journal, {"settings": self._settings, "classes": [*self._classes]}
                )
                self._has_journal = True
            spool.append(self.journal, row)
        except OSError as error:
            raise UserError(
                f"{self.journal}: cannot be written: {error.strerror}; make room, then the same command goes on there"
            ) from error

    def finish(self, segments: Sequence[Segment]) -> bool:
        """Write the files and remove the journal; False if there are no windows."""
        if not self._has_journal:
            return False
        segments = sorted(segments, key=lambda each: (each.start_s, each.name))
        write = {".parquet": self._parquet, ".csv": self._csv, ".json": self._json}
        _plot(self._figure, self._rows, self._classes, segments)
        if self.output.suffix != ".json":
            write[self.output.suffix](self._segments, segments, True)
            self.files["segments"] = str(self._segments)
        write[self.output.suffix](self.output, segments, False)
        self.files = {"windows": str(self.output), **self.files, "figure": str(self._figure)}
        self.journal.unlink()
        return True

    # ------------------------------------------------------------------ rows

    def _rows(self) -> Iterator[dict[str, Any]]:
        with self.journal.open("rb") as file:
            for number, line in enumerate(file):
                row = spool.parse(line)
                if number and row is not None:  # the first line has the settings of the run
                    yield row

    def _top5(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        pairs = zip(row["labels"][:_KEPT], row["scores"][:_KEPT], strict=True)
        return [{"class": self._classes[k], "score": score} for k, score in pairs]

    # ------------------------------------------------------------------ formats

    def _parquet(self, path: Path, segments: Sequence[Segment], of_segments: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if of_segments:
            rows = [segment.as_dict() for segment in segments]
            columns = [("class", pa.string()), *((n, pa.float64()) for n in _SEGMENT[1:])]
            table = pa.Table.from_pylist(rows, pa.schema(columns))
            _whole(path, lambda file: pq.write_table(table, file))
            return
        schema = pa.schema(
            [
                ("start_s", pa.float64()),
                ("end_s", pa.float64()),
                ("error", pa.string()),
                ("classes", pa.list_(pa.string())),
                ("scores", pa.list_(pa.float32())),
            ]
        )

        def write(file: IO[bytes]) -> None:
            with pq.ParquetWriter(file, schema) as writer:
                waiting: list[dict[str, Any]] = []
                for row in self._rows():
                    top5 = self._top5(row)
                    waiting.append(
                        {
                            **{name: row[name] for name in ("start_s", "end_s", "error")},
                            "classes": [each["class"] for each in top5],
                            "scores": [each["score"] for each in top5],
                        }
                    )
                    if len(waiting) == _ROWS:
                        writer.write_table(pa.Table.from_pylist(waiting, schema))
                        waiting.clear()
                writer.write_table(pa.Table.from_pylist(waiting, schema))

        _whole(path, write)

    def _csv(self, path: Path, segments: Sequence[Segment], of_segments: bool) -> None:
        def write(file: Any) -> None:
            writer = csv.writer(file, lineterminator="\n")
            if of_segments:
                writer.writerow(_SEGMENT)
                writer.writerows([segment[name] for name in _SEGMENT] for segment in segments)
                return
            numbers = range(1, _KEPT + 1)
            heads = [name for k in numbers for name in (f"class_{k}", f"score_{k}")]
            writer.writerow(["start_s", "end_s", "error", *heads])
            for row in self._rows():
                answers = [value for each in self._top5(row) for value in each.values()]
                writer.writerow([row["start_s"], row["end_s"], row["error"], *answers])

        _whole(path, write, text=True)

    def _json(self, path: Path, segments: Sequence[Segment], of_segments: bool) -> None:
        del of_segments

        def write(file: Any) -> None:
            head = json.dumps({**self._settings, "segments": [each.as_dict() for each in segments]})
            file.write(head[:-1] + ', "windows": [')
            for number, row in enumerate(self._rows()):
                answer = {"error": row["error"]} if row["error"] else {"top5": self._top5(row)}
                window = {"start_s": row["start_s"], "end_s": row["end_s"], **answer}
                file.write(",\n" * bool(number) + json.dumps(window))
            file.write("]}\n")

        _whole(path, write, text=True)


_SEGMENT = ("class", "start_s", "end_s", "score", "peak")


def _whole(path: Path, write: Callable[[Any], None], text: bool = False) -> None:
    """Write a file with ``write``, completely or not at all."""
    with whole_file(path) as partial:
        opened: Any = (
            partial.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            if text
            else partial.open("wb")
        )
        with opened as file:
            write(file)


def _plot(
    path: Path,
    rows: Callable[[], Iterator[dict[str, Any]]],
    classes: Sequence[str],
    segments: Sequence[Segment],
) -> None:
    """Plot the segments and scores of the most frequent classes; grey marks windows without a prediction."""
    sums = np.zeros(len(classes))
    end_s = 0.0
    for row in rows():
        sums[row["labels"]] += row["scores"]
        end_s = row["end_s"]
    lasting = np.zeros(len(classes))
    numbers = {name: k for k, name in enumerate(classes)}
    for segment in segments:
        lasting[numbers[segment.name]] += segment.end_s - segment.start_s
    drawn = np.lexsort((-sums, -lasting))[:_DRAWN]
    drawn = drawn[(lasting[drawn] > 0) | (sums[drawn] >= sums.max(initial=0.0) / _DRAWN)]
    # For long timelines, plot the largest score in each of ``_POINTS`` parts.
    best = np.full((len(drawn), _POINTS), np.nan)
    holes = np.zeros(_POINTS, bool)
    places = {int(k): at for at, k in enumerate(drawn)}
    for row in rows():
        middle = (row["start_s"] + row["end_s"]) / 2
        at = min(int(middle / max(end_s, 1e-9) * _POINTS), _POINTS - 1)
        if row["error"]:
            first = int(row["start_s"] / max(end_s, 1e-9) * _POINTS)
            holes[first : max(at, int(row["end_s"] / max(end_s, 1e-9) * _POINTS))] = True
            continue
        best[:, at] = np.fmax(best[:, at], 0.0)
        for k, score in zip(row["labels"], row["scores"], strict=True):
            if k in places:
                best[places[k], at] = max(best[places[k], at], score)
    unit, name = (60.0, "min") if end_s >= 180 else (1.0, "s")
    figure, (bars, curves) = new_figure(11, 2.6 + 0.35 * len(drawn), rows=2)
    middles = (np.arange(_POINTS) + 0.5) * end_s / _POINTS / unit
    for at, k in enumerate(drawn):
        spans = [
            (s.start_s / unit, (s.end_s - s.start_s) / unit)
            for s in segments
            if numbers[s.name] == k
        ]
        bars.broken_barh(spans, (at - 0.38, 0.76), color=f"C{at}")
        there = ~np.isnan(best[at])
        curves.plot(middles[there], best[at][there], color=f"C{at}", linewidth=1)
    for axes in (bars, curves):
        axes.fill_between(
            middles,
            0,
            1,
            where=holes,
            transform=axes.get_xaxis_transform(),
            color=MUTED,
            alpha=0.25,
            linewidth=0,
        )
        axes.set_xlim(0, end_s / unit)
    bars.set_yticks(range(len(drawn)), [plain(classes[k]) for k in drawn], color=INK)
    bars.set_ylim(len(drawn) - 0.5, -0.5)
    curves.set(xlabel=f"time, {name}", ylabel="score", ylim=(0, 1.03))
    save(figure, path)
