"""Format `something-v2`: JSON lists whose templates, without brackets, are keys of labels.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stm.data.annotations.common import Annotations, Entry, annotation_folder, find_list
from stm.data.annotations.media import find_media
from stm.data.annotations.texts import read_lines, read_text
from stm.errors import UserError

LANDMARKS = ("something-something-v2-labels.json", "labels/validation.json")
"""The second is in the current download: labels.json, train.json, validation.json."""

# The prefix of the first release; the current download has names such as labels/train.json.
_PREFIX = "something-something-v2-"
_JSON = "the JSON of Something-Something v2"
_ITEM = '{"id": "74225", "template": "Spinning [something] that quickly stops spinning", ...}'


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read labels, train and validation; a video is ROOT/id.webm or ROOT/id, a folder of frames."""
    del split
    folder = annotation_folder(root, annotations, "*labels.json", inside="labels")
    labels = _read_labels(_file(folder, "labels"))
    lists = {
        name: _file(folder, file) for name, file in (("train", "train"), ("val", "validation"))
    }
    rows = {name: _read_list(path, labels) for name, path in lists.items() if path.is_file()}
    if not rows:
        raise UserError(
            f"{folder}: it contains neither {lists['train'].name} nor {lists['val'].name}."
        )
    paths = find_media(root, (row[0] for listed in rows.values() for row in listed), ".webm")
    splits = {
        name: [
            Entry(video_id, paths[video_id], label, "", f"{lists[name]}:{position}")
            for video_id, label, position in listed
        ]
        for name, listed in rows.items()
    }
    return Annotations(tuple(labels), splits, "something-v2")


def _file(folder: Path, name: str) -> Path:
    full = folder / f"{_PREFIX}{name}.json"
    return find_list([folder], [full.name, f"{name}.json"]) or full


def _read_labels(path: Path) -> dict[str, int]:
    content = _load(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f'{path}: expected an object such as {{"Closing something": "5", ...}}.')
    numbered = {}
    for name, number in content.items():
        if not str(number).isdecimal():
            raise UserError(f"{path}: label {number!r} of {name!r}: expected an integer from 0.")
        numbered[int(number)] = name
    if sorted(numbered) != list(range(len(content))):
        raise UserError(f"{path}: labels must count from 0 to {len(content) - 1} without gaps.")
    return {numbered[label]: label for label in sorted(numbered)}


def _read_list(path: Path, labels: dict[str, int]) -> list[tuple[str, int, int]]:
    """(video id, label, line number) of each item."""
    content = _load(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: expected a list of items such as {_ITEM}.")
    lines = _lines_of_ids(path)
    rows = []
    for position, item in enumerate(content, start=1):
        fields = item if isinstance(item, dict) else {}
        video_id, template = fields.get("id"), fields.get("template")
        line = lines[position - 1] if len(lines) == len(content) else 0
        where = f"{path}:{line}" if line else f"{path}: item {position}"
        if not isinstance(video_id, str | int) or not isinstance(template, str):
            raise UserError(f"{where}: {json.dumps(item)[:120]}\n  expected {_ITEM}")
        name = template.replace("[", "").replace("]", "")
        if name not in labels:
            raise UserError(
                f"{where}: template {template!r} of video {video_id}, without brackets, is not a key "
                "of labels.json. Use the lists and the labels of one release."
            )
        rows.append((str(video_id), labels[name], line or position))
    return rows


def _lines_of_ids(path: Path) -> list[int]:
    """The line of each `"id"`, which the JSON parser does not give. Published files have one per line."""
    return [number for number, text in read_lines(path, _JSON) if '"id":' in text]


def _load(path: Path) -> Any:
    try:
        return json.loads(read_text(path, _JSON))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}). Is the download complete?"
        ) from error
