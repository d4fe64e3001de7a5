"""A data set of PNG frame folders through every verb, its frames and its scores equal to Pillow's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import cli
from stm.data.decode import read_frames
from stm.data.decode.resize import pixel_box, resize_clip
from stm.data.manifest import Manifest
from stm.data.stream.sampling import centre_indices
from stm.data.stream.transforms import centre_box
from tests.videos import numbered_frame

pytestmark = pytest.mark.ray

SEGMENTS, SIZE, NUM_FRAMES = 4, 32, 9
TINY = [
    *("--model.depth", "26", "--model.width", "16", "--data.num_segments", str(SEGMENTS)),
    *("--data.size", str(SIZE), "--optim.batch_size", "2", "--optim.epochs", "1"),
    *("--optim.milestones", "[]", "--train.cpus_per_worker", "0.5", "--tracking.uri", "none"),
]
MODES = ("RGB", "P", "L", "RGBA", "I;16")


def write_frames(folder: Path, seed: int) -> None:
    """PNG frames of all modes, with the flow images of denseflow and a marker file beside them."""
    folder.mkdir(parents=True)
    for k in range(NUM_FRAMES):
        image = Image.fromarray(numbered_frame(k, 80, 60, seed))
        mode = MODES[k % len(MODES)]
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16))
        exif = Image.Exif()
        exif[0x0112] = 1
        image = image if mode == "I;16" else image.convert(mode)
        image.save(folder / f"img_{k + 1:05d}.png", exif=exif)
        for axis in "xy":
            flow = Image.fromarray(np.full((60, 80), 128, np.uint8))
            flow.save(folder / f"flow_{axis}_{k + 1:05d}.jpg")
    (folder / "DONE").touch()


def pillows_frames(folder: Path) -> np.ndarray:
    """uint8 [T, H, W, 3]."""
    images = sorted(folder.glob("img_*.png"))
    return np.stack([np.asarray(Image.open(image).convert("RGB")) for image in images])


def stm(capfd: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The result of a verb run in this process, which must succeed."""
    status = cli.main([*map(str, words), "--json"])
    out, err = capfd.readouterr()
    assert status == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


@pytest.mark.slow
def test_png_frame_folders_go_through_every_verb_as_pillow_reads_them(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from stm.scoring.inference import Classifier

    root = tmp_path / "frames"
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("jump", "run")):
            for k in range(count):
                write_frames(root / split / name / f"clip{k}", 10 * k + label)
    indexed = stm(
        capfd, "index", "--format", "folder", "--root", root, "--output", tmp_path / "index"
    )
    assert indexed["num_videos"] == {"train": 6, "val": 4}
    assert indexed["bad"] == {"train": 0, "val": 0}
    paths = indexed["manifests"]
    for path in paths.values():
        for row in Manifest.read(path).table.to_pylist():
            assert (row["num_frames"], row["width"], row["height"]) == (NUM_FRAMES, 80, 60)
            expected = pillows_frames(Path(row["path"]))
            assert np.array_equal(read_frames(row["path"], range(NUM_FRAMES)), expected)
            assert np.array_equal(read_frames(row["path"], [7, 2, 7]), expected[[7, 2, 7]])

    # The packed images are the same, and give the same.
    packed = tmp_path / "packed"
    prepare = ["prepare", "--manifest", paths["val"], "--output", packed, "--measure", 0]
    made = stm(capfd, *prepare, "--layout", "shards", "--keep-jpeg")
    assert made["prepared"] == 4
    rows = Manifest.read(made["manifest"]).table.to_pylist()
    for row, source in zip(rows, Manifest.read(paths["val"]).table.to_pylist(), strict=True):
        expected = pillows_frames(Path(source["path"]))
        assert np.array_equal(read_frames(row["path"], range(NUM_FRAMES)), expected)

    run = ["train", *TINY, "--data.train", paths["train"], "--data.val", paths["val"]]
    trained = stm(capfd, *run, "--train.storage", tmp_path / "runs", "--train.name", "png")
    assert trained["val_num_videos"] == 4
    checkpoint = trained["last_checkpoint"]

    classifier = Classifier(checkpoint, 1)
    folders = sorted((root / "val").glob("*/clip*"))
    indices = centre_indices(NUM_FRAMES, SEGMENTS)
    left, top, right, bottom = pixel_box(centre_box(80, 60), 80, 60)
    clips = [
        resize_clip(pillows_frames(folder)[indices, top:bottom, left:right], SIZE)
        for folder in folders
    ]
    expected = np.concatenate([classifier.scores(clip[None, None]) for clip in clips])

    predicted = stm(capfd, "predict", "--checkpoint", checkpoint, *folders)
    classes = ["jump", "run"]
    for video, scores in zip(predicted["videos"], expected, strict=True):
        found = {each["class"]: each["score"] for each in video["top5"]}
        assert [found[name] for name in classes] == pytest.approx(scores.tolist(), abs=1e-5)

    for manifest in (paths["val"], made["manifest"]):
        words = ["evaluate", "--checkpoint", checkpoint, "--manifest", manifest]
        measured = stm(capfd, *words, "--output", tmp_path / "report", "--report", "false")
        assert (measured["num_videos"], measured["unreadable"]) == (4, 0)
        table = pq.read_table(tmp_path / "report" / "scores.parquet")
        assert np.allclose(np.stack(table["scores"].to_pylist()), expected, atol=1e-5)

    drawn = stm(
        capfd, "explain", "--checkpoint", checkpoint, folders[0], "--output", tmp_path / "seen"
    )
    (video,) = drawn["videos"]
    assert Path(video["picture"]).stat().st_size > 1000
    assert Path(video["film"]).stat().st_size > 1000
