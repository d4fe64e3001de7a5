"""Ten lines of each published list, in its form: enough for a reader, and for a clone with nothing beside it.

The first lines of the real files are read as well where ``STM_TEST_DATA`` has them.
"""

from __future__ import annotations

import json
from pathlib import Path

UCF101 = [
    "ApplyEyeMakeup",
    "ApplyLipstick",
    "Archery",
    "BabyCrawling",
    "BalanceBeam",
    "BandMarching",
    "BaseballPitch",
    "Basketball",
    "BasketballDunk",
    "BenchPress",
]

HMDB51 = {
    "brush_hair": ["April_09", "Brushing_Hair_1", "Prelinger_#5"],
    "kick_ball": ["Amazing_Soccer_#2", "Kick_[1]", "Street_Soccer_!_2"],
    "wave": ["50_FIRST_DATES", "A_Beautiful_Mind_2", "winken_!!!_Gruss"],
}

SOMETHING = [
    "Approaching something with your camera",
    "Closing something",
    "Moving something and something closer to each other",
    "Opening something",
    "Plugging something into something but pulling it right out as you remove your hand",
    "Pulling something from left to right",
    "Pulling something from right to left",
    "Putting something upright on the table",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
]

JESTER = [
    "Swiping Left",
    "Swiping Right",
    "Sliding Two Fingers Left",
    "Sliding Two Fingers Right",
    "Turning Hand Clockwise",
    "Turning Hand Counterclockwise",
    "Thumb Up",
    "Stop Sign",
    "Drumming Fingers",
    "No gesture",
]

KINETICS = [
    "abseiling",
    "air_drumming",
    "answering_questions",
    "applauding",
    "applying_cream",
    "archery",
    "arm_wrestling",
    "arranging_flowers",
    "assembling_computer",
    "auctioning",
]


def write_published(folder: Path) -> Path:
    """Make all lists in ``folder``, one folder a format, as the published archives have them; returns ``folder``."""
    files = {**_ucf101(), **_hmdb51(), **_something_v1(), **_something_v2(), **_jester(), **_kinetics()}  # fmt: skip
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return folder


def _ucf101() -> dict[str, list[str]]:
    files = {"ucf101/classInd.txt": [f"{k + 1} {name}" for k, name in enumerate(UCF101)]}
    name = UCF101[0]
    for split, train, test in ((1, 8, 1), (2, 1, 8), (3, 1, 15)):
        clips = {
            kind: [
                f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
                for group in (first, first + 1)
                for clip in range(1, 6)
            ]
            for kind, first in (("train", train), ("test", test))
        }
        files[f"ucf101/trainlist{split:02d}.txt"] = [f"{clip} 1" for clip in clips["train"]]
        files[f"ucf101/testlist{split:02d}.txt"] = clips["test"]
    return files


def _hmdb51() -> dict[str, list[str]]:
    """Each line ends in a blank; 1 is train, 2 test, 0 neither."""
    codes = [1, 1, 1, 1, 1, 1, 0, 2, 2, 2]
    return {
        f"hmdb51/{action}_test_split1.txt": [
            f"{films[0 if code == 1 else 1 if code == 0 else 2]}_{action}_u_nm_np1_ba_goo_{k}.avi {code} "
            for k, code in enumerate(codes)
        ]
        for action, films in HMDB51.items()
    }


def _something_v1() -> dict[str, list[str]]:
    return {
        "something-v1/label_map.txt": SOMETHING,
        "something-v1/train_videofolder.txt": [f"{100218 - k} {42 + k} {9 - k}" for k in range(10)],
        "something-v1/val_videofolder.txt": [f"{85 + 7 * k} {30 + k} {k}" for k in range(10)],
    }


def _something_v2() -> dict[str, list[str]]:
    items = [
        {
            "placeholders": ["polish", "a box"],
            "new_placeholdes": ["", "box"],  # as they spell it
            "id": str(203403 + k),
            "template": template.replace("something", "[something]"),
            "label": template.lower(),
        }
        for k, template in enumerate(SOMETHING[2:] + SOMETHING[:2])
    ]  # fmt: skip
    labels = {name: str(k) for k, name in enumerate(SOMETHING)}
    name = "something-v2/something-something-v2"
    return {
        f"{name}-labels.json": json.dumps(labels, indent=1).splitlines(),
        f"{name}-train.json": json.dumps(items, indent=0).splitlines(),
    }


def _jester() -> dict[str, list[str]]:
    train = [f"{34870 + k};{JESTER[(8 + k) % 10]}" for k in range(10)]
    return {"jester/jester-v1-labels.csv": JESTER, "jester/jester-v1-train.csv": train}


def _kinetics() -> dict[str, list[str]]:
    rows = ["abseiling,-3B32lodo2M,59,69,val,0", '"air drumming",_dbcJuKJQNs,40,50,val,0']
    for k, name in enumerate(KINETICS[2:]):
        spelt = name.replace("_", " ")
        spelt = f'"{spelt}"' if " " in spelt else spelt
        rows.append(f"{spelt},-{k:010d},{10 * k},{10 * k + 10},train,0")
    clips = [
        f"{name}/_{name[:4]}{k:06d}_{10 * k:06d}_{10 * k + 10:06d}.mp4 {label}"
        for label, name in enumerate(KINETICS[:2])
        for k in range(5)
    ]
    return {
        "kinetics400/label_list.txt": [f"{k} {name}" for k, name in enumerate(KINETICS)],
        "kinetics400/train.csv": ["label,youtube_id,time_start,time_end,split,is_cc", *rows],
        "kinetics400/train_videos.list": clips,
    }
