"""The networks are measured side by side, and are what they are called; no test looks at a time."""

from __future__ import annotations

import json

import pytest
import torch

from pipelines import cli
from stm import repository
from stm.bench import model as bench
from stm.bench import steps
from stm.model import build_model, count_operations
from stm.model.folding import fold
from stm.model.inputs import Autocast
from stm.model.packed import can_pack
from tests.model import reference
from tests.tools.naive import NaiveCMM, NaiveTemporalConv
from tests.tools.script import Script

TINY = {"depth": 26, "num_frames": 2, "batch_size": 2, "size": 32, "width": 16, "matrix_size": 64}
ALWAYS = {(network, mode) for network in bench.NETWORKS for mode in bench.MODES}
PACKED = {(network, "packed") for network in bench.NETWORKS if network != "naive"}
IN_FLOAT32 = ALWAYS | PACKED if can_pack() else ALWAYS


def test_the_naive_layout_is_the_same_function_with_the_same_gradients():
    settings = {"depth": 26, "num_classes": 5, "width": 16}
    ours, naive = bench.build("stm", **settings), bench.build("naive", **settings)
    reference.randomise(ours)
    naive.load_state_dict(ours.state_dict())
    clips = torch.randn(2, 4, 3, 32, 32)
    logits = [network.eval()(clips) for network in (ours, naive)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    for one in logits:
        one.square().sum().backward()
    mine, theirs = (network.layer1[0].temporal.weight.grad for network in (ours, naive))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    for network, is_naive in ((ours, False), (naive, True), (fold(naive).network, True)):
        block = network.layer1[0]
        assert isinstance(block.temporal, NaiveTemporalConv) == is_naive
        assert isinstance(block.cmm, NaiveCMM) == is_naive
        seen = []
        block.conv2.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        network(clips)
        assert seen[0].is_contiguous(memory_format=torch.channels_last) != is_naive


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_network_is_measured_in_every_mode(precision):
    rounds = []
    result = bench.measure(
        torch.device("cpu"), **TINY, precision=precision, rounds=2, tick=lambda *n: rounds.append(n)
    )
    every = IN_FLOAT32 if precision == "float32" else ALWAYS
    assert {(row["network"], row["mode"]) for row in result["rows"]} == every
    assert rounds == [(1, 2), (2, 2)]
    for row in result["rows"]:
        least, most = row["spread_ms"]
        assert 0 < least <= row["ms"] <= most
        assert row["clips_per_s"] == pytest.approx(2000 / row["ms"], rel=1e-2)
        assert row["peak_mb"] is None
        for base in ("tsn", "naive"):
            assert (row[f"times_{base}"] == 1) or row["network"] != base
        assert row["times_script"] is None
    assert result["matrix_product"]["size"] == 64


def test_operations_are_those_of_convolutions_and_fc_and_thrice_that_in_training():
    settings = {name: TINY[name] for name in ("depth", "num_frames", "batch_size", "size", "width")}
    gflop = {
        (c.network, c.mode): c.gflop
        for c in bench.contenders(torch.device("cpu"), **settings, precision="float32")
    }
    stm = fold(build_model("stm", 26, 174, width=16))
    assert gflop["stm", "folded"] == pytest.approx(2e-9 * 2 * count_operations(stm, 2, 32))
    assert gflop["stm", "inference"] == gflop["stm", "folded"] == gflop["naive", "folded"]
    assert gflop["stm", "train"] == 3 * gflop["stm", "folded"]
    assert gflop["tsn", "train"] == gflop["tsm", "train"] < gflop["cstm", "train"]


def test_a_training_step_trains_and_the_others_change_nothing():
    clips = torch.randn(2, 2, 3, 32, 32)
    model = build_model("stm", 26, 174, width=16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    for make_step in (steps._inference, steps._training):
        step, _ = make_step(model, clips, Autocast("cpu", None), False)
        step()
        changed = {
            name for name, weight in model.state_dict().items() if (weight != before[name]).any()
        }
        assert bool(changed) == (make_step is steps._training)
    assert {"conv1.weight", "fc.bias", "layer1.0.cmm.bn.running_mean"} <= changed


@pytest.mark.long
def test_the_naive_network_also_runs_as_a_script_of_its_own():
    result = bench.measure(torch.device("cpu"), **TINY, rounds=2, script=True)
    rows = {(row["network"], row["mode"]): row for row in result["rows"]}
    assert {mode for network, mode in rows if network == "script"} == {"train", "inference"}
    for mode, base in (("train", "train"), ("inference", "inference"), ("folded", "inference")):
        row, script = rows["stm", mode], rows["script", base]
        assert row["times_script"] > 0
        assert script["times_script"] == 1
        assert script["gflop_per_s"] > 0


def test_a_script_that_dies_is_an_error_and_none_outlives_its_measurement():
    settings = {name: value for name, value in TINY.items() if name != "matrix_size"}
    with Script("inference", threads=1, precision="float32", **settings) as script:
        script.step()
        process = script._process
        assert process.poll() is None
        process.kill()
        process.wait()
        with pytest.raises(RuntimeError, match="process ended"):
            script.step()
    with Script("train", threads=1, precision="float32", **settings) as script:
        process = script._process
    assert process.poll() is not None


def test_a_failure_leaves_the_process_with_the_threads_it_had():
    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        bench.measure(torch.device("cpu"), **TINY, precision="int4", threads=before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.long
def test_the_command_prints_a_table_or_one_object_and_draws_a_figure(capfd, tmp_path):
    arguments = ["bench", "model", "--device", "cpu", "--depth", "26", "--num_segments", "2"]
    arguments += ["--size", "32", "--batch_size", "1", "--repetitions", "1", "--threads", "1"]
    assert cli.main([*arguments, "--json", "--output", str(tmp_path)]) == 0
    result = json.loads(capfd.readouterr().out)
    assert {(row["network"], row["mode"]) for row in result["rows"]} == IN_FLOAT32
    assert result["threads"] == 1
    assert result["sum"].startswith("STM takes ")
    assert (tmp_path / "model.png").stat().st_size > 3000

    assert cli.main([*arguments, "--ablations", "false", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert {row["network"] for row in rows} == set(bench.ESSENTIAL)

    assert cli.main(arguments) == 0
    table = [line.split()[:2] for line in capfd.readouterr().out.splitlines()]
    assert all([network, mode] in table for network, mode in IN_FLOAT32)


@pytest.mark.long
def test_in_onnx_runtime_the_answers_are_those_of_the_folded_network():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model = build_model("stm", 26, 5, width=16).eval()
    reference.randomise(model)
    clips = torch.randn(2, 2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(bench.in_onnx_runtime(model, clips)(), fold(model)(clips))


def test_without_the_repository_the_naive_network_is_left_out_and_that_is_said(
    monkeypatch, tmp_path, capfd
):
    monkeypatch.setattr(repository, "ROOT", tmp_path)
    arguments = ["bench", "model", "--device", "cpu", "--depth", "26", "--num_segments", "2"]
    arguments += ["--size", "32", "--batch_size", "1", "--repetitions", "1", "--threads", "1"]
    arguments += ["--ablations", "false"]
    assert cli.main(arguments) == 0
    told = capfd.readouterr().out
    assert "needs stm's repository" in told
    rows = [line.split() for line in told.splitlines() if line.startswith("  ")]
    assert {row[0] for row in rows if row[1] == "folded"} == {"stm", "tsn"}
    assert cli.main([*arguments, "--script", "true"]) == 2
    assert "--script true needs stm's repository" in capfd.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(capfd):
    assert cli.main(["bench", "model", "--device", "cuda"]) == 2
    assert "PyTorch sees no GPU here" in capfd.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_memory_is_measured_and_training_needs_more():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    result = bench.measure(torch.device("cuda"), **TINY, rounds=1)
    peak = {(row["network"], row["mode"]): row["peak_mb"] for row in result["rows"]}
    assert all(peak["stm", "train"] > peak["stm", mode] > 0 for mode in ("inference", "folded"))
