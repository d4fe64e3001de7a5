"""Format `hmdb51`: a list for each class and split, CLASS_test_split1.txt, with a code after each file.

Code 1 means train, 2 means test (here the split `val`), and 0 means unused.
"""

from __future__ import annotations

from stm.data.annotations.common import Annotations, Entry, annotation_folder
from stm.data.annotations.formats.ucf101 import Videos
from stm.data.annotations.texts import bad_line, read_lines

LANDMARKS = ("*_test_split1.txt",)
NUM_SPLITS = 3
TEST_LIST = "HMDB-51"

_CODES = {"1": "train", "2": "val", "0": ""}
_EXPECTED = "`video.avi CODE` with code 1 (train), 2 (test) or 0 (unused)"


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Read one of the three published splits. A clip's group is its class and source title."""
    ending = f"_test_split{split}.txt"
    folder = annotation_folder(root, annotations, f"*{ending}", inside="testTrainMulti_7030_splits")
    lists = {path.name.removesuffix(ending): path for path in sorted(folder.glob(f"*{ending}"))}
    classes = tuple(sorted(lists))
    splits: dict[str, list[Entry]] = {"train": [], "val": []}
    videos = Videos(root, ("", "videos", "hmdb51_org", "HMDB51"), classes)
    for label, class_name in enumerate(classes):
        path = lists[class_name]
        for number, text in read_lines(path, _EXPECTED):
            parts = text.rsplit(maxsplit=1)  # in some copies of the dataset titles contain blanks
            if len(parts) != 2 or parts[1] not in _CODES:
                raise bad_line(path, number, text, "cannot be read", _EXPECTED)
            name, code = parts
            if not _CODES[code]:
                continue
            title = name.rpartition(f"_{class_name}_")[0]
            splits[_CODES[code]].append(
                Entry(
                    video_id=f"{class_name}/{name}",
                    path=videos.locate(f"{class_name}/{name}"),
                    label=label,
                    group=f"{class_name}/{title}" if title else "",
                    line=f"{path}:{number}",
                )
            )
    videos.tell()
    return Annotations(classes, splits, "hmdb51")
