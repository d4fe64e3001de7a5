"""The hardest videos: wrong answers with the highest scores, then right answers with the lowest scores.

Frames are decoded in a separate process with a deadline, so if a file hangs or kills a decoder, only its picture
is missing.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import numpy as np

from stm.data.isolation import CallFailed, IsolatedProcess
from stm.data.manifest import Manifest
from stm.data.stream.sampling import centre_indices
from stm.markup import data_uri

NUM_VIDEOS = 12
NUM_FRAMES = 5
FRAME_HEIGHT = 144
"""Height of a frame in the strip, px; 5 frames side by side are a JPEG of about 20 kB."""

_DEADLINE_S = 20.0
_TOTAL_S = 60.0


@dataclass(frozen=True)
class HardVideo:
    """One video with its class and the network's answers."""

    video_id: str
    path: str
    true: int
    answers: list[tuple[int, float]]
    """The three best classes with their scores, best first."""
    true_score: float
    strip: bytes | None
    """JPEG of frames side by side, in temporal order; None if they could not be read."""
    problem: str
    """Why there is no strip."""

    @property
    def is_wrong(self) -> bool:
        return self.answers[0][0] != self.true

    @property
    def answers_and_truth(self) -> list[tuple[int, float]]:
        """The answers, followed by the true class if it is not among them."""
        is_among = any(label == self.true for label, _ in self.answers)
        return self.answers if is_among else [*self.answers, (self.true, self.true_score)]

    @property
    def picture(self) -> str | None:
        """The strip as a data URI."""
        return None if self.strip is None else data_uri(self.strip, "image/jpeg")


def choose(
    scores_NK: np.ndarray, labels_N: np.ndarray, readable_N: np.ndarray, limit: int = NUM_VIDEOS
) -> list[int]:
    """Return rows of the manifest: wrong answers by falling score, then right ones by rising score."""
    best_N = scores_NK.max(1)
    wrong_N = scores_NK.argmax(1) != labels_N
    rows = np.flatnonzero(readable_N)
    order = sorted(rows, key=lambda i: (not wrong_N[i], -best_N[i] if wrong_N[i] else best_N[i], i))
    return [int(row) for row in order[:limit]]


def hardest(
    manifest: Manifest, scores_NK: np.ndarray, readable_N: np.ndarray, limit: int = NUM_VIDEOS
) -> list[HardVideo]:
    """Return the ``limit`` hardest videos with their frames, within about a minute."""
    labels_N = manifest.table["label"].to_numpy()
    videos = []
    until = time.monotonic() + _TOTAL_S
    with IsolatedProcess(preload=("stm.data.decode.reader", "PIL.Image")) as process:
        for row in choose(scores_NK, labels_N, readable_N, limit):
            path = manifest.table["path"][row].as_py()
            num_frames = manifest.table["num_frames"][row].as_py()
            strip, problem = None, ""
            left_s = min(_DEADLINE_S, until - time.monotonic())
            try:
                if left_s <= 0:
                    raise CallFailed(
                        "deadline", f"all pictures together may take only {_TOTAL_S:g} s"
                    )
                strip = process.call(read_strip, path, num_frames, deadline_s=left_s)
            except Exception as error:  # a missing picture must not prevent the report
                problem = str(error)[:300]
            top = np.argsort(-scores_NK[row], kind="stable")[:3]
            videos.append(
                HardVideo(
                    video_id=manifest.table["video_id"][row].as_py(),
                    path=path,
                    true=int(labels_N[row]),
                    answers=[(int(k), float(scores_NK[row, k])) for k in top],
                    true_score=float(scores_NK[row, labels_N[row]]),
                    strip=strip,
                    problem=problem,
                )
            )
    return videos


def read_strip(path: str, num_frames: int) -> bytes:
    """Return a JPEG of the middle frames of equal parts of a video, side by side.

    Raises ``decode.VideoError`` if a frame cannot be read.
    """
    from PIL import Image

    from stm.data.decode import read_frames

    frames = read_frames(path, centre_indices(num_frames, NUM_FRAMES).tolist())
    height, width = frames.shape[1:3]
    # Very wide frames are squeezed, because they would leave no space for the others.
    width_shown = max(1, min(round(width * FRAME_HEIGHT / height), 2 * FRAME_HEIGHT))
    strip = Image.new("RGB", (NUM_FRAMES * width_shown, FRAME_HEIGHT))
    for place, frame in enumerate(frames):
        picture = Image.fromarray(frame).resize(
            (width_shown, FRAME_HEIGHT), Image.Resampling.LANCZOS
        )
        strip.paste(picture, (place * width_shown, 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
