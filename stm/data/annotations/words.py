"""The usual names of splits and of the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPLIT_WORDS = {
    "train": {"train", "training", "trn", "trainset"},
    "val": {
        *("val", "vali", "valid", "validate", "validation", "valset"),
        *("dev", "development", "devel", "eval", "evaluation"),
    },
    "test": {"test", "testing", "tst", "testset"},
}
_SPLIT_OF = {word: name for name, words in _SPLIT_WORDS.items() for word in words}
# Words that mean nothing beside the word for a split: train_set, val_videos, 01_test.
_FILLERS = frozenset(
    {"set", "split", "data", "video", "videos", "clips", "frames", "images", "rawframes", "list"}
)


def split_of(word: str) -> str | None:
    """Return the split (train, val, test) that a word names in any case and spelling, else None."""
    return _SPLIT_OF.get(word.strip().casefold())


def splits_in(name: str) -> set[str]:
    """Return the splits that the name of a file or folder contains."""
    return {split for word in _words(name) if (split := _split_of_word(word))}


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder's whole name means, such as Train, val_set or 02-testing, else None."""
    split, rest = _split_and_rest(name)
    return None if rest else split


def splits_of_folders(names: Iterable[str]) -> dict[str, str]:
    """Return folder -> split for folders whose whole name is a split, or else for folders that differ only
    in the word for the split, such as ucf_train and ucf_test."""
    named = {name: split for name in names if (split := split_of_folder(name))}
    if named:
        return named
    alike: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        split, rest = _split_and_rest(name)
        if split:
            alike.setdefault(rest, {})[name] = split
    several = [found for found in alike.values() if len(set(found.values())) > 1]
    return several[0] if len(several) == 1 else {}


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """The only split in a name, if any, and its other words without fillers and numbers."""
    words = [word for word in _words(name) if word not in _FILLERS and not word.isdecimal()]
    splits = [split for word in words if (split := _split_of_word(word))]
    rest = tuple(word for word in words if not _split_of_word(word))
    return (splits[0] if len(splits) == 1 else None), rest


def _split_of_word(word: str) -> str | None:
    """Like `split_of`, but also for a word that ends in a filler: traindata, trainlist."""
    fillers = [filler for filler in _FILLERS if word.endswith(filler)]
    bare = [word, *(word.removesuffix(filler) for filler in fillers)]
    return next((split for each in bare if (split := split_of(each))), None)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+|[0-9]+", spaced.lower())


_COLUMNS = {
    "path": """path file filename filepath fname video videopath videoname videofile videofilename
        clip clippath clipname clipfile name relpath relativepath fullpath uri url media mediapath
        folder folderpath foldername dir directory framedir framesdir framefolder framepath
        framespath videodir videofolder image imagepath imagedir source path2video videos files vidname vidpath""",
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
    """Return the role of a column with this header: path, id, label, number (of the class), split, group,
    ignored or part (of a video); None for an unknown word."""
    return _ROLE_OF.get(re.sub(r"[\W_]+", "", cell).casefold())
