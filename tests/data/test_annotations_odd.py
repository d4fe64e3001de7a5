"""Folders and lists with what people, systems and downloads leave in them: no class that is none, nothing lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stm.data.annotations import Annotations, read_annotations
from stm.data.finding import find_videos
from stm.errors import UserError
from tests.data.test_annotations_lists import AB, found, make

TWO = "jump/a.mp4|wave/b.mp4"
TWO_FOUND = {"train": [("jump/a.mp4", "jump"), ("wave/b.mp4", "wave")]}


def warned(read: Annotations, *words: str) -> bool:
    return any(all(word in text for word in words) for text in read.warnings)


def forbid_listing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for a user without the right; root, who may run tests, may list everything."""
    scandir = os.scandir

    def refuse(path: str | Path = ".") -> object:
        if os.fspath(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


# Folders


@pytest.mark.parametrize(
    "left",
    [
        "@eaDir/a.mp4/SYNOVIDEO.jpg|$RECYCLE.BIN/x.mp4|lost+found/y.mp4|System Volume Information/z.mp4",
        "jump/@eaDir/a.mp4/SYNOVIDEO.jpg|jump/__MACOSX/c.mp4|wave/#recycle/old.mp4|__MACOSX/jump/d.mp4",
        ".DS_Store|Thumbs.db|jump/._a.mp4|wave/.ipynb_checkpoints/b-checkpoint.mp4|wave/desktop.ini",
        "annotations/list.csv|scripts/make.py",
    ],
)
def test_what_systems_and_people_leave_in_folders_is_no_class_and_no_video(
    tmp_path: Path, left: str
) -> None:
    root = make(tmp_path, {}, f"{TWO}|{left}")
    read = read_annotations("folder", root)
    assert found(read, root) == TWO_FOUND
    assert read.classes == ("jump", "wave")
    inside = [os.path.relpath(path, root) for path in find_videos([str(root)])]
    assert inside == ["jump/a.mp4", "wave/b.mp4"]


def test_folders_without_a_video_are_named_and_are_no_classes(tmp_path: Path) -> None:
    read = read_annotations("folder", make(tmp_path, {}, f"{TWO}|annotations/x.csv|c/y.txt"))
    assert warned(read, "2 folders", "not used as classes: annotations, c")


def test_links_in_circles_and_upwards_are_not_followed(tmp_path: Path) -> None:
    root = make(tmp_path, {}, TWO)
    for name, target in {
        "loop": "loop",
        "jump/loop": "loop",
        "wave/up": "..",
        "wave/further": "../..",
        "jump/self": ".",
    }.items():
        (root / name).symlink_to(target)
    assert found(read_annotations("folder", root), root) == TWO_FOUND
    assert len(find_videos([str(root)])) == 2
    (root / "wave" / "loop.mp4").symlink_to("loop.mp4")
    listed = read_annotations("folder", root).splits["train"]
    assert [entry.video_id for entry in listed] == ["jump/a.mp4", "wave/b.mp4", "wave/loop.mp4"]


def test_a_video_that_links_put_into_two_classes_or_splits_is_warned_of(tmp_path: Path) -> None:
    root = make(tmp_path, {}, TWO)
    (root / "skip").symlink_to("jump")
    assert warned(read_annotations("folder", root), "two classes", "skip/a.mp4")
    root = make(tmp_path / "2", {}, "train/jump/a.mp4|train/wave/b.mp4|val/wave/c.mp4")
    (root / "val" / "jump").symlink_to("../train/jump")
    assert warned(read_annotations("folder", root), "two splits", "val/jump/a.mp4")


@pytest.mark.parametrize("folder", ["wave", "wave/deep"])
def test_a_folder_that_may_not_be_listed_is_an_entry_and_the_others_are_read(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, {}, f"{TWO}|wave/deep/c.mp4")
    forbid_listing(monkeypatch, root / folder)
    listed = read_annotations("folder", root).splits["train"]
    names = {"jump/a.mp4", folder} | ({"wave/b.mp4"} if folder != "wave" else set())
    assert {entry.video_id for entry in listed} == names
    assert {os.path.relpath(path, root) for path in find_videos([str(root)])} == names


@pytest.mark.parametrize(
    ("media", "splits"),
    [
        ("traindata/jump/a.mp4|traindata/wave/b.mp4|testdata/wave/c.mp4", ("train", "test")),
        ("ucf_train/jump/a.mp4|ucf_train/wave/b.mp4|ucf_val/wave/c.mp4", ("train", "val")),
        ("trainVideos/jump/a.mp4|trainVideos/wave/b.mp4|val1/wave/c.mp4", ("train", "val")),
        ("train/jump/a.mp4|train/wave/b.mp4|val/wave/c.mp4|train/stray.mp4", ("train", "val")),
        ("train/jump/a.mp4|train/wave/b.mp4|test/1.mp4|test/2.mp4", ("train",)),
    ],
)
def test_split_folders_are_known_by_compounds_beside_strays_and_unlabelled_videos(
    tmp_path: Path, media: str, splits: tuple[str, ...]
) -> None:
    read = read_annotations("folder", make(tmp_path, {}, media))
    assert read.classes == ("jump", "wave")
    assert tuple(read.splits) == splits
    assert "stray" not in media or warned(read, "train itself and in no class folder", "stray.mp4")
    assert splits != ("train",) or warned(read, "test: left out", "not in class folders")


def test_videos_beside_class_folders_are_named(tmp_path: Path) -> None:
    read = read_annotations("folder", make(tmp_path, {}, f"{TWO}|stray.mp4"))
    assert warned(read, "1 video in", "stray.mp4")


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ("rawframes/jump/a/1.jpg|videos/jump/a.mp4|annotations/x.txt", "kinds of images or videos"),
        ("rawframes/jump/a/1.jpg|rawframes/wave/b/1.jpg|annotations/x.txt", "give that as --root"),
        ("jump/1.jpg|jump/2.jpg|wave/1.jpg", "jump itself: those of each video need"),
        ("jump/a|wave/b", "There are 2 without an extension"),
        ("jump/v/flow_x/1.jpg|jump/v/flow_y/1.jpg", "flow_x without RGB frames"),
    ],
)
def test_folders_of_other_things_are_refused_with_what_is_there(
    tmp_path: Path, media: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_annotations("folder", make(tmp_path, {}, media))


def test_a_picture_above_videos_does_not_make_a_video_of_their_folder(tmp_path: Path) -> None:
    media = "jump/p1/cover.jpg|jump/p1/v1/a.mp4|wave/p2/cover.jpg|wave/p2/v2/1.jpg|wave/p2/v3/1.jpg"
    root = make(tmp_path, {}, media)
    videos = ["jump/p1/v1/a.mp4", "wave/p2/v2", "wave/p2/v3"]
    read = read_annotations("folder", root)
    assert [path for path, _ in found(read, root)["train"]] == videos
    assert [os.path.relpath(path, root) for path in find_videos([str(root)])] == videos
    assert any("read as groups" in text and "group 'p1/v1'" in text for text in read.notes)


def test_an_image_beside_links_in_circles_is_a_video(tmp_path: Path) -> None:
    root = make(tmp_path, {}, "jump/v/1.jpg")
    for name in ("self", "again", "once"):
        (root / "jump" / "v" / name).symlink_to(".")
    assert found(read_annotations("folder", root), root) == {"train": [("jump/v", "jump")]}


def test_prediction_leaves_out_flow_and_thumbnails_as_indexing_does(tmp_path: Path) -> None:
    media = "v/rgb/1.jpg|v/flow/1.jpg|w/a.mp4|w/a.jpg|x/frames/b/1.jpg|x/videos/b.mp4"
    root = make(tmp_path, {}, f"{media}|y/u/1.jpg|y/v/1.jpg")
    videos = ["v/rgb", "w/a.mp4", "x/videos/b.mp4", "y/u", "y/v"]  # of signers called u and v
    assert [os.path.relpath(path, root) for path in find_videos([str(root)])] == videos
    assert [entry.video_id for entry in read_annotations("folder", root).splits["train"]] == videos


# Lists


@pytest.mark.parametrize(
    "text",
    [
        "v/a.mp4|wave\nv/b.mp4|jump\n",
        "path|label\nv/a.mp4|wave\nv/b.mp4|jump\n",
        "v/a.mp4\t\t\twave\nv/b.mp4\tjump\n",
        "path,,label\nv/a.mp4,,wave\nv/b.mp4,,jump\n",
        "'v/a.mp4','wave'\n'v/b.mp4','jump'\n",
        "sep=;\npath;label\nv/a.mp4;wave\nv/b.mp4;jump\n",
        "path,label\nv/a.mp4,wave\npath,label\nv/b.mp4,jump\n",
        "/home/other/set/v/a.mp4,wave\n/home/other/set/v/b.mp4,jump\n",
        "/v/a.mp4,wave\n/v/b.mp4,jump\n",
    ],
)
def test_more_forms_of_a_list_are_read(tmp_path: Path, text: str) -> None:
    root = make(tmp_path, {"train.csv": text}, "v/a.mp4|v/b.mp4")
    assert found(read_annotations("list", root), root) == AB


@pytest.mark.parametrize("labels", [("1e0", "2.0e+00"), ("1,0", "2,0"), ("1.", "02")])
def test_numbers_are_read_as_tables_write_them(tmp_path: Path, labels: tuple[str, str]) -> None:
    text = f"v/a.mp4;{labels[0]}\nv/b.mp4;{labels[1]}\n"
    root = make(tmp_path, {"train.csv": text}, "v/a.mp4|v/b.mp4")
    assert read_annotations("list", root).classes == ("1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\nv/a.mp4,wave\nv/b.mp4,nan\n", "'nan' is not a label"),
        ("v/a.mp4,[3]\nv/b.mp4,[1]\n", "is a list"),
        ("path,label\nstring,string\nv/a.mp4,wave\nv/b.mp4,jump\n", "'string' is not a video"),
        ("datei;klasse\nv/a.mp4;x\nv/c.mp4;x\ndatei;klasse\nv/b.mp4;x\n", "'datei' is not a video"),
        ("gloss;v\nwave;v/a.mp4\njump;v/b.mp4\n", "is this a header, or is 'v' a video?"),
        ("path,label,is_train\nv/a.mp4,wave,1\nv/b.mp4,jump,0\n", "the column is_train"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
    ],
)
def test_lines_and_columns_that_would_become_classes_or_splits_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    root = make(tmp_path, {"train.csv": text}, "v/a.mp4|v/b.mp4")
    with pytest.raises(UserError, match=r"train\.csv") as error:
        read_annotations("list", root)
    assert message in str(error.value)


