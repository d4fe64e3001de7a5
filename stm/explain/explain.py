"""Write pictures and films of what a checkpoint's network computes from videos."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import find
from stm.checkpoint.network import load_network
from stm.config import DataConfig
from stm.data.decode import VideoError
from stm.data.finding import find_videos
from stm.data.shards import is_shard_path, split_shard_path
from stm.errors import UserError
from stm.explain import frames, maps, picture
from stm.explain.colours import Scale
from stm.explain.film import Layer, write_film
from stm.log import get_logger
from stm.plural import counted, none_read
from stm.redaction import one_line

logger = get_logger(__name__)

NAMES = {
    "before": ("before the block", "features that enter it"),
    "cstm": ("CSTM output", "space and time"),
    "conv": ("3×3 output", "space only: no CSTM here"),
    "cmm": ("CMM output", "motion; the last is 0"),
    "after": ("after the block", "features that leave it"),
}
"""Kind of map -> its name and a remark, for the pictures."""
SHOWN = ("before", "cstm", "conv", "cmm")
MOST_BLOCKS = 4
_FRAMES_AT_ONCE = 32
"""Frames in one forward pass, to limit memory."""


class Network:
    """The network of a checkpoint, with its classes and data settings."""

    def __init__(self, checkpoint: str, which: str = "best") -> None:
        located = find(checkpoint, which)
        self.directory, meta, self.taken = located.directory, located.meta, located.taken
        self.model = load_network(self.directory)
        self.device = self.model.fc.weight.device
        self.classes: list[str] = meta.classes
        self.data: DataConfig = checkpoints.config_of(meta).data

    @property
    def variant(self) -> str:
        return self.model.variant.upper()

    def look(self, clips: np.ndarray, blocks: Sequence[str]) -> maps.Seen:
        """Run the network in float32 on ``clips: uint8 [N, T, S, S, 3]``, and keep the maps of the named blocks."""
        from stm.model.inputs import normalise

        return maps.look(self.model, normalise(clips, self.device), blocks)

    def blocks(self, names: Sequence[str] | None) -> list[str]:
        """Return the named blocks without repetitions, or the default one; ``UserError`` if one does not exist."""
        names = list(dict.fromkeys(names or [maps.default_block(self.model)]))
        maps.find_blocks(self.model, names)
        return names

    def require_same_clips(self, other: Network) -> None:
        """Raise ``UserError`` unless both networks use the same frames and pixels, with at least 3 frames in a clip."""
        if self.data.num_segments < 3:
            raise UserError(
                f"{self.directory}: its data.num_segments is {self.data.num_segments}, but at least 3 "
                "are needed, because the first and the last frame of a clip are not shown"
            )
        for field in ("num_segments", "size", "sampling", "frame_stride", "window_s"):
            ours, theirs = getattr(self.data, field), getattr(other.data, field)
            if ours != theirs:
                raise UserError(
                    f"--compare {other.directory}: trained with data.{field} {theirs}, but "
                    f"{self.directory} with {ours}, so their clips differ"
                )

    def label(self, name: str) -> int:
        """Return the label of the named class; ``UserError`` with the most similar name if there is none."""
        if name in self.classes:
            return self.classes.index(name)
        near = difflib.get_close_matches(name, self.classes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {self.classes[0]!r}"
        raise UserError(
            f"--class {name}: not one of the {counted(len(self.classes), 'class')}; {hint}"
        )

    def top5(self, scores_K: np.ndarray) -> list[dict[str, Any]]:
        """Return the five classes with the highest scores, best first; ``scores_K`` is float [K]."""
        best = np.argsort(-scores_K, kind="stable")[:5]
        return [{"class": self.classes[k], "score": float(scores_K[k])} for k in best]


def explain(
    checkpoint: str,
    sources: list[str],
    *,
    blocks: Sequence[str] | None = None,
    output: str = "explain",
    class_name: str | None = None,
    which: str = "best",
) -> dict[str, Any]:
    """Write ``output/<video>.png`` and ``output/<video>.mp4`` for every video.

    Args:
        checkpoint: A checkpoint, or a run directory.
        sources: Videos, and folders of videos.
        blocks: Names of blocks in the network, such as ``layer1.0``; None is ``maps.default_block``.
        output: Folder to write into.
        class_name: Class whose evidence is drawn; None is the predicted class of each video.
        which: The checkpoint of a run directory: best or last.

    Returns:
        ``{"checkpoint", "taken", "variant", "blocks", "num_videos", "unreadable", "videos": [{"path", "top5", "class",
        "picture", "film"} or {"path", "error"}]}``.

    Raises:
        UserError: A block or class does not exist, no video can be read, or the folder cannot be written.
    """
    paths = find_videos(sources)
    network = Network(checkpoint, which)
    names = network.blocks(blocks)
    if len(names) > MOST_BLOCKS:
        raise UserError(
            f"--block: {len(names)} blocks, but a picture has room for only {MOST_BLOCKS}"
        )
    if class_name is not None:
        network.label(class_name)
    folder = make_folder(output)
    rows: list[dict[str, Any]] = []
    with frames.decoder_of(network.data) as decoder:
        for path, stem in zip(paths, stems(paths), strict=True):
            try:
                pictures = frames.read(decoder, path, network.data)
            except VideoError as error:
                rows.append({"path": path, "error": error.why})
                logger.warning(one_line(f"{path}: {rows[-1]['error']}"))
                continue
            shown = _explain(network, pictures, names, class_name, folder / stem)
            rows.append({"path": path, **shown})
            logger.info(one_line(f"{path}: {rows[-1]['top5'][0]['class']}"))
    unread = [row for row in rows if "error" in row]
    if len(unread) == len(rows):
        first = unread[0]
        raise UserError(none_read(len(rows), first["path"], first["error"]))
    return {
        "checkpoint": network.directory,
        "taken": network.taken,
        "variant": network.model.variant,
        "blocks": names,
        "num_videos": len(rows),
        "unreadable": len(unread),
        "videos": rows,
    }


def _explain(
    network: Network,
    pictures: frames.Pictures,
    blocks: list[str],
    class_name: str | None,
    stem: Path,
) -> dict[str, Any]:
    seen = network.look(pictures.clip[None], blocks)
    top5 = network.top5(seen.scores_NK[0])
    shown = class_name or top5[0]["class"]
    label = network.label(shown)
    answer = textwrap.shorten(top5[0]["class"], 60, placeholder=" ...")
    # A name that is not UTF-8 has surrogates, which no font can draw.
    name = stem.name.encode(errors="backslashreplace").decode()
    title = f"{name}: {answer} {top5[0]['score']:.0%}"
    about = f"{network.variant}, {counted(len(network.classes), 'class')}; centre crop, {network.data.size} px"
    picture_path = picture.draw(
        stem.with_name(f"{stem.name}.png"),
        clip_rows(pictures.clip, seen, label, shown),
        title=title,
        subtitle=f"{about}; {network.data.frames}",
        columns=[f"frame {k}\n{k / pictures.fps:.2f} s" for k in pictures.clip_frames],
        footer=[picture.HOW, picture.HOW_EVIDENCE],
    )
    layers, evidence = _film_layers(network, pictures, blocks, label)
    film_path = write_film(
        stem.with_name(f"{stem.name}.mp4"),
        pictures.film,
        layers,
        Layer("", "evidence", evidence, Scale.of_evidence(evidence)),
        fps=pictures.film_fps,
        title=title,
        subtitle=f"{network.variant}; maps: mean absolute value over channels; evidence: orange for "
        f"{textwrap.shorten(shown, 32, placeholder=' ...')}",
    )
    return {"top5": top5, "class": shown, "picture": str(picture_path), "film": str(film_path)}


def clip_rows(clip: np.ndarray, seen: maps.Seen, label: int, class_name: str) -> list[picture.Row]:
    """Return the rows of a clip's picture: its frames, the maps of each block, and the evidence for a class."""
    rows = [picture.Row("input frames", "the centre crop", clip)]
    for block, kinds in seen.maps.items():
        first = True
        for kind in (kind for kind in SHOWN if kind in kinds):
            values = kinds[kind][0]
            name, note = NAMES[kind]
            note = f"{note}\n{block}, {values.shape[1]}×{values.shape[2]} cells"
            rows.append(picture.Row(name, note, values, Scale.of_magnitudes(values), first))
            first = False
    evidence = seen.evidence(label)[0]
    scale = Scale.of_evidence(evidence)
    name = "\n".join(textwrap.wrap(f"for {class_name}", 32, max_lines=2, placeholder=" ..."))
    note = f"{name}\nlast block, {evidence.shape[1]}×{evidence.shape[2]} cells"
    rows.append(
        picture.Row("class evidence", note, scale.lay_over(clip, evidence), scale, after_gap=True)
    )
    return rows


