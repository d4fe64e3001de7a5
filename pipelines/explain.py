"""Draw what the network sees: ``stm explain clip.mp4 --checkpoint runs/first``."""

from __future__ import annotations

import os
from typing import Any

from pipelines.options import Address, CheckpointOrNull, Output, OutputOrNull, Videos, Which
from stm.config import Config, DataConfig, Seed
from stm.errors import UserError
from stm.plural import counted
from stm.redaction import one_line


def explain(
    videos: Videos = [],  # noqa: B006  (never changed)
    *,
    config: Config,
    checkpoint: CheckpointOrNull = None,
    which: Which = "best",
    block: list[str] | None = None,
    class_: str | None = None,
    output: Output = "explain",
    backwards: OutputOrNull = None,
    augment: str | None = None,
    motion_check: str | None = None,
    root: str | None = None,
    compare: str | None = None,
    seed: Seed = 0,
    address: Address = None,
) -> dict[str, Any]:
    """Draw what the network sees in a video, as an image and a video.

    They show the feature maps of a block, and where the network finds evidence for a class.

    Examples:
        stm explain clip.mp4 --checkpoint runs/first
        stm explain clip.mp4 --checkpoint runs/first --block layer1.0 layer3.0 --class PushUps --output explain
        stm explain clip.mp4 --checkpoint runs/first --backwards motion.png
        stm explain --augment clip.mp4 --config jester-t8 --data.color_jitter 0.4 --data.randaugment 2
        stm explain --motion_check demo/videos-256-96-0/val.parquet --checkpoint stm26 --compare tsn26

    Args:
        block: blocks to draw, from layer1.0 to layer4.2 at depth 50; null draws the first one with motion features
        class_: class whose evidence is drawn; null uses the predicted class
        output: folder for a PNG and an mp4 file of each video
        backwards: PNG file to write instead, which shows the video forwards and backwards side by side
        augment: video from which to draw 12 training clips instead, with the settings below or those of a checkpoint
        root: folder or URL where the videos of --motion_check are now (short for --data.root)
        motion_check: manifest of `stm demo`, to correlate the maps with the motion of its digits instead of drawing
        compare: second checkpoint for --backwards or --motion_check, such as TSN's
        seed: seed of the demo that --motion_check measures
    """
    if augment is not None:
        if videos or backwards or motion_check or compare or block:
            raise UserError(
                "--augment accepts one video, the settings, and only --checkpoint, --class, --output and --seed"
            )
        return _augment(augment, config, checkpoint, which, class_, output, seed)
    if checkpoint is None:
        raise UserError("--checkpoint is not set (or give --augment, with a video)")
    root = root or config.data.root
    if config != Config(data=DataConfig(root=config.data.root)):
        raise UserError(
            "settings and --config go only with --augment; a checkpoint has its own settings"
        )
    if backwards and motion_check:
        raise UserError("--backwards and --motion_check cannot be combined: leave one out")
    if compare and not (backwards or motion_check):
        raise UserError("--compare goes only with --backwards or --motion_check")
    if class_ and (backwards or motion_check):
        raise UserError(
            "--class goes with pictures of videos, not with --backwards or --motion_check"
        )
    if motion_check:
        if videos:
            raise UserError(
                "--motion_check uses the videos of its manifest: leave out other videos"
            )
        if not os.path.exists(motion_check):
            raise UserError(f"--motion_check {motion_check}: no such file")
        from stm.repository import tool

        check_motion = tool("motion_check", "--motion_check").check_motion
        checkpoints = [checkpoint, *([compare] if compare else [])]
        return check_motion(
            checkpoints,
            motion_check,
            which=which,
            root=root,
            blocks=block,
            seed=seed,
        )
    if root:
        raise UserError("--root goes only with --motion_check, which reads a manifest")
    if not videos:
        raise UserError("no video is named")
    if backwards:
        if len(videos) > 1 or len(block or []) > 1:
            raise UserError("--backwards shows one video and one block")
        from stm.explain.backwards import draw_backwards

        return draw_backwards(
            checkpoint,
            videos[0],
            backwards,
            block=block[0] if block else None,
            compare=compare,
            which=which,
        )
    from stm.explain.explain import explain as draw

    return draw(
        checkpoint,
        videos,
        blocks=block,
        output=output,
        class_name=class_,
        which=which,
    )


def _augment(
    video: str,
    config: Config,
    checkpoint: str | None,
    which: Which,
    class_name: str | None,
    output: str,
    seed: int,
) -> dict[str, Any]:
    from stm.explain.augment import draw_augmentations

    data, classes = config.data, list[str]()
    if checkpoint is not None:
        from stm.checkpoint import format as checkpoints
        from stm.checkpoint.locate import resolve

        if data != DataConfig():
            raise UserError(
                "--augment uses the settings of --checkpoint or those given here: leave one out"
            )
        meta = checkpoints.read_meta(resolve(checkpoint, which))
        data, classes = checkpoints.config_of(meta).data, meta.classes
    elif data.train is not None:
        from stm.data.manifest import Manifest

        classes = list(Manifest.read(data.train, data.root).classes)
    return draw_augmentations(
        video, data, output, classes=classes, class_name=class_name, seed=seed
    )


def show(result: dict[str, Any]) -> str:
    if "draws" in result:
        said = [f"draw {k}: {one_line(each['words'])}" for k, each in enumerate(result["draws"], 1)]
        return "\n".join([*said, result["picture"]])
    if "rows" in result:
        return _show_check(result)
    if "videos" not in result:
        return (
            "\n".join(
                f"{way:<10}"
                + "   ".join(
                    f"{n}: {top[0]['class']} {top[0]['score']:.1%}" for n, top in said.items()
                )
                for way, said in ((way, result[way]) for way in ("forwards", "backwards"))
            )
            + f"\n{result['picture']}"
        )
    lines = []
    for video in result["videos"]:
        lines.append(one_line(video["path"]))
        if "error" in video:
            lines.append(f"    unreadable: {one_line(video['error'])}")
            continue
        lines += [
            f"  {answer['score']:6.1%}  {one_line(answer['class'])}" for answer in video["top5"]
        ]
        lines += [f"  {video['picture']}", f"  {video['film']}"]
    return "\n".join(lines)


def _show_check(result: dict[str, Any]) -> str:
    measures = ("motion", "at_rest", "order", "direction")
    lines = [
        f"{'network':<17}{'block':<10}{'map':<8}" + "".join(f"{name:<24}" for name in measures)
    ]
    for row in result["rows"]:
        figures = "".join(
            f"{row[m]['mean']:6.3f} ({row[m]['low']:.3f}, {row[m]['high']:.3f})".ljust(24)
            for m in measures
        )
        lines.append(f"{row['network']:<17}{row['block']:<10}{row['map']:<8}{figures}".rstrip())
    lines.append(
        f"N = {counted(result['num_videos'], 'video')} in {counted(result['num_pairs'], 'pair')}: mean, and 95 % "
        "interval over pairs\n"
        "motion: correlation with the digit's place in this frame or the next; at_rest: size for a still clip, "
        "as a share\norder: share that changes when the clip is played backwards; direction: correlation of that "
        "change with the digit's\nnext place minus its last place"
    )
    return "\n".join(lines)