def test_brackets_in_class_names_are_no_lists(tmp_path: Path) -> None:
    name = "[Something] falling like [something]"
    root = make(tmp_path, {"train.csv": f"v/a.mp4,{name}\nv/b.mp4,x\n"}, "v/a.mp4|v/b.mp4")
    assert read_annotations("list", root).classes == (name, "x")


def test_why_the_only_list_of_a_folder_is_not_read_is_told(tmp_path: Path) -> None:
    root = make(tmp_path, {"mine.csv": "path,label\nv/a.mp4,x\nv/b.mp4,\n"}, "v/a.mp4|v/b.mp4")
    with pytest.raises(UserError, match=r"mine\.csv:3: empty label"):
        read_annotations("list", root)


def test_folds_and_a_first_class_without_videos_are_warned_of(tmp_path: Path) -> None:
    text = "path,label,fold\nv/a.mp4,1,1\nv/b.mp4,2,2\n"
    files: dict[str, str | bytes] = {"train.csv": text, "category.txt": "A\nB\nC\n"}
    read = read_annotations("list", make(tmp_path, files, "v/a.mp4|v/b.mp4"))
    assert warned(read, "folds is not used")
    assert warned(read, "no label is 0", "so label 1 is 'B'")


def test_each_list_finds_its_videos_in_the_folder_of_its_split(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "Train.csv": "video_id,label\n1,jump\n2,wave\n",
        "Validation.csv": "video_id,label\n1,wave\n",
    }
    root = make(tmp_path, files, "Train/1/1.jpg|Train/2/1.jpg|Validation/1/1.jpg")
    read = read_annotations("list", root)
    assert found(read, root) == {
        "train": [("Train/1", "jump"), ("Train/2", "wave")],
        "val": [("Validation/1", "wave")],
    }