def _film_layers(
    network: Network, pictures: frames.Pictures, blocks: list[str], label: int
) -> tuple[list[Layer], np.ndarray]:
    """Return the maps and the evidence, float [F, h, w], of all frames of the film, each seen in its own segment."""
    num_segments = len(pictures.clip)
    clips, clip_of, segment_of = frames.deal(
        pictures.film_frames, pictures.num_frames, num_segments, pictures.num_windows
    )
    at_once = max(1, _FRAMES_AT_ONCE // num_segments)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for start in range(0, len(clips), at_once):
        seen = network.look(pictures.film[clips[start : start + at_once]], blocks)
        for block, kinds in seen.maps.items():
            for kind in (kind for kind in SHOWN if kind in kinds):
                found.setdefault((NAMES[kind][0], block), []).append(kinds[kind])
        found.setdefault(("evidence", ""), []).append(seen.evidence(label))
    by_frame = {key: np.concatenate(parts)[clip_of, segment_of] for key, parts in found.items()}
    evidence = by_frame.pop(("evidence", ""))
    layers = [
        Layer(name, block, all_, Scale.of_magnitudes(all_))
        for (name, block), all_ in by_frame.items()
    ]
    return layers, evidence


def titles(networks: Sequence[Network]) -> list[str]:
    """Return a name for each network: its variant, with a number if several networks have the same one."""
    variants = [network.variant for network in networks]
    return [
        name if variants.count(name) == 1 else f"{name} {variants[:i].count(name) + 1}"
        for i, name in enumerate(variants)
    ]


def make_folder(output: str) -> Path:
    """Return the folder ``output``, and create it if necessary; ``UserError`` if that fails."""
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    return folder


def stems(paths: list[str]) -> list[str]:
    """Return a file name without suffix for each video. Equal names get a number."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        file, row = split_shard_path(path) if is_shard_path(path) else (path, None)
        stem = base = (Path(file.rstrip("/")).stem or "video") + ("" if row is None else f"-{row}")
        number = 1
        while stem in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem)
        stems.append(stem)
    return stems
