"""Annotation readers: each published format as it is, and every malformed line refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.data.annotations import Annotations, Entry, formats, read_annotations
from stm.data.annotations.mirroring import flip_rules
from stm.data.annotations.splitting import hold_out
from stm.errors import UserError
from tests.data.published import write_published


@pytest.fixture
def published(made_or_real: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the first lines of the published files: ours in their form, and the real ones."""
    if made_or_real is None:
        return write_published(tmp_path_factory.mktemp("published"))
    return made_or_real / "annotations"


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def write(folder: Path, files: dict[str, str]) -> Path:
    """Make files below a folder, each with the text given (or empty)."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def ids(annotations: Annotations) -> dict[str, list[str]]:
    return {name: [e.video_id for e in listed] for name, listed in annotations.splits.items()}


def labels(annotations: Annotations) -> dict[str, list[int]]:
    return {name: [e.label for e in listed] for name, listed in annotations.splits.items()}


def refused(format: str, root: Path | str, *parts: str, **options: object) -> None:
    """The reader refuses with a message that has all the parts in it."""
    with pytest.raises(UserError) as error:
        read_annotations(format, root, **options)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(error.value)


# folder


def test_folder_reads_class_folders_with_files_frame_folders_and_links(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "disk", {"far.mkv": "", "clips/c.mp4": ""})
    root = write(
        tmp_path / "root",
        {
            "jump/b.MP4": "",
            "jump/a.webm": "",
            "run/frames01/0001.jpg": "",
            "run/frames01/0002.jpg": "",
            "run/notes.txt": "",
            "run/._a.mp4": "",
            ".cache/x.mp4": "",
        },
    )
    os.symlink(elsewhere / "far.mkv", root / "run" / "linked.mkv")
    os.symlink(elsewhere / "clips", root / "walk")
    os.symlink(root / "run", root / "run" / "loop")
    read = read_annotations("folder", root)
    assert read.classes == ("jump", "run", "walk")
    assert ids(read) == {
        "train": ["jump/a.webm", "jump/b.MP4", "run/frames01", "run/linked.mkv", "walk/c.mp4"]
    }
    assert labels(read)["train"] == [0, 0, 1, 1, 2]
    assert all(os.path.isabs(entry.path) for entry in read.splits["train"])
    assert any("not videos: 1 .txt" in warning for warning in read.warnings)


def test_folder_reads_splits_that_share_one_class_list(tmp_path: Path) -> None:
    root = write(
        tmp_path, {"train/run/a.mp4": "", "train/jump/a.mp4": "", "validation/run/b.mp4": ""}
    )
    read = read_annotations("folder", root)
    assert ids(read) == {
        "train": ["train/jump/a.mp4", "train/run/a.mp4"],
        "val": ["validation/run/b.mp4"],
    }
    assert labels(read) == {"train": [0, 1], "val": [1]}
    assert "1 of 2 classes has no val video: jump" in read.warnings


def test_folder_takes_a_class_called_train_for_a_class(tmp_path: Path) -> None:
    root = write(tmp_path, {"bus/a.mp4": "", "train/b.mp4": ""})
    assert read_annotations("folder", root).classes == ("bus", "train")


def test_folder_takes_a_folder_below_the_class_for_the_group(tmp_path: Path) -> None:
    root = write(tmp_path, {"run/film1/a.mp4": "", "run/film1/b.mp4": "", "run/c.mp4": ""})
    groups = {e.video_id: e.group for e in read_annotations("folder", root).splits["train"]}
    assert groups == {
        "run/film1/a.mp4": "run/film1",
        "run/film1/b.mp4": "run/film1",
        "run/c.mp4": "",
    }


def test_folder_refuses_what_it_cannot_read_as_classes(tmp_path: Path) -> None:
    refused("folder", tmp_path / "none", "no such folder")
    refused("folder", tmp_path, "no class folder")
    root = write(tmp_path, {"train/run/a.mp4": "", "extra/run/b.mp4": ""})
    refused("folder", root, "extra", "only val and test are expected")
    refused("folder", root, "the folders are the labels", annotations=root)
    refused("folder", "s3://bucket/videos", "--format list")


# csv


def test_csv_reads_names_quotes_splits_and_groups(tmp_path: Path) -> None:
    text = (
        "\ufeffPath,label,split,group\r\n"
        '"a, first.mp4","run, fast",train,g1\r\n'
        "/elsewhere/b.mp4,jump,validation,g2\r\n"
        "s3://bucket/c.mp4,jump,,g1\r\n"
    )
    root = write(tmp_path, {"list.csv": text})
    read = read_annotations("csv", root, root / "list.csv")
    assert read.classes == ("jump", "run, fast")
    assert ids(read) == {
        "train": ["a, first.mp4", "s3://bucket/c.mp4"],
        "val": ["/elsewhere/b.mp4"],
    }
    assert labels(read) == {"train": [1, 0], "val": [0]}
    paths = [entry.path for listed in read.splits.values() for entry in listed]
    assert paths == [str(tmp_path / "a, first.mp4"), "s3://bucket/c.mp4", "/elsewhere/b.mp4"]
    assert read.splits["train"][0].line == f"{root / 'list.csv'}:2"
    assert [entry.group for entry in read.splits["train"]] == ["g1", "g1"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_needs_no_header_and_takes_integer_labels(tmp_path: Path, mark: str) -> None:
    root = write(tmp_path, {"train.csv": f"a.mp4{mark}2\nb.mp4{mark}0\n", "val.csv": "c.mp4,2\n"})
    read = read_annotations("csv", root)
    assert read.classes == ("0", "2")  # what does not occur is no class
    assert labels(read) == {"train": [1, 0], "val": [1]}


def test_csv_refuses_each_malformed_line_by_number(tmp_path: Path) -> None:
    def check(text: str, *parts: str) -> None:
        write(tmp_path, {"list.csv": text})
        refused("csv", tmp_path, *parts, annotations=tmp_path / "list.csv")

    check("path,label\na.mp4,run\nb.mp4\n", "list.csv:3", "b.mp4", "1 column instead of 2")
    check("a.mp4,run,x\n", "list.csv:1", "3 columns")
    check("b.mp4,run\na.mp4,\n", "list.csv:2", "empty label")
    check("a.mp4,\n", "the videos have no label")
    check("a.mp4,run\n\nb.mp4,3\n", "list.csv:1", "'run' is a name", "list.csv:3 has the number 3")
    check("a.mp4,-1\nb.mp4,0\n", "list.csv:1", "label -1")
    check("a.mp4,-1\n", "the videos have no label")
    check('a.mp4,"run\n', "list.csv:1", "expected")
    check("path,label,split\na.mp4,run,hidden\n", "list.csv:2", "'hidden'", "train, val or test")
    check("a.mp4,0\nb.mp4,90000\n", "the highest label is 90000")
    check("path,label\n", "it lists no videos")


# ucf101


def ucf(root: Path, **changes: str) -> Path:
    files = {
        "classInd.txt": "1 Run\n2 Jump\n",
        "trainlist01.txt": "Run/v_Run_g01_c01.avi 1\nJump/v_Jump_g01_c02.avi 2\n",
        "testlist01.txt": "Run/v_Run_g02_c01.avi\n",
    }
    return write(root, {**files, **{name.replace("_", "."): v for name, v in changes.items()}})


def test_ucf101_reads_the_published_files(published: Path, tmp_path: Path) -> None:
    lists = published / "ucf101"
    names = [line.split()[1] for line in lines_of(lists / "classInd.txt")]
    for split in (1, 2, 3):
        read = read_annotations("ucf101", "/", lists, split=split)
        assert list(read.classes) == names
        for name, file in (("train", "trainlist"), ("val", "testlist")):
            listed = [line.split()[0] for line in lines_of(lists / f"{file}0{split}.txt")]
            assert [entry.path for entry in read.splits[name]] == [f"/{path}" for path in listed]
        assert not any("group" in warning for warning in read.warnings)
    train = read_annotations("ucf101", "/", lists).splits["train"]
    first = train[0]
    assert first.path == "/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    assert (first.label, first.group) == (0, "ApplyEyeMakeup/g08")
    shutil.copytree(lists, tmp_path / "crlf")
    listed = tmp_path / "crlf" / "trainlist01.txt"
    listed.write_bytes(listed.read_bytes().replace(b"\n", b"\r\n"))
    assert [e.path for e in read_annotations("ucf101", "/", tmp_path / "crlf").splits["train"]] == [
        entry.path for entry in train
    ]


def test_ucf101_finds_the_videos_beside_the_lists(
    made_or_real: Path | None, tmp_path: Path
) -> None:
    if made_or_real is None:
        root = ucf(tmp_path, testlist01_txt="Run/v_Run_g02_c01.avi\nJump/v_Jump_g02_c03.avi\n")
        for file in ("trainlist01.txt", "testlist01.txt"):
            write(root, {line.split()[0]: "" for line in lines_of(root / file)})
    else:
        root = made_or_real / "mini5"
    read = read_annotations("ucf101", root)
    entries = [entry for listed in read.splits.values() for entry in listed]
    assert len(entries) == (4 if made_or_real is None else 90)
    assert all(os.path.isfile(entry.path) for entry in entries)
    assert read.warnings == ()
    assert (read.flip, read.flip_map) == (True, None)


def test_ucf101_refuses_each_malformed_line_by_number(tmp_path: Path) -> None:
    def check(name: str, text: str, *parts: str) -> None:
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
        refused("ucf101", ucf(tmp_path / "r", **{name: text}), *parts)

    check(
        "trainlist01_txt", "Run/a.avi 1\nSwim/b.avi 3\n", "trainlist01.txt:2", "'Swim' is unknown"
    )
    check("trainlist01_txt", "Run/a.avi 2\n", "trainlist01.txt:1", "Run has number 1")
    check("trainlist01_txt", "a.avi\n", "trainlist01.txt:1", "a.avi", "expected `ClassName/")
    check("classInd_txt", "1 Run\n3 Jump\n", "classInd.txt:2", "expected `2 ClassName`")
    check("classInd_txt", "1 Run\n2 Run\n", "classInd.txt:2", "listed twice")
    check("testlist01_txt", "", "'val'", "no video")
    check(
        "testlist01_txt",
        "Run/v_Run_g01_c01.avi\n",
        "testlist01.txt:1",
        "'Run/v_Run_g01_c01.avi'",
        "trainlist01.txt:1",
    )
    os.unlink(tmp_path / "r" / "trainlist01.txt")
    refused("ucf101", tmp_path / "r", "trainlist01.txt", "No such file")


def test_a_group_in_two_splits_is_warned_of(tmp_path: Path) -> None:
    root = ucf(tmp_path, testlist01_txt="Run/v_Run_g01_c07.avi\n")
    (warning,) = (w for w in read_annotations("ucf101", root).warnings if "group" in w)
    assert "train and val share 1 group" in warning
    assert "'Run/g01'" in warning


# hmdb51


def test_hmdb51_reads_the_published_files(published: Path) -> None:
    read = read_annotations("hmdb51", "/", published / "hmdb51")
    assert read.classes == ("brush_hair", "kick_ball", "wave")
    files = (published / "hmdb51").glob("*.txt")
    codes = Counter(line.split()[-1] for file in files for line in lines_of(file))
    assert {name: len(listed) for name, listed in read.splits.items()} == {
        "train": codes["1"],
        "val": codes["2"],
    }
    first = read.splits["train"][0]
    assert first.path == "/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi"
    assert first.group == "brush_hair/April_09"
    assert read.warnings == ()


def test_hmdb51_leaves_out_code_0_and_refuses_others(tmp_path: Path) -> None:
    name = "wave_test_split2.txt"
    root = write(tmp_path, {name: "a_wave_1.avi 1 \nb_wave_1.avi 0 \nc_wave_1.avi 2 \n"})
    read = read_annotations("hmdb51", root, split=2)
    assert ids(read) == {"train": ["wave/a_wave_1.avi"], "val": ["wave/c_wave_1.avi"]}
    write(tmp_path, {name: "a_wave_1.avi 1\nb_wave_1.avi 3\n"})
    refused("hmdb51", root, f"{name}:2", "b_wave_1.avi 3", "1 (train), 2 (test)", split=2)
    refused("hmdb51", root, "*_test_split1.txt")


# something-something and jester


def test_something_v1_reads_the_published_files(published: Path) -> None:
    read = read_annotations("something-v1", published, published / "something-v1")
    lists = published / "something-v1"
    assert list(read.classes) == lines_of(lists / "label_map.txt")
    for name in ("train", "val"):
        listed = [line.split() for line in lines_of(lists / f"{name}_videofolder.txt")]
        entries = read.splits[name]
        assert [(e.video_id, str(e.label)) for e in entries] == [(id, n) for id, _, n in listed]
    first = read.splits["train"][0]
    assert first.video_id == "100218"
    assert first.path == str(published / "100218")


def test_something_v1_refuses_each_malformed_line_by_number(tmp_path: Path) -> None:
    def check(text: str, *parts: str) -> None:
        files = {"label_map.txt": "Holding something\nPoking something\n"}
        root = write(tmp_path, {**files, "train_videofolder.txt": text})
        refused("something-v1", root, *parts)

    check("1 10 0\n2 10 2\n", "train_videofolder.txt:2", "label 2", "2 classes 0 to 1")
    check("1 10 0\n2 0\n3 9 1\n", "train_videofolder.txt:2", "2 columns instead of 3")
    check("1 10 0\n2 10 0\n1 10 1\n", "train_videofolder.txt:3", "'1'", "train_videofolder.txt:1")


def test_something_v2_finds_templates_and_videos_of_either_kind(
    made_or_real: Path | None, published: Path, tmp_path: Path
) -> None:
    read = read_annotations("something-v2", "/", published / "something-v2")
    labels = published / "something-v2" / "something-something-v2-labels.json"
    assert list(read.classes) == list(json.loads(labels.read_text()))
    first = read.splits["train"][0]
    assert read.classes[first.label] == ("Moving something and something closer to each other")
    assert (first.video_id, first.path) == ("203403", "/203403.webm")
    assert first.line.endswith("something-something-v2-train.json:11")

    items = [{"id": number, "template": "Closing [something]"} for number in ("2", "2003", "77")]
    lists = write(
        tmp_path / "labels",
        {"labels.json": '{"Closing something": "0"}', "train.json": json.dumps(items)},
    )
    if made_or_real is None:
        folder = write(tmp_path / "frames", {"2/0001.jpg": "", "2003/0001.jpg": ""})
    else:
        folder = made_or_real / "frames-something-v2"
    frames = read_annotations("something-v2", folder, lists)
    assert [e.path for e in frames.splits["train"]] == [
        str(folder / "2"),
        str(folder / "2003"),
        str(folder / "77.webm"),
    ]
    # Where both a video and frames taken from it are there, the video is the original.
    files = {"20bn/77.webm": "", "20bn/77/00001.jpg": "", "20bn/2.webm": ""}
    videos = write(tmp_path / "root", files)
    read = read_annotations("something-v2", videos, lists)
    assert [os.path.relpath(e.path, videos) for e in read.splits["train"]] == [
        "20bn/2.webm",
        "2003.webm",
        "20bn/77.webm",
    ]


def test_something_v2_refuses_unknown_templates_and_broken_json(tmp_path: Path) -> None:
    def check(train: str, *parts: str) -> None:
        files = {"labels.json": '{"Closing something": "0"}', "train.json": train}
        refused("something-v2", write(tmp_path, files), *parts)

    check('[\n{"id": "5",\n"template": "Opening [something]"}\n]', "train.json:2", "Opening [")
    check('[\n{"id": "5"}\n]', "train.json:2", "template")
    check('[\n{"id": "5",\n', "train.json:3", "not JSON")
    check("{}", "expected a list")
    write(tmp_path, {"labels.json": '{"Closing something": "1"}'})
    refused("something-v2", tmp_path, "labels.json", "count from 0")


def test_jester_reads_the_published_files_and_refuses_unknown_labels(
    published: Path, tmp_path: Path
) -> None:
    read = read_annotations("jester", "/", published / "jester")
    lists = published / "jester"
    assert list(read.classes) == lines_of(lists / "jester-v1-labels.csv")
    entry, *others = read.splits["train"]
    assert len(others) == len(lines_of(lists / "jester-v1-train.csv")) - 1
    assert (entry.video_id, read.classes[entry.label]) == ("34870", "Drumming Fingers")
    assert entry.path == "/34870"
    files = {"jester-v1-labels.csv": "Stop Sign\n", "jester-v1-train.csv": "1;Stop Sign\n2;Go\n"}
    refused("jester", write(tmp_path, files), "jester-v1-train.csv:2", "'Go' is unknown")
    write(tmp_path, {"jester-v1-train.csv": "1 Stop Sign\n"})
    refused("jester", tmp_path, "jester-v1-train.csv:1", "`id;label`")


# kinetics400


def test_kinetics400_reads_the_official_csv_and_finds_videos_anywhere(
    published: Path, tmp_path: Path
) -> None:
    root = write(tmp_path, {"part_1/-3B32lodo2M_000059_000069.mkv": ""})
    read = read_annotations("kinetics400", root, published / "kinetics400" / "train.csv")
    named = lines_of(published / "kinetics400" / "label_list.txt")  # it spells air_drumming
    assert list(read.classes) == [line.split()[1] for line in named]
    first, second = read.splits["val"]
    assert first.path == str(root / "part_1/-3B32lodo2M_000059_000069.mkv")
    assert second.path == str(root / "air drumming/_dbcJuKJQNs_000040_000050.mp4")
    assert (first.group, read.classes[second.label]) == ("-3B32lodo2M", "air_drumming")


def test_kinetics400_reads_path_label_lists(published: Path, tmp_path: Path) -> None:
    lines = list(dict.fromkeys(lines_of(published / "kinetics400" / "train_videos.list")))
    lists = write(tmp_path, {"train_videos.list": "\n".join(lines)})
    shutil.copy(published / "kinetics400/label_list.txt", lists)
    read = read_annotations("kinetics400", "/", lists)
    paths, labels = zip(*(line.split() for line in lines), strict=True)
    entries = read.splits["train"]
    assert [(e.path[1:], str(e.label)) for e in entries] == list(zip(paths, labels, strict=True))
    # YouTube's name of a video is its group: several clips may be cut from it.
    groups = [Path(path).stem.rsplit("_", 2)[0] for path in paths]
    assert [entry.group for entry in entries] == groups


def test_kinetics400_refuses_a_video_listed_twice(published: Path, tmp_path: Path) -> None:
    lines = list(dict.fromkeys(lines_of(published / "kinetics400" / "train_videos.list")))
    write(tmp_path, {"train_videos.list": "\n".join([*lines, lines[0]])})
    shutil.copy(published / "kinetics400/label_list.txt", tmp_path)
    lists = tmp_path / "train_videos.list"
    twice = (
        f"{lists}:{len(lines) + 1}",
        repr(lines[0].split()[0]),
        f"already listed at {lists}:1.",
    )
    refused("kinetics400", "/", *twice, annotations=lists)


def test_kinetics400_refuses_each_malformed_line_by_number(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"

    def check(text: str, *parts: str) -> None:
        refused("kinetics400", write(tmp_path, {"train.csv": header + text}), *parts)

    check('"air drumming",abc\n', "train.csv:2", "expected")
    check("run,abc,x,10,train\n", "train.csv:2", "time_start 'x'")
    check("run,abc,0,10,hidden\n", "train.csv:2", "'hidden'")


# what all formats share


def test_mirroring_swaps_the_sides_a_label_names(published: Path) -> None:
    jester = read_annotations("jester", "/", published / "jester")
    swap = {
        jester.classes[a]: jester.classes[b] for a, b in (jester.flip_map or {}).items() if a != b
    }
    assert not jester.flip
    assert swap == {
        "Swiping Left": "Swiping Right",
        "Swiping Right": "Swiping Left",
        "Sliding Two Fingers Left": "Sliding Two Fingers Right",
        "Sliding Two Fingers Right": "Sliding Two Fingers Left",
        "Turning Hand Clockwise": "Turning Hand Counterclockwise",
        "Turning Hand Counterclockwise": "Turning Hand Clockwise",
    }
    for name in ("something-v1", "something-v2"):
        read = read_annotations(name, "/", published / name)
        assert read.flip_map is not None
        assert all(read.flip_map[b] == a for a, b in read.flip_map.items())
        assert sum(a != b for a, b in read.flip_map.items()) == len(sides_of(read.classes))
        # "pulling it right out" is no side, and its swap no class: such clips stay as they are.
        (kept,) = set(range(len(read.classes))) - set(read.flip_map)
        assert "right out" in read.classes[kept]


def sides_of(classes: tuple[str, ...]) -> list[str]:
    """The classes that name a side."""
    return [name for name in classes if {"left", "right"} & set(name.split()) and "out" not in name]


def test_mirroring_reads_words_however_they_are_joined() -> None:
    assert flip_rules(["upright", "bright_light", "Lefty"]) == (True, None)
    assert flip_rules(["swipe_left", "SwipeRight"]) == (False, {0: 1, 1: 0})
    assert flip_rules(["turn anti-clockwise", "TURN CLOCKWISE", "stop"]) == (
        False,
        {0: 1, 1: 0, 2: 2},
    )
    assert flip_rules(["turn left", "go"]) == (False, {1: 1})


def test_val_fraction_holds_whole_groups_out_of_each_class(tmp_path: Path) -> None:
    files = {f"c{c}/film{g}/{k}.mp4": "" for c in range(3) for g in range(10) for k in range(2)}
    root = write(tmp_path, files)
    read = read_annotations("folder", root, val_fraction=0.2, seed=3)
    assert Counter(e.label for e in read.splits["val"]) == {0: 4, 1: 4, 2: 4}
    groups = {name: {e.group for e in listed} for name, listed in read.splits.items()}
    assert not groups["train"] & groups["val"]
    assert read.warnings == ()
    assert read_annotations("folder", root, val_fraction=0.2, seed=3).splits == read.splits
    assert read_annotations("folder", root, val_fraction=0.2, seed=4).splits != read.splits


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b", "c", "d"])), max_size=40),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_holding_out_loses_nothing_and_splits_no_group(
    videos: list[tuple[int, str]], fraction: float, seed: int
) -> None:
    entries = [Entry(f"v{k}", "", label, group, "") for k, (label, group) in enumerate(videos)]
    train, val = hold_out(entries, fraction, seed)
    assert sorted((*train, *val), key=entries.index) == entries
    assert not {e.group for e in train if e.group} & {e.group for e in val if e.group}
    assert hold_out(entries[::-1], fraction, seed) == (train[::-1], val[::-1])
    sizes = defaultdict(set)
    for entry in entries:
        sizes[entry.label].add(entry.group or entry.video_id)
    held = {entry.label for entry in val}
    for label, groups in sizes.items():
        own = all(e.label == label for e in entries if e.group in groups)
        if own and len(groups) > 1:
            assert label in held


def test_val_fraction_is_refused_where_it_cannot_be_had(tmp_path: Path) -> None:
    refused("ucf101", ucf(tmp_path / "a"), "already have the splits train, val", val_fraction=0.2)
    root = write(tmp_path / "b", {"run/film/a.mp4": "", "run/film/b.mp4": ""})
    refused("folder", root, "too few groups", val_fraction=0.5)
    refused("folder", root, "between 0 and 1", val_fraction=1.5)


def test_unknown_formats_splits_and_places_are_refused(tmp_path: Path) -> None:
    refused("ucf", tmp_path, "--format ucf", "ucf101")
    refused("ucf101", tmp_path, "--split 4", split=4)
    refused("folder", tmp_path, "--split 2", split=2)
    refused("ucf101", tmp_path, "no such file or folder", annotations=tmp_path / "x")
    os.mkfifo(tmp_path / "pipe")
    refused("list", tmp_path, "neither a file nor a folder", annotations=tmp_path / "pipe")
    for name in set(formats.names()) - {"folder"}:
        refused(name, tmp_path, str(tmp_path), "--annotations")


def test_a_url_root_needs_the_lists_at_hand_and_is_joined(tmp_path: Path) -> None:
    lists = ucf(tmp_path)
    read = read_annotations("ucf101", "s3://bucket/ucf", lists)
    assert read.splits["val"][0].path == "s3://bucket/ucf/Run/v_Run_g02_c01.avi"
    refused("ucf101", "s3://bucket/ucf", "--annotations")
