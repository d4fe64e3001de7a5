"""Lists as people have them: each form is read for what it is, or refused with what to write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stm.data.annotations import Annotations, read_annotations
from stm.data.annotations.formats.ucf101 import Videos
from stm.data.annotations.media import find_media
from stm.data.annotations.texts import listening
from stm.errors import UserError


def make(root: Path, files: dict[str, str | bytes], media: str = "") -> Path:
    """Files with their texts, and empty ones for the names in `media`, below `root`/set."""
    for name, text in {**files, **dict.fromkeys(media.split("|") if media else (), "")}.items():
        path = root / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / "set"


def found(read: Annotations, root: Path) -> dict[str, list[tuple[str, str]]]:
    """Split -> (path below root, class name) of each video; every one must exist."""
    listed = [entry for entries in read.splits.values() for entry in entries]
    assert all(os.path.exists(entry.path) for entry in listed)
    return {
        name: [(os.path.relpath(e.path, root), read.classes[e.label]) for e in entries]
        for name, entries in read.splits.items()
    }


AB = {"train": [("v/a.mp4", "wave"), ("v/b.mp4", "jump")]}


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label\nv/a.mp4,wave\nv/b.mp4,jump\n",
        "video_path,class\nv/a.mp4,wave\nv/b.mp4,jump\n",
        "FILE NAME\tClass Label\nv/a.mp4\twave\nv/b.mp4\tjump\n",
        "videoName;Action;fps\nv/a.mp4;wave;25\nv/b.mp4;jump;30\n",
        "foo;bar\nv/a.mp4;wave\nv/b.mp4;jump\n",
        "label,path\nwave,v/a.mp4\njump,v/b.mp4\n",
        "wave,v/a.mp4\njump,v/b.mp4\n",
        ",path,label\n0,v/a.mp4,wave\n1,v/b.mp4,jump\n",
        "path,label_id,label_name\nv/a.mp4,7,wave\nv/b.mp4,3,jump\n",
        '"v/a.mp4","wave",\n"v/b.mp4","jump",\n',
        "v/a.mp4 wave\nv/b.mp4 jump\n",
        '"v/a.mp4" wave\n"v/b.mp4" jump\n',
        "# path label\n# by hand\n\nv/a.mp4 wave\nv/b.mp4 jump\n",
        "#path,label\nv/a.mp4,wave\nv/b.mp4,jump\n",
        "./v/a.mp4,wave\nset/v/b.mp4,jump\n",
        "v/%61.mp4,wave\nv/b.mp4,jump\n",
        "v\\a.mp4,wave\r\n.\\v\\b.mp4,jump\r\n",
        "v/a.avi,wave\nv/B.MP4,jump\n",
        "v/a,wave\nv/b,jump\n",
        b"\xef\xbb\xbfpath,label\rv/a.mp4,wave\rv/b.mp4,jump\r",
        "path,label\r\nv/a.mp4,wave\r\nv/b.mp4,jump\r\n".encode("utf-16"),
        "path,label\nv/a.mp4,wave\nv/b.mp4,jump\n".encode("utf-16-be"),
    ],
)
def test_a_list_of_two_videos_is_read_in_every_form(tmp_path: Path, text: str | bytes) -> None:
    root = make(tmp_path, {"train.csv": text}, "v/a.mp4|v/b.mp4")
    assert found(read_annotations("list", root), root) == AB
    assert found(read_annotations("csv", root, root / "train.csv"), root) == AB


def test_json_lines_and_lists_of_objects_are_read(tmp_path: Path) -> None:
    items = [{"file_name": "v/a.mp4", "label": "wave"}, {"file_name": "v/b.mp4", "label": "jump"}]
    lines = "\n".join(json.dumps(item) for item in items)
    root = make(tmp_path, {"metadata.jsonl": lines}, "v/a.mp4|v/b.mp4")
    assert found(read_annotations("list", root), root) == AB
    (root / "train.json").write_text(json.dumps(items))
    assert found(read_annotations("list", root, root / "train.json"), root) == AB


def test_metadata_of_each_split_names_videos_beside_it(tmp_path: Path) -> None:
    text = "file_name,label\na.mp4,wave\n"
    files = {"train/metadata.csv": text, "Validation/metadata.csv": text}
    root = make(tmp_path, files, "train/a.mp4|Validation/a.mp4|a.mp4")
    assert found(read_annotations("list", root), root) == {
        "train": [("train/a.mp4", "wave")],
        "val": [("Validation/a.mp4", "wave")],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class/drinking (31).mp4 0\nclass/lecture (31).mp4 1\n", ["0", "1"]),
        ("class/drinking (31).mp4 water sports\nclass/lecture (31).mp4 1\n", ["water sports"]),
        ("class/drinking (31).mp4,0\nclass/lecture (31).mp4,1\n", ["0", "1"]),
        ("class/drinking (31).mp4 120 1\nclass/lecture (31).mp4 90 0\n", ["1", "0"]),
    ],
)
def test_paths_and_names_may_hold_blanks(tmp_path: Path, text: str, expected: list[str]) -> None:
    text = text if len(expected) > 1 else text.replace(" 1\n", " rest\n")
    names = "class/drinking (31).mp4|class/lecture (31).mp4"
    root = make(tmp_path, {"k400_train_list.txt": text}, names)
    train = found(read_annotations("list", root), root)["train"]
    assert [name for name, _ in train] == names.split("|")
    assert [label for _, label in train][: len(expected)] == expected


@pytest.mark.parametrize("names", ["category.txt", "label_map.txt"])
@pytest.mark.parametrize("format", ["list", "something-v1", "jester"])
def test_videofolder_lists_are_read_with_their_class_names(
    tmp_path: Path, format: str, names: str
) -> None:
    files: dict[str, str | bytes] = {
        "train_videofolder.txt": "1 30 0\n2 20 1\n",
        "val_videofolder.txt": "3 20 1\n",
        "test_videofolder.txt": "".join(f"{k} 20 0\n" for k in range(4, 10)),
        names: "Closing something\nOpening something\n",
    }
    root = make(tmp_path, files, "20bn/1/1.jpg|20bn/2/1.jpg|20bn/3/1.jpg")
    read = read_annotations(format, root)
    assert found(read, root) == {
        "train": [("20bn/1", "Closing something"), ("20bn/2", "Opening something")],
        "val": [("20bn/3", "Opening something")],
    }
    assert any("left out, because all of its 6 videos have the label 0" in w for w in read.warnings)


def test_of_numbered_splits_one_is_read_and_of_two_lists_that_whose_videos_exist(
    tmp_path: Path,
) -> None:
    files: dict[str, str | bytes] = {
        "ucf101_train_split_1_videos.txt": "a.mp4 0\n",
        "ucf101_train_split_1_rawframes.txt": "a 12 0\n",
        "ucf101_train_split_2_videos.txt": "b.mp4 1\n",
        "classInd.txt": "1 run\n2 jump\n",
    }
    root = make(tmp_path, files, "a.mp4|b.mp4")
    assert found(read_annotations("list", root), root) == {"train": [("a.mp4", "run")]}
    read = read_annotations("list", root, split=2)
    assert [entry.path for entry in read.splits["train"]] == [str(root / "b.mp4")]


@pytest.mark.parametrize(
    ("texts", "classes", "labels"),
    [
        (["1", "2", "3"], ("1", "2", "3"), [0, 1, 2]),
        (["0", "5", "17"], ("0", "5", "17"), [0, 1, 2]),
        (["3.0", "1", "0.0"], ("0", "1", "3"), [2, 1, 0]),
        (["-0", "01", "1"], ("0", "1"), [0, 1, 1]),
    ],
)
def test_numbers_are_classes_called_so_where_no_names_are_given(
    tmp_path: Path, texts: list[str], classes: tuple[str, ...], labels: list[int]
) -> None:
    lines = "".join(f"{k}.mp4 {text}\n" for k, text in enumerate(texts))
    read = read_annotations("list", make(tmp_path, {"train.txt": lines}))
    assert read.classes == classes
    assert [entry.label for entry in read.splits["train"]] == labels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "walk\nrun\njump\n"),
        ("label_map_k400.txt", "0 walk\n1 run\n2 jump\n"),
        ("labels.csv", "id,name\n0,walk\n1,run\n2,jump\n"),
        ("label_list.txt", "walk 0\njump 2\nrun 1\n"),
        ("class_to_idx.json", '{"jump": 2, "run": 1, "walk": 0}'),
        ("k400_classnames.json", '{"\\"walk\\"": 0, "run": 1, "jump": 2}'),
        ("label_map.json", '{"id2label": {"0": "walk", "1": "run", "2": "jump"}}'),
        ("classes.json", '["walk", "run", "jump"]'),
    ],
)
def test_a_class_list_beside_the_list_names_the_numbers(
    tmp_path: Path, name: str, content: str
) -> None:
    root = make(tmp_path, {"train.txt": "a.mp4 2\nb.mp4 0\n", name: content})
    read = read_annotations("list", root)
    assert read.classes == ("walk", "run", "jump")
    assert [entry.label for entry in read.splits["train"]] == [2, 0]
    assert any(name in text for text in read.notes)
    (root / "train.txt").write_text("a.mp4 3\nb.mp4 1\n")  # counted from 1
    read = read_annotations("list", root)
    assert [read.classes[entry.label] for entry in read.splits["train"]] == ["jump", "walk"]
    assert any("count from 1" in text for text in read.notes)


REFUSED = [
    ("foo,bar,baz\na.mp4,x,1\nb.mp4,y,2\n", "Call it `label`"),
    ("foo,action\n12,x\n13,y\n", "is this a header"),
    ("a.mp4,x,1\nb.mp4,y,2\n", "Write a first line that names the columns"),
    ("f 0 12 3\ng 0 12 1\n", "3 numbers after the path"),
    ("video,class,category\na.mp4,run,x\nb.mp4,jump,y\n", "class and category"),
    ("a.mp4,1.5\nb.mp4,2\n", "label 1.5"),
    ("C:\\data\\a.mp4 0\nC:\\data\\b.mp4 1\n", "absolute Windows path"),
    ("f1 drinking water\nf2 run\n", "1 column instead of 2"),
    ("a.mp4,x\n./a.mp4,x\n", "listed at"),
    ("path,split\na.mp4,train\n", "have no labels (its header is `path,split`)"),
    ("path,label\n", "it lists no videos"),
    (b"PK\x03\x04", "save the sheet as CSV"),
    (b"PAR1....", "Parquet"),
    (b"a.mp4\0 1", "is not text"),
    ('path,label\n"a\nb.mp4",x\n', "a quote is not closed"),
    ("id,number,action\n1,3,run\n1,4,run\n", "listed at"),
    ("path,label_id,label\na.mp4,0,run\nb.mp4,1,run\n", "class 'run' has number 1"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_not_clear_is_refused_with_what_to_write(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    root = make(tmp_path, {"train.csv": text})
    with pytest.raises(UserError) as error:
        read_annotations("list", root)
    assert message in str(error.value)
    assert "train.csv" in str(error.value)


def test_text_that_is_not_utf8_is_read_as_windows_1252_with_a_warning(tmp_path: Path) -> None:
    text = "path\tlabel\né.mp4\tcafé\n".encode("cp1252")
    root = make(tmp_path, {"train.csv": text}, "é.mp4")
    read = read_annotations("list", root)
    assert found(read, root) == {"train": [("é.mp4", "café")]}
    assert any("train.csv:2" in w and "Windows-1252" in w for w in read.warnings)


def test_an_unlabelled_list_is_left_out_with_a_word(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"train.csv": "a.mp4,x\n", "test.csv": "b.mp4\nc.mp4\n"}
    read = read_annotations("list", make(tmp_path, files, "a.mp4"))
    assert set(read.splits) == {"train"}
    assert any("test.csv: left out" in w and "no label" in w for w in read.warnings)


def test_parts_of_videos_are_warned_of(tmp_path: Path) -> None:
    text = "video,start,end,label\na.mp4,1,2,x\nb.mp4,1,2,y\n"
    read = read_annotations("list", make(tmp_path, {"train.csv": text}))
    assert any("columns start, end are not used" in w for w in read.warnings)


def test_classes_of_nearly_one_name_are_warned_of(tmp_path: Path) -> None:
    read = read_annotations("list", make(tmp_path, {"train.csv": "a.mp4,Run\nb.mp4,run\n"}))
    assert any("'Run' and 'run'" in w for w in read.warnings)


def test_a_class_for_each_video_is_warned_of(tmp_path: Path) -> None:
    text = "".join(f"d41d8cd98f{k}  {k}.mp4\n" for k in range(4))
    read = read_annotations("list", make(tmp_path, {"train.txt": text}))
    assert any("a class of its own" in w for w in read.warnings)


def test_lists_of_a_url_are_joined_and_name_their_own_file(tmp_path: Path) -> None:
    root = make(tmp_path, {"train.txt": "v\\a.mp4 x\ns3://other/b.mp4 y\n"})
    read = read_annotations("list", "s3://bucket/set", root / "train.txt")
    paths = [entry.path for entry in read.splits["train"]]
    assert paths == ["s3://bucket/set/v/a.mp4", "s3://other/b.mp4"]


# --classes


def test_classes_are_matched_by_name_and_take_the_given_order(tmp_path: Path) -> None:
    root = make(tmp_path, {"train.csv": "a.mp4,jump\nb.mp4,run\n", "given": "run\nwalk\njump\n"})
    read = read_annotations("list", root, root / "train.csv", classes=root / "given")
    assert read.classes == ("run", "walk", "jump")
    assert [entry.label for entry in read.splits["train"]] == [2, 0]
    make(tmp_path, {"given": "Run\nwalk\njump\n"})
    with pytest.raises(UserError, match="lacks 1 class") as error:
        read_annotations("list", root, root / "train.csv", classes=root / "given")
    assert "'run' (there is 'Run')" in str(error.value)


def test_bare_numbers_are_taken_for_places_in_the_given_classes_and_told(tmp_path: Path) -> None:
    root = make(tmp_path, {"train.csv": "a.mp4,2\nb.mp4,0\n", "given": "run\nwalk\njump\n"})
    read = read_annotations("list", root, root / "train.csv", classes=root / "given")
    assert [read.classes[entry.label] for entry in read.splits["train"]] == ["jump", "run"]
    assert any("labels are numbers" in text and "0 is 'run'" in text for text in read.notes)
    (root / "train.csv").write_text("a.mp4,4\nb.mp4,0\n")
    with pytest.raises(UserError, match="label 4, but"):
        read_annotations("list", root, root / "train.csv", classes=root / "given")


# Published data sets as people have them


@pytest.mark.parametrize("format", ["list", "ucf101"])
def test_ucf101_is_found_as_copies_as_frames_and_in_other_letter_case(
    tmp_path: Path, format: str
) -> None:
    files: dict[str, str | bytes] = {
        "classInd.txt": "1 HandstandPushups\n2 Run\n",
        "trainlist01.txt": "HandStandPushups/v_HandStandPushups_g01_c01.avi 1\n"
        "Run/v_Run_g01_c01.avi 2\nRun/v_Run_g03_c01.avi 2\n",
        "testlist01.txt": "HandstandPushups/v_HandStandPushups_g02_c01.avi\n",
    }
    media = (
        "HandstandPushups/v_HandstandPushups_g01_c01.mp4|v_Run_g01_c01/1.jpg"
        "|Run/v_Run_g03_c01.webm|HandstandPushups/v_HandStandPushups_g02_c01/1.jpg"
    )
    root = make(tmp_path, files, media)
    read = read_annotations(format, root)
    assert found(read, root) == {
        "train": [
            ("HandstandPushups/v_HandstandPushups_g01_c01.mp4", "HandstandPushups"),
            ("v_Run_g01_c01", "Run"),
            ("Run/v_Run_g03_c01.webm", "Run"),
        ],
        "val": [("HandstandPushups/v_HandStandPushups_g02_c01", "HandstandPushups")],
    }
    (told,) = (w for w in read.warnings if "letter case" in w)
    assert told.startswith("the letter case on disk differs for 1 listed video,")


def test_hmdb51_is_found_as_copies_and_as_frames(tmp_path: Path) -> None:
    lists: dict[str, str | bytes] = {"wave_test_split1.txt": "a_wave_1.avi 1\nb_wave_1.avi 2\n"}
    root = make(tmp_path, lists, "wave/a_wave_1.mp4|b_wave_1/1.jpg")
    assert found(read_annotations("hmdb51", root), root) == {
        "train": [("wave/a_wave_1.mp4", "wave")],
        "val": [("b_wave_1", "wave")],
    }


@pytest.mark.parametrize("format", ["list", "kinetics400"])
@pytest.mark.parametrize("times", ["", "_59_69", "_000059_000069"])
def test_kinetics_is_found_by_id_and_times_and_its_unlabelled_test_list_left_out(
    tmp_path: Path, format: str, times: str
) -> None:
    files: dict[str, str | bytes] = {
        "train.csv": "label,youtube_id,time_start,time_end,split\nabseiling,-3B32lodo2M,59,69,train\n",
        "test.csv": "youtube_id,time_start,time_end,split\n_kbyuCg9lhI,10,20,test\n",
    }
    path = f"some/-3B32lodo2M{times}.mp4"
    root = make(tmp_path, files, path)
    read = read_annotations(format, root)
    assert found(read, root) == {"train": [(path, "abseiling")]}
    assert any("test.csv: left out" in w for w in read.warnings)
    with pytest.raises(UserError, match="no label"):
        read_annotations(format, root, root / "test.csv")


# Folders


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Train", "Test"), ("train", "test")),
        (("training", "validation"), ("train", "val")),
        (("TRAIN_SET", "dev"), ("train", "val")),
        (("01_train", "eval_videos"), ("train", "val")),
    ],
)
def test_split_folders_are_known_in_any_spelling(
    tmp_path: Path, folders: tuple[str, str], splits: tuple[str, str]
) -> None:
    media = f"{folders[0]}/run/a.mp4|{folders[1]}/run/b.h264|notes/x.txt"
    root = make(tmp_path, {}, media)
    read = read_annotations("folder", root)
    assert read.classes == ("run",)
    assert tuple(read.splits) == splits


def test_a_question_is_asked_where_all_class_folders_are_words_for_splits(tmp_path: Path) -> None:
    root = make(tmp_path, {}, "Train/a.mp4|Test/b.mp4")
    with pytest.raises(UserError, match="--split_folders no"):
        read_annotations("folder", root)
    assert read_annotations("folder", root, split_folders="no").classes == ("Test", "Train")
    root = make(tmp_path / "2", {}, "Train/x/a.mp4|Test/y/b.mp4")
    with pytest.raises(UserError, match="--split_folders yes"):
        read_annotations("folder", root)
    assert read_annotations("folder", root, split_folders="yes").classes == ("x", "y")


def test_folders_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path, {}, "UCF-101/run/a.mp4|UCF-101/jump/b.mp4")
    with pytest.raises(UserError, match="give that as --root"):
        read_annotations("folder", root)
    root = make(tmp_path / "2", {}, "rgb/run/1.jpg|flow/run/1.jpg")
    with pytest.raises(UserError, match="are kinds of images"):
        read_annotations("folder", root)


def test_flow_beside_rgb_and_thumbnails_beside_videos_are_left_out(tmp_path: Path) -> None:
    media = "run/v1/rgb/1.jpg|run/v1/flow_x/1.jpg|run/g/a.mjpeg|run/g/a.jpg|jump/c.gif"
    root = make(tmp_path, {}, media)
    assert found(read_annotations("folder", root), root) == {
        "train": [("jump/c.gif", "jump"), ("run/g/a.mjpeg", "run"), ("run/v1/rgb", "run")]
    }


def test_names_that_are_not_utf8_are_listed_and_shown_as_escapes(tmp_path: Path) -> None:
    root = make(tmp_path, {}, "run/a.mp4|run/b\n1.mp4")
    (root / "run" / os.fsdecode(b"caf\xe9.mp4")).touch()
    read = read_annotations("folder", root)
    entries = read.splits["train"]
    assert [e.video_id for e in entries] == ["run/a.mp4", "run/b\\n1.mp4", "run/caf\\xe9.mp4"]
    assert all(os.path.exists(entry.path) for entry in entries)
    (root / os.fsdecode(b"\xe9t\xe9")).mkdir()
    (root / os.fsdecode(b"\xe9t\xe9") / "a.mp4").touch()
    with pytest.raises(UserError, match="not UTF-8"):
        read_annotations("folder", root)


def test_a_large_list_costs_listings_and_not_look_ups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"v/{k:04d}.mp4" for k in range(500)]
    root = make(tmp_path, {"train.csv": "".join(f"{n},run\n" for n in names)}, "|".join(names))
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    read_annotations("list", root)
    assert len([path for path in listed if path == str(root / "v")]) <= 2


@pytest.mark.parametrize("num_folders", [64, 65])
def test_videos_in_a_folder_that_was_not_searched_are_told(tmp_path, num_folders):
    media = "|".join(f"f{number:03}/{number}.mp4" for number in range(num_folders))
    lines = "".join(f"{number}.mp4,{'ab'[number % 2]}\n" for number in range(num_folders))
    root = make(tmp_path, {"train.csv": lines}, media)
    told = [each for each in read_annotations("list", root).warnings if "not found" in each]
    if num_folders == 64:
        assert not told
        return
    assert told == [
        "not found: 1 listed video, such as 64.mp4, and only the first 64 of the 65 folders in "
        f"{root} were searched. Give the folder of the videos as --root, or list the videos with their folders"
    ]


def test_media_in_a_folder_that_was_not_searched_are_told(tmp_path):
    for number in range(66):
        (tmp_path / f"f{number:03}").mkdir()
    (tmp_path / "f000" / "1.webm").touch()
    (tmp_path / "f065" / "2.webm").touch()
    with listening() as said:
        places = find_media(str(tmp_path), ["1", "2"], ".webm")
    assert places["1"] == str(tmp_path / "f000" / "1.webm")
    (warning,) = said.warnings
    assert "such as 2, and only the first 64 of the 66 folders" in warning
    (tmp_path / "2.webm").touch()
    (tmp_path / "1.webm").touch()
    with listening() as said:
        find_media(str(tmp_path), ["1", "2"], ".webm")
    assert not said.warnings


def test_folders_of_classes_leave_room_for_the_search_of_others(tmp_path):
    classes = [f"Class{number:03}" for number in range(101)]
    for name in [*classes, "videos"]:
        (tmp_path / name).mkdir()
    (tmp_path / "videos" / "v_Class100_g01_c01.avi").touch()
    videos = Videos(str(tmp_path), ["."], classes)
    with listening() as said:
        place = videos.locate("Class100/v_Class100_g01_c01.avi")
        assert not os.path.exists(videos.locate("Class001/v_Class001_g01_c01.avi"))
        videos.tell()
    assert place == str(tmp_path / "videos" / "v_Class100_g01_c01.avi")
    assert not said.warnings, "all folders were searched"
