"""Each check of the doctor is seen to fail for its own reason, and none of them hangs."""

from __future__ import annotations

import os
import socket
import threading
import time
from copy import deepcopy

import numpy as np
import pytest

from stm.deadline import Late, within
from stm.doctor import (
    balance,
    clocks,
    collective,
    decoders,
    facts,
    gpus,
    limits,
    record,
    storage,
    versions,
)
from stm.doctor.examine import Settings, connect, examine, side_by_side
from stm.doctor.finding import ok
from stm.doctor.nodes import Missing, Node, alive, on_each
from stm.planning.originals import estimate
from stm.planning.rates import Rates

RANGES = {"torch": ">=2.6", "ray": "<2.61,>=2.60", "matplotlib": ">=3.8"}
GOOD = {
    "host": "a",
    "python": "3.11.7",
    "versions": {"torch": "2.13.0+cpu", "ray": "2.60.0", "matplotlib": "3.10.0"},
    "code": "c0ffee",
    "shm_bytes": 8 * 10**9,
    "disk": {"/tmp/ray": {"free_bytes": 50 * 10**9, "total_bytes": 100 * 10**9}},
    "open_files": 65536,
    "cores": 8,
    "gpus": {"on_bus": 0, "with_driver": 0, "torch": None},
}


def two_nodes(**changes):
    """Reports of two equal nodes; the second with changes. A dotted name reaches into a table."""
    other = deepcopy(GOOD)
    for name, value in changes.items():
        *path, last = name.split("__")
        table = other
        for part in path:
            table = table[part]
        table[last] = value
    return {"node-a": deepcopy(GOOD), "node-b": other}


# ---------------------------------------------------------------- versions


def test_equal_nodes_are_fine():
    assert versions.check_python(two_nodes()).status == "ok"
    assert versions.check_libraries(two_nodes(), RANGES).status == "ok"
    assert versions.check_code(two_nodes()).status == "ok"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"versions__torch": "2.5.1"}, "fails", "node-b: torch 2.5.1 is not >=2.6"),
        ({"versions__ray": None}, "fails", "node-b: ray is not installed"),
        ({"versions__torch": "2.14.0"}, "fails", "torch 2.13.0 on node-a, 2.14.0 on node-b"),
        ({"versions__matplotlib": "3.9.0"}, "warning", "3.9.0 on node-b"),
        ({"versions__torch": "2.13.0+cu128"}, "ok", "within their ranges on 2 nodes"),
    ],
)
def test_another_version_on_one_node_is_named(change, status, said):
    found = versions.check_libraries(two_nodes(**change), RANGES)
    assert found.status == status
    assert said in found.said


def test_another_python_is_a_failure_and_another_patch_a_warning():
    assert versions.check_python(two_nodes(python="3.12.1")).status == "fails"
    assert versions.check_python(two_nodes(python="3.11.9")).status == "warning"


def test_an_edited_file_on_one_node_is_caught_though_the_version_is_the_same():
    found = versions.check_code(two_nodes(code="decade"))
    assert found.status == "fails"
    assert "decade on node-b" in found.said


def test_the_ranges_are_those_of_the_package():
    found = versions.requirements()
    assert found["ray"] == "<2.61,>=2.60"
    assert not found.keys() & {"s3fs", "onnx"}  # extras


# ---------------------------------------------------------------- limits, GPUs, CPUs, clocks


def test_an_object_store_larger_than_shared_memory_is_told():
    sizes = {"node-a": 4 * 10**9, "node-b": 4 * 10**9}
    assert limits.check_shared_memory(two_nodes(), sizes).status == "ok"
    found = limits.check_shared_memory(two_nodes(shm_bytes=64 * 2**20), sizes)
    assert found.status == "warning"
    assert "node-b: /dev/shm is 0.0671 GB, the object store 4 GB" in found.said
    assert "--shm-size" in found.todo