def test_paths_of_another_machine_are_found_beside_urls_and_relative_ones(tmp_path: Path) -> None:
    text = "/home/o/set/v/a.mp4,x\nnowhere://h/c.mp4,x\nb.mp4,y\n"
    root = make(tmp_path, {"train.csv": text}, "v/a.mp4|w/b.mp4")
    paths = [entry.path for entry in read_annotations("list", root).splits["train"]]
    assert paths == [str(root / "v/a.mp4"), "nowhere://h/c.mp4", str(root / "w/b.mp4")]


def test_bare_names_are_found_in_class_folders_unless_two_hold_them(tmp_path: Path) -> None:
    text = "path,label\na.mp4,x\nb.mp4,y\n"
    root = make(tmp_path, {"train.csv": text}, TWO)
    assert found(read_annotations("list", root), root)["train"] == [
        ("jump/a.mp4", "x"),
        ("wave/b.mp4", "y"),
    ]
    (root / "wave" / "a.mp4").touch()
    (root / "jump" / "b.mp4").touch()
    with pytest.raises(UserError, match=r"may be those in .*jump or in .*wave"):
        read_annotations("list", root)


def test_listed_videos_are_found_beside_links_in_circles_and_in_closed_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path, {"train.csv": "v/a.mp4,wave\nv/b.mp4,jump\n"}, "v/a.mp4|v/b.mp4")
    (root / "v" / "loop").symlink_to("loop")
    assert found(read_annotations("list", root), root) == AB
    forbid_listing(monkeypatch, root / "v")
    read = read_annotations("list", root)
    assert found(read, root) == AB
    assert warned(read, "cannot list this folder (Permission denied)")


