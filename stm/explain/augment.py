"""Draw the clips that training takes from a video: ``stm explain --augment clip.mp4 --data.color_jitter 0.4``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stm.config import DataConfig
from stm.data.annotations.mirroring import flip_rules
from stm.data.decode import VideoError, VideoInfo, probe
from stm.data.stream.clips import ClipSpec, Drawn, draw, limits_of, load_views, reversal
from stm.data.stream.guarded import GuardedDecoder
from stm.data.stream.plan import sample_seed
from stm.errors import UserError
from stm.explain import picture
from stm.explain.explain import make_folder, stems
from stm.plural import counted

NUM_DRAWS = 12


def draw_augmentations(
    source: str,
    data: DataConfig,
    output: str,
    *,
    classes: Sequence[str] = (),
    class_name: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write ``output/<video>-augment.png``, with a row for the test clip and for each of 12 training clips.

    If the video is the first of its manifest, the training clips are those of the first 12 epochs. ``classes`` decide
    whether a clip can be mirrored and reversed; without classes, only the settings decide.

    Returns ``{"picture", "draws": [{"seed", "label", "words"}]}``. A label is an index of ``classes`` or None.

    Raises ``UserError`` if the video cannot be read, ``classes`` do not include ``class_name``, or ``output`` cannot be
    written.
    """
    label = -1
    if class_name is not None:
        if class_name not in classes:
            raise UserError(
                f"--class {class_name}: not one of the {counted(len(classes), 'class')} of --data.train or --checkpoint"
            )
        label = list(classes).index(class_name)
    flip, flip_map = flip_rules(classes) if classes else (True, None)
    spec = ClipSpec.training(data, flip=flip, flip_map=flip_map, classes=classes)
    seeds = [int(sample_seed(np.asarray(0), seed=seed, epoch=epoch)) for epoch in range(NUM_DRAWS)]
    try:
        with GuardedDecoder(spec, data.decode_deadline_s, isolated=True) as decoder:
            info = decoder.call(source, probe, source, limits_of(data))
            test = ClipSpec.one_clip(data)
            clips = decoder.call(
                source, _read, source, info, [(test, 0), *((spec, each) for each in seeds)], label,
                num_clips=1 + NUM_DRAWS,
            )  # fmt: skip
    except VideoError as error:
        raise UserError(str(error)) from error
    draws = [draw(info.num_frames, info.width, info.height, label, each, spec) for each in seeds]
    words = [_words(each) for each in draws]
    rows = [
        picture.Row(
            "test", "\n".join(textwrap.wrap(f"{data.frames}; the centre crop", 32)), clips[0]
        )
    ]
    rows += [
        picture.Row(
            f"draw {number}",
            "\n".join(textwrap.wrap(said, 32, max_lines=5)),
            clip,
            None,
            number == 1,
        )
        for number, (said, clip) in enumerate(zip(words, clips[1:], strict=True), 1)
    ]
    path = make_folder(output) / f"{stems([source])[0]}-augment.png"
    name = Path(source.rstrip("/")).name.encode(errors="backslashreplace").decode()
    footer = [
        "A draw depends only on the seed, the epoch and the video. All frames of a clip have the same draw."
    ]
    if data.reverse != "never" and classes:
        footer.append(reversal(data, classes))
    if not classes:
        footer.append(
            "No classes were given. Training does not mirror or reverse clips if class names forbid it."
        )
    picture.draw(
        path,
        rows,
        title=f"{name}: clips that training takes from it",
        subtitle=f"{counted(info.num_frames, 'frame')} of {info.width} x {info.height} px; clips of "
        f"{data.num_segments} x {data.size} px",
        columns=[f"frame {k + 1} of the clip" for k in range(data.num_segments)],
        footer=footer,
        dpi=90,
    )
    return {
        "picture": str(path),
        "draws": [
            {"seed": each, "label": drawn.label if drawn.label >= 0 else None, "words": said}
            for each, drawn, said in zip(seeds, draws, words, strict=True)
        ],
    }


def _read(
    source: str, info: VideoInfo, drawn: list[tuple[ClipSpec, int]], label: int
) -> list[np.ndarray]:
    size = (info.num_frames, info.width, info.height)
    views = (load_views(source, *size, label, seed, spec, info.fps)[0][0] for spec, seed in drawn)
    return [np.ascontiguousarray(clip) for clip in views]


def _words(drawn: Drawn) -> str:
    """Describe a draw in one line."""
    left, top, width, height = (round(value) for value in drawn.box)
    said = [f"{width}x{height} at {left}, {top}"]
    if not callable(drawn.frames):
        numbers = np.asarray(drawn.frames).tolist()
        said.append(f"frames {numbers[0]} to {numbers[-1]}")
    if drawn.is_mirrored:
        said.append("mirrored")
    if drawn.is_reversed:
        said.append("backwards")
    if drawn.pace != 1:
        said.append(f"window x {drawn.pace:.2f}")
    return "; ".join([*said, *(str(each) for each in drawn.operations if each.name != "identity")])