@pytest.mark.parametrize(
    ("folder", "free", "total", "status"),
    [
        ("/tmp/ray", 4e9, 1e11, "fails"),  # 96 % in use: Ray stops
        ("/tmp/ray", 8e9, 1e11, "warning"),
        ("/tmp/ray", 5e8, 2e9, "ok"),  # Ray needs a share, not an amount
        ("/runs", 5e8, 2e9, "fails"),  # no room for a checkpoint
    ],
)
def test_a_full_disk_is_told(folder, free, total, status):
    reports = two_nodes(disk={folder: {"free_bytes": free, "total_bytes": total}})
    found = limits.check_disk(reports, "/runs")
    assert found.status == status
    assert ("node-b" in found.said) == (status != "ok")


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_every_full_folder_of_a_node_is_told(order):
    free = {"/runs": 5e8, "/tmp/ray": 8e9, "/tmp/old": 4e9}
    used = [(path, {"free_bytes": each, "total_bytes": 1e11}) for path, each in free.items()]
    found = limits.check_disk(two_nodes(disk=dict(used[order])), "/runs")
    assert found.status == "fails"
    assert found.said.count("node-b: ") == 1
    for said in (
        "/runs has 0.5 GB free, 100% in use (checkpoints need 1 GB)",
        "/tmp/old has 4 GB free, 96% in use (Ray stops at 95%)",
        "/tmp/ray has 8 GB free, 92% in use",
    ):
        assert said in found.said


@pytest.mark.parametrize(("limit", "status"), [(256, "fails"), (2048, "warning"), (4096, "ok")])
def test_a_low_limit_of_open_files_is_told(limit, status):
    assert limits.check_open_files(two_nodes(open_files=limit)).status == status


@pytest.mark.parametrize(
    ("given", "found", "status", "said"),
    [
        (0, {"on_bus": 0, "torch": None}, "ok", "none"),
        (
            2,
            {"on_bus": 2, "torch": {"count": 2, "build": "12.8", "error": ""}},
            "ok",
            "2 on 1 node,",
        ),
        (
            2,
            {"on_bus": 2, "torch": {"count": 0, "build": None, "error": ""}},
            "fails",
            "a build without CUDA sees 0 of 2",
        ),
        (
            2,
            {"on_bus": 2, "torch": {"count": 2, "build": "12.8", "error": "no kernel image"}},
            "fails",
            "no kernel image",
        ),
        (
            1,
            {"on_bus": 2, "torch": {"count": 2, "build": "12.8", "error": ""}},
            "warning",
            "Ray offers 1",
        ),
        (
            0,
            {"on_bus": 1, "torch": {"count": 0, "build": "12.8", "error": ""}},
            "warning",
            "1 NVIDIA on the bus",
        ),
    ],
)
def test_a_gpu_that_does_not_compute_or_lies_idle_is_told(given, found, status, said):
    reports = two_nodes(gpus={"with_driver": 0, **found})
    found = gpus.check(reports, {"node-a": 0, "node-b": given})
    assert found.status == status
    assert said in found.said


def test_cuda_that_fails_is_an_answer_and_not_an_error(monkeypatch):
    monkeypatch.setattr(facts, "_ASK_TORCH", "import sys; sys.exit('driver too old')")
    assert facts._ask_torch() == {"build": None, "count": 0, "error": "driver too old"}
    monkeypatch.setattr(facts, "_ASK_TORCH", "import time; time.sleep(60)")
    monkeypatch.setattr(facts, "_TORCH_ASKED_S", 0.5)
    assert "did not answer in 0.5 s" in facts._ask_torch()["error"]


RATES = Rates(
    decode_clips_per_s_core=50.0,
    train_clips_per_s_gpu=400.0,
    batch_size=8,
    num_segments=8,
    size=224,
)


