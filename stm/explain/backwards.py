"""Compare a clip with its reversal, which has the same frames but another action, in the maps of a block with CMM."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from stm.data.decode import VideoError
from stm.errors import UserError
from stm.explain import frames, picture
from stm.explain.colours import Scale
from stm.explain.explain import Network, make_folder, titles


def draw_backwards(
    checkpoint: str,
    source: str,
    output: str,
    *,
    block: str | None = None,
    compare: str | None = None,
    which: str = "best",
) -> dict[str, Any]:
    """Write one picture to ``output``, with the CMM outputs for a clip and for its reversal, and their difference.

    The maps of the reversal are in the clip's order: each column has the same frame, so only the order of time makes
    a difference. ``compare`` is a second checkpoint, whose answers are written next to the first one's. For a run
    directory, ``which`` selects its best or last checkpoint.

    Returns ``{"picture", "block", "forwards": {network: top5}, "backwards": {network: top5}, "same_before": bool}``.
    ``same_before`` is whether the features before the block are equal for each frame, as they are before the first
    block that mixes time.

    Raises ``UserError`` if the video cannot be read, the network has no CMM in this block, or ``output`` cannot be
    written.
    """
    if Path(output).suffix != ".png":
        raise UserError(
            f"--backwards {output}: the picture is a PNG, so its name must end with .png"
        )
    network = Network(checkpoint, which)
    block = network.blocks([block] if block else None)[0]
    try:
        with frames.decoder_of(network.data) as decoder:
            pictures = frames.read(decoder, source, network.data, most_frames=1)
    except VideoError as error:
        raise UserError(str(error)) from error
    clip = pictures.clip
    both = np.stack([clip, clip[::-1]])
    seen = network.look(both, [block])
    if "cmm" not in seen.maps[block]:
        raise UserError(f"--block {block}: this block has no CMM, which --backwards needs")
    others = [] if compare is None else [Network(compare, which)]
    for other in others or [network]:
        network.require_same_clips(other)
    scores = [seen.scores_NK, *(other.look(both, []).scores_NK for other in others)]
    answers = {
        title: [which.top5(scores_K) for scores_K in scores_NK]
        for title, which, scores_NK in zip(
            titles([network, *others]), [network, *others], scores, strict=True
        )
    }

    # Both are in the clip's order, without the first and the last column: there, one of the two has its last step,
    # whose CMM output is always 0.
    before, cmm = (
        np.stack([m[0], m[1, ::-1]])[:, 1:-1]
        for m in (seen.maps[block]["before"], seen.maps[block]["cmm"])
    )
    same_before = bool(np.allclose(before[0], before[1], rtol=1e-4, atol=1e-6))
    difference = cmm[0] - cmm[1]
    scale, cells = Scale.of_magnitudes(cmm), f"{block}, {cmm.shape[2]}×{cmm.shape[3]} cells"
    rows = [
        picture.Row("frames", "equal for both", clip[1:-1]),
        picture.Row(
            "before the block",
            f"{'equal for both' if same_before else 'played →, ← differs'}\n{cells}",
            before[0],
            Scale.of_magnitudes(before),
        ),
        picture.Row("CMM, played →", _said(answers, 0), cmm[0], scale, True),
        picture.Row("CMM, played ←", _said(answers, 1), cmm[1], scale),
        picture.Row(
            "difference, → minus ←",
            "orange: more when played →\npurple: more when played ←",
            difference,
            Scale.of_evidence(difference),
            True,
        ),
    ]
    path = Path(output)
    make_folder(str(path.parent))
    picture.draw(
        path,
        rows,
        title="CMM outputs for the same frames in two orders",
        subtitle="Each column is one frame. The clip plays from left to right (→), "
        "and its reversal from right to left (←).",
        columns=[f"frame {k}" for k in pictures.clip_frames[1:-1]],
        footer=[f"{picture.HOW} The two CMM rows share a scale."],
        dpi=110,
    )
    return {
        "picture": str(path),
        "block": block,
        "forwards": {name: said[0] for name, said in answers.items()},
        "backwards": {name: said[1] for name, said in answers.items()},
        "same_before": same_before,
    }


def _said(answers: dict[str, list[list[dict[str, Any]]]], which: int) -> str:
    return "\n".join(
        f"{name} says {textwrap.shorten(said[which][0]['class'], 20, placeholder=' ...')}, "
        f"{said[which][0]['score']:.0%}"
        for name, said in answers.items()
    )
