"""The words by which people name splits, and the columns of a table."""

from __future__ import annotations

import re

_SPLIT_WORDS = {
    "train": {"train", "training", "trn", "trainset"},
    "val": {
        *("val", "vali", "valid", "validate", "validation", "valset"),
        *("dev", "development", "devel", "eval", "evaluation"),
    },
    "test": {"test", "testing", "tst", "testset"},
}
_SPLIT_OF = {word: name for name, words in _SPLIT_WORDS.items() for word in words}
# Words that say nothing of their own beside the word for a split: train_set, val_videos, 01_test.
_FILLERS = frozenset(
    {"set", "split", "data", "video", "videos", "clips", "frames", "images", "rawframes", "list"}
)


def split_of(word: str) -> str | None:
    """The split (train, val, test) that a word names in any case and spelling, else None."""
    return _SPLIT_OF.get(word.strip().casefold())


def splits_in(name: str) -> set[str]:
    """The splits that the words of a file's or folder's name name."""
    return {split for word in _words(name) if (split := split_of(word))}


def split_of_folder(name: str) -> str | None:
    """The split that a folder's whole name stands for, such as Train, val_set, 02-testing."""
    words = [word for word in _words(name) if word not in _FILLERS and not word.isdecimal()]
    return split_of(words[0]) if len(words) == 1 else None


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+|[0-9]+", spaced.lower())


_COLUMNS = {
    "path": """path file filename filepath fname video videopath videoname videofile videofilename
        clip clippath clipname clipfile name relpath relativepath fullpath uri url media mediapath
        folder folderpath foldername dir directory framedir framesdir framefolder framepath
        framespath videodir videofolder image imagepath imagedir source path2video videos files""",
    "id": "id videoid vid clipid uid uuid sample sampleid youtubeid ytid key",
    "label": """label labels class classes classname classlabel category categoryname action
        actionname actionlabel actionclass activity target y gesture labelname labeltext classtext
        text tag emotion sign gloss word template""",
    "number": """labelid labelidx labelindex labelnum labelnumber classid classidx classindex
        classnumber categoryid categoryidx targetid actionid actionidx""",
    "split": "split subset set partition usage phase splitname",
    "group": """group groupid groups sourceid sourcevideo sourcevideoid subject subjectid
        participant participantid person personid performer performerid signer signerid""",
    "ignored": """numframes nframes frames totalframes framecount numberofframes length duration
        fps width height iscc index unnamed0""",
    "part": """start end timestart timeend starttime endtime startframe endframe startsec endsec
        starttimestamp stoptimestamp stopframe begin stop""",
}
_ROLE_OF = {word: role for role, words in _COLUMNS.items() for word in words.split()}


def column_role(cell: str) -> str | None:
    """What a column headed so holds: path, id, label, number (of the class), split, group, ignored,
    part (of a video); None where the word is no usual one."""
    return _ROLE_OF.get(re.sub(r"[\W_]+", "", cell).casefold())