@pytest.mark.parametrize(
    ("cpus", "num_gpus", "workers", "rates", "status", "said"),
    [
        (2, 0, 2, None, "fails", "2 CPU - 2 workers = 0 to decode"),  # Ray would wait for ever
        (3, 0, 2, None, "ok", "1 to decode"),
        (16, 0, 2, None, "warning", "the machines have 8 cores"),
        (8, 4, None, None, "warning", "without measured rates"),
        (42.4, 4, None, RATES, "ok", "38 needed for 4 GPU"),  # 4 x 1.2 x 400 / 50 = 38.4
        (23.2, 4, None, RATES, "warning", "training would run at 50%"),
    ],
)
def test_cpus_that_cannot_feed_the_training_are_told(cpus, num_gpus, workers, rates, status, said):
    found = balance.check(cpus, num_gpus, workers, 8, rates)
    assert found.status == status
    assert said in found.said


def test_videos_that_are_dear_to_decode_are_to_be_prepared_first():
    def of(*columns):
        return balance.check_originals(estimate(8, *(np.array([each]) for each in columns)), None)

    found = of(1280, 720, 300, 250)
    assert found.status == "warning"
    assert "1280x720 with a key frame every 250 frames take about 664 ms" in found.said
    assert "stm prepare" in found.todo
    assert of(340, 256, 300, 12).status == "ok"


def test_a_clock_is_off_only_by_more_than_the_measurement_may_be():
    assert clocks.check_offsets({"a": (0.0, 0.01), "b": (3.0, 2.5)}, {}).status == "ok"
    found = clocks.check_offsets({"a": (0.0, 0.01), "b": (-3.0, 0.5)}, {})
    assert (found.status, found.said) == ("warning", "b: 3.0 s behind")
    assert clocks.check_offsets({"b": (4000.0, 0.5)}, {}).status == "fails"


# ---------------------------------------------------------------- decoders


@pytest.fixture(scope="module")
def clip():
    return decoders.make_clip()


def test_every_decoder_gives_the_frames_asked_for(clip):
    report = decoders.read_everywhere(clip)
    assert report["packets"]["numbers"] == list(decoders.WANTED)
    found = decoders.check(
        {"a": report, "b": report}, {}, expects_decord="error" not in report["decord"]
    )
    assert found.status == "ok"


@pytest.mark.parametrize("decoder", decoders.DECODERS)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda frames: np.roll(frames, 1, axis=0), "gave frames [47, 0, 5"),
        (lambda frames: frames[..., ::-1], "gave frames [255, 250"),  # red and blue swapped
        (lambda frames: frames // 2 + np.roll(frames, 1, axis=0) // 2, "-1"),
        (lambda frames: np.full_like(frames, 128), "-1, -1"),
    ],
)
def test_a_decoder_that_gives_other_frames_is_named(clip, monkeypatch, decoder, fault, said):
    if decoder == "decord":
        pytest.importorskip("decord")
    read = decoders._frames
    monkeypatch.setattr(
        decoders,
        "_frames",
        lambda path, name: fault(read(path, name)) if name == decoder else read(path, name),
    )
    found = decoders.check({"node-a": decoders.read_everywhere(clip)}, {}, expects_decord=True)
    assert found.status == "fails"
    assert f"node-a: {decoder} " in found.said
    assert said in found.said


def test_both_decoders_of_a_node_are_named_if_both_are_wrong():
    report = {decoder: {"error": "OSError: no such library"} for decoder in decoders.DECODERS}
    found = decoders.check({"node-a": report}, {}, expects_decord=True)
    assert found.said == (
        "node-a: packets cannot read the clip: OSError: no such library, "
        "decord cannot read the clip: OSError: no such library"
    )


def test_decord_is_asked_itself_and_not_the_packet_plan_in_its_name(clip, monkeypatch):
    from stm.data.decode import decord_reader

    monkeypatch.setattr(decord_reader, "is_installed", lambda: False)
    report = decoders.read_everywhere(clip)
    assert "not installed" in report["decord"]["error"]
    assert decoders.check({"a": report}, {}, expects_decord=True).status == "fails"
    without = decoders.check({"a": report}, {}, expects_decord=False)
    assert (without.status, "decord is not installed" in without.said) == ("ok", True)