def test_names_in_two_unicode_spellings_are_warned_of(tmp_path: Path) -> None:
    text = "v/a.mp4,cafe\u0301\nv/b.mp4,caf\u00e9\n"
    read = read_annotations("list", make(tmp_path, {"train.csv": text}, "v/a.mp4|v/b.mp4"))
    assert warned(read, "nearly the same")


def test_a_header_of_a_class_list_is_no_class(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "train.csv": "v/a.mp4,1\nv/b.mp4,0\n",
        "labels.csv": "Label\njump\nwave\n",
    }
    root = make(tmp_path, files, "v/a.mp4|v/b.mp4")
    assert found(read_annotations("list", root), root) == AB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"gloss": "book", "instances": [{"video_id": "1"}]}]', "empty path"),
        ('[{"vid_name": "a", "label": 0, "end_frame": [1, 2]}]', ""),
    ],
)
def test_lists_in_json_are_no_paths(tmp_path: Path, text: str, message: str) -> None:
    root = make(tmp_path, {"train.json": text}, "rgb/a.mp4")
    if not message:
        assert found(read_annotations("list", root), root) == {"train": [("rgb/a.mp4", "0")]}
        return
    with pytest.raises(UserError, match=message):
        read_annotations("list", root)


# Published sets

_UCF: dict[str, str | bytes] = {
    "classInd.txt": "1 Jump\n2 Wave\n",
    "trainlist01.txt": "Jump/v_Jump_g01_c01.avi 1\nWave/v_Wave_g01_c01.avi 2\n",
    "testlist01.txt": "Jump/v_Jump_g02_c01.avi\n",
}


@pytest.mark.parametrize(
    "media",
    [
        "data/Jump/v_Jump_g01_c01.mp4|data/Wave/v_Wave_g01_c01.mp4|data/Jump/v_Jump_g02_c01.mp4",
        "jpegs_256/v_Jump_g01_c01/1.jpg|jpegs_256/v_Wave_g01_c01/1.jpg|jpegs_256/v_Jump_g02_c01/1.jpg",
    ],
)
def test_ucf101_is_found_in_a_folder_of_any_name(tmp_path: Path, media: str) -> None:
    root = make(tmp_path, _UCF, media)
    assert sum(map(len, found(read_annotations("ucf101", root), root).values())) == 3


def test_hmdb51_is_found_where_each_archive_has_a_folder_of_its_own(tmp_path: Path) -> None:
    lists = {f"{name}_test_split1.txt": f"a_{name}_f.avi 1\n" for name in ("jump", "wave")}
    media = "hmdb51_org/jump/jump/a_jump_f.avi|hmdb51_org/wave/wave/a_wave_f.avi"
    root = make(tmp_path, dict(lists), media)
    (root / "jump_test_split1.txt").write_text("a_jump_f.avi 1\nb_jump_f.avi 2\n")
    (root / "hmdb51_org/jump/jump/b_jump_f.avi").touch()
    assert len(found(read_annotations("hmdb51", root), root)["train"]) == 2


def test_kinetics_is_found_behind_links_as_frames_and_with_two_suffixes(tmp_path: Path) -> None:
    rows = [f"{label},{label * 11},1,11,train\n" for label in "abc"]
    root = make(
        tmp_path,
        {"train.csv": "label,youtube_id,time_start,time_end,split\n" + "".join(rows)},
        f"x/{'b' * 11}_000001_000011/1.jpg|x/{'c' * 11}_000001_000011.mp4.mkv",
    )
    other = make(tmp_path / "other", {}, f"a/{'a' * 11}_000001_000011.mp4")
    (root / "linked").symlink_to(other)
    (root / "linked" / "up").symlink_to(root)
    assert [path for path, _ in found(read_annotations("kinetics400", root), root)["train"]] == [
        f"linked/a/{'a' * 11}_000001_000011.mp4",
        f"x/{'b' * 11}_000001_000011",
        f"x/{'c' * 11}_000001_000011.mp4.mkv",
    ]


def test_headers_of_jester_are_no_class_and_no_video(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "jester-v1-labels.csv": "label\nA\nB\n",
        "jester-v1-train.csv": "id;label\n1;A\n2;B\n",
    }
    root = make(tmp_path, files, "1/1.jpg|2/1.jpg")
    assert found(read_annotations("jester", root), root) == {"train": [("1", "A"), ("2", "B")]}


def test_something_v2_is_read_in_utf16(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "labels/labels.json": '{"A": "0"}'.encode("utf-16"),
        "labels/train.json": '[\n{"id": "1", "template": "A"}]'.encode("utf-16"),
        "labels/validation.json": '[{"id": "2", "template": "A"}]',
    }
    root = make(tmp_path, files, "1.webm|2.webm")
    assert set(found(read_annotations("something-v2", root), root)) == {"train", "val"}


def test_a_root_that_is_a_file_is_called_one(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match="is a file, not a folder"):
        read_annotations("folder", tmp_path / "a.mp4")