def test_pictures_that_differ_between_nodes_are_told(clip):
    report = decoders.read_everywhere(clip)
    other = deepcopy(report)
    other["packets"]["digest"] = "another"
    found = decoders.check({"a": report, "b": other}, {}, expects_decord=False)
    assert found.status == "warning"


# ---------------------------------------------------------------- storage


def test_a_folder_that_is_not_shared_is_caught(tmp_path, monkeypatch):
    """Each node writes into its own folder of the same name; each reads only its own file."""
    monkeypatch.setattr(storage, "_TRY_AGAIN_S", (0.0,))
    names = {"a.bin": "node-a", "b.bin": "node-b"}
    digests = {name: storage.write(str(tmp_path / name[0]), name) for name in names}
    seen = {node: storage.read(str(tmp_path / name[0]), digests) for name, node in names.items()}
    found = storage.check_files("/runs", names, {}, {}, seen)
    assert found.status == "fails"
    assert "node-a: does not see what node-b wrote" in found.said


def test_other_bytes_than_were_written_are_caught(tmp_path):
    digest = storage.write(str(tmp_path), "a.bin")
    assert storage.read(str(tmp_path), {"a.bin": digest}) == {"a.bin": ""}
    (tmp_path / "a.bin").write_bytes(b"damaged")
    seen = {"node-a": storage.read(str(tmp_path), {"a.bin": digest})}
    found = storage.check_files("/runs", {"a.bin": "node-a"}, {}, {}, seen)
    assert (found.status, "returns different bytes" in found.said) == ("fails", True)


def test_a_password_in_a_url_is_not_repeated():
    url = "s3://key:secret@host/bucket"
    found = storage.check_files(url, {}, {"node-a": f"OSError: {url} denied"}, {}, {})
    assert "secret" not in found.said


@pytest.mark.ray
def test_storage_that_can_be_used_is_left_as_it_was_found(ray_cluster, tmp_path):
    target = tmp_path / "new" / "runs"
    assert storage.check(alive(), str(target), 30.0).status == "ok"
    assert not target.exists()


@pytest.mark.ray
def test_storage_that_cannot_be_written_is_named(ray_cluster, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    found = storage.check(alive(), str(tmp_path / "file" / "runs"), 30.0)
    assert found.status == "fails"
    assert "cannot be written" in found.said
    assert "Not a directory" in found.said


# ---------------------------------------------------------------- MLflow


@pytest.mark.ray
def test_an_mlflow_that_is_dead_or_never_answers_is_told_in_time(ray_cluster):
    """One port refuses; behind the other somebody listens and says nothing."""
    here = alive()[0]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        dead = record.check(here, f"http://user:secret@127.0.0.1:{port}", 40.0)
        silent.listen()
        begun = time.monotonic()
        late = record.check(here, f"http://127.0.0.1:{port}", 2.0)
    assert dead.status == "fails"
    assert "Connection refused" in dead.said
    assert "secret" not in dead.said
    assert (late.status, time.monotonic() - begun < 10) == ("fails", True)
    assert "no answer within 2 s" in late.said


# ---------------------------------------------------------------- all-reduce


def rank_class(fault):
    """A rank that does ``fault(rank)`` before it joins; a class of a function travels by value."""

    class Faulty(collective.Rank):
        def add(self, rank, *arguments):
            fault(rank)
            return super().add(rank, *arguments)

    return Faulty


@pytest.mark.ray
def test_a_rank_that_dies_is_named(ray_cluster):
    def die(rank):
        if rank == 1:
            os._exit(1)

    found = collective.check(alive(), 2, 40.0, rank_class(die))
    assert found.status == "fails"
    assert "rank 1 on" in found.said
    assert "died" in found.said
    assert "rank 0" not in found.said


@pytest.mark.ray
@pytest.mark.slow
def test_a_rank_that_hangs_is_named_though_another_gives_up_first(ray_cluster):
    def hang(rank):
        if rank == 1:
            time.sleep(600)

    begun = time.monotonic()
    found = collective.check(alive(), 2, 15.0, rank_class(hang))
    assert time.monotonic() - begun < 30
    assert found.status == "fails"
    assert "still at: rank 1 on" in found.said
    assert "rank 0 on" not in found.said


def test_a_sum_that_is_wrong_is_a_failure():
    node = Node("1" * 8, "node-a", "10.0.0.1", 4, 0, 0, "")
    found = collective.when_raised([node], {0: "ArithmeticError: the sum is 2.0, not 3.0"}, {0: 3})
    assert found.status == "fails"
    assert "rank 0 on node-a: ArithmeticError: the sum is 2.0" in found.said


def test_ranks_go_to_gpus_or_to_every_node_that_takes_work():
    head, plain = (Node(str(i), f"n{i}", "", cpus, 0, 0, "") for i, cpus in enumerate((0, 8)))
    with_gpus = Node("2", "n2", "", 8, 2, 0, "")
    assert collective.ranks_on([head, plain], None) == ([plain, plain], False)
    assert collective.ranks_on([head, plain, with_gpus], None) == ([with_gpus, with_gpus], True)
    assert collective.ranks_on([head, plain], 3) == ([plain] * 3, False)


# ---------------------------------------------------------------- deadlines, and the whole


def test_a_call_that_never_returns_is_given_up():
    release = threading.Event()
    with pytest.raises(Late, match=r"within 0\.1 s"):
        within(0.1, release.wait)
    release.set()
    assert within(5.0, lambda: 7) == 7


def test_a_check_that_hangs_or_raises_is_a_finding_and_the_others_are_told(monkeypatch):
    from stm.doctor import examine as module

    monkeypatch.setattr(module, "_GRACE_S", 0.1)
    release = threading.Event()
    found = side_by_side(
        {"hangs": release.wait, "raises": lambda: 1 / 0, "fine": lambda: ok("fine", "")}, 0.2
    )
    release.set()
    assert [found[name].status for name in ("hangs", "raises", "fine")] == ["fails", "fails", "ok"]
    assert "no answer within" in found["hangs"].said
    assert "ZeroDivisionError" in found["raises"].said


@pytest.mark.ray
def test_a_node_that_dies_or_hangs_in_a_check_is_missing_with_the_reason(ray_cluster):
    (here,) = alive()
    hung = on_each([here], lambda: time.sleep(600), deadline_s=1.0)[here.name]
    died = on_each([here], lambda: os._exit(1), deadline_s=20.0)[here.name]
    assert hung == Missing("no answer within 1 s")
    assert isinstance(died, Missing)
    assert "died" in died.reason or "crashed" in died.reason.lower()


def test_a_cluster_that_is_not_there_is_a_finding_and_this_machine_is_looked_at(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        found = examine(Settings(address=address, storage="runs", deadline_s=20.0))
    assert time.monotonic() - begun < 10
    assert found[0].status == "fails"
    assert "nothing listens" in found[0].said
    assert {finding.check for finding in found[1:]} >= {"python", "libraries", "disk"}


@pytest.mark.ray
def test_a_sound_machine_passes_every_check(ray_cluster, tmp_path):
    found = examine(Settings(storage=str(tmp_path / "runs"), tracking="none", workers=2))
    assert {f.check: f.said for f in found if f.status == "fails"} == {}
    assert [f.check for f in found] == [
        "cluster", "python", "libraries", "code", "decoders", "gpu", "all-reduce", "storage", "mlflow",
        "shared memory", "disk", "open files", "clocks", "cpus",
    ]  # fmt: skip
    assert connect(Settings()).status == "ok"
