"""A plan: worked by hand, never faster for less, and refused where a rate was not measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cli
from stm.data.manifest import SCHEMA, Manifest
from stm.errors import UserError
from stm.planning.cost import Job, cost, steps, with_interruptions
from stm.planning.model import (
    Assumptions,
    all_reduce_s,
    cpu_nodes_needed,
    decode_cores_per_gpu,
    slowest_of,
    speed,
)
from stm.planning.originals import estimate
from stm.planning.prices import SAMPLE, NodeType, read_prices
from stm.planning.rates import Rates, read_rates

RATES = Rates(
    decode_clips_per_s_core=50.0,
    train_clips_per_s_gpu=400.0,
    batch_size=8,
    num_segments=8,
    size=224,
)
ASSUMED = Assumptions(network_share=0.8, jitter=0.0)
GPU = NodeType(
    name="gpu",
    on_demand=5.0,
    spot=2.0,
    interruptions_per_hour=0.1,
    cpus=20,
    gpus=4,
    network_gbit_s=10,  # x 0.8 = 1 GB/s
    gpu_link_gbyte_s=10,
)
CPU = NodeType(name="cpu", on_demand=1.0, spot=0.25, cpus=16, network_gbit_s=10)
GRADIENTS = 100e6


# ---------------------------------------------------------------- by hand


def test_a_gpu_of_400_clips_a_second_takes_10_cores_of_50_with_the_headroom():
    # 1.2 x 400 / 50
    assert decode_cores_per_gpu(RATES, 1.2) == pytest.approx(9.6)
    assert decode_cores_per_gpu(RATES, 1.2, core_speed=2.0) == pytest.approx(4.8)


def test_cpu_nodes_decode_what_the_gpu_nodes_do_not():
    # 4 GPUs ask for 1.2 x 1600 = 1920; 20 - 4 CPUs of their node give 800; a CPU node gives 800: 1.4 of them
    assert cpu_nodes_needed(4, GPU, CPU, RATES, ASSUMED) == 2
    assert cpu_nodes_needed(20, GPU, CPU, RATES, ASSUMED) == 7  # exactly 5 x 1.4
    assert cpu_nodes_needed(1, GPU, CPU, RATES, ASSUMED) == 0  # 480 of the node's own 950


def test_the_ring_moves_each_gradient_nearly_twice_over_the_narrowest_link():
    # within a node 2 x 3/4 x 100 MB at 10 GB/s and 6 hops; between nodes 2 x 7/8 x 100 MB at 1 GB/s and 14 hops
    assert all_reduce_s(1, GPU, GRADIENTS, ASSUMED) == 0.0
    assert all_reduce_s(4, GPU, GRADIENTS, ASSUMED) == pytest.approx(0.015 + 120e-6)
    assert all_reduce_s(8, GPU, GRADIENTS, ASSUMED) == pytest.approx(0.175 + 280e-6)


def test_the_step_is_compute_and_what_of_the_all_reduce_is_not_hidden():
    one = speed(1, GPU, CPU, RATES, GRADIENTS, ASSUMED)
    assert (one.step_s, one.efficiency, one.limit) == (0.02, 1.0, "gpu")
    # 20 ms of which half hide 10 of the 15.12 ms
    four = speed(4, replace(GPU, network_gbit_s=100), CPU, RATES, GRADIENTS, ASSUMED)
    assert four.step_s == pytest.approx(0.02512)
    assert four.clips_per_s == pytest.approx(32 / 0.02512)
    assert four.limit == "all-reduce"


def test_clips_and_gradients_share_a_nodes_network():
    """2 nodes, 8 GPUs: 1920 clips/s are missing for 2 x 1920 asked for, which the nodes' 1600 leave: 3 CPU nodes."""
    free = replace(ASSUMED, overlap=1.0)  # nothing of it costs compute
    fast_card = replace(GPU, gpu_link_gbyte_s=1000)
    point = speed(8, fast_card, replace(CPU, network_gbit_s=1000), RATES, 0.0, free)
    assert point.cpu_nodes == 3  # (3840 - 1600) / 800 = 2.8
    # 32 clips of 1.204224 MB a step into each node, of which its own 800 of 4000 clips/s come from inside
    assert point.step_s == pytest.approx(32 * 1.204224e6 * (1 - 800 / 4000) / 1e9)
    assert point.limit == "network"
    assert point.network_mb_s == pytest.approx(1000.0)
    # and the ring's 2 x 7/8 x 8 MB on top
    more = speed(8, fast_card, replace(CPU, network_gbit_s=1000), RATES, 8e6, free)
    assert more.step_s == pytest.approx(point.step_s + 14e6 / 1e9)


def test_too_few_cpu_nodes_bound_the_speed_by_what_they_decode():
    point = speed(8, replace(GPU, network_gbit_s=1000), CPU, RATES, 0.0, ASSUMED, cpu_nodes=0)
    assert point.clips_per_s == pytest.approx(2 * 16 * 50)
    assert point.limit == "decode"


def test_what_the_streams_deal_out_bounds_the_speed():
    # 8 GPUs share a stream of 2000 clips/s and ask for 3200; nothing else is scarce
    plenty = {"network_gbit_s": 4000.0, "gpu_link_gbyte_s": 1000.0}
    gpu, cpu = replace(GPU, **plenty), replace(CPU, network_gbit_s=4000.0)
    slow = replace(ASSUMED, stream_clips_per_s=2000.0, hop_us=0.0)
    eight = speed(8, gpu, cpu, RATES, 0.0, slow)
    assert (eight.limit, eight.clips_per_s) == ("streams", pytest.approx(2000))
    assert speed(16, gpu, cpu, RATES, 0.0, slow).clips_per_s == pytest.approx(4000)
    assert speed(8, gpu, cpu, RATES, 0.0, replace(slow, stream_clips_per_s=4000.0)).limit == "gpu"
    measured = replace(RATES, stream_clips_per_s=1000.0)  # wins over what is assumed
    assert speed(8, gpu, cpu, measured, 0.0, slow).clips_per_s == pytest.approx(1000)


def test_videos_are_to_be_prepared_where_sizes_and_key_frames_say_so():
    def of(width, height, num_frames, interval):
        columns = ([each] * 3 for each in (width, height, num_frames, interval))
        return estimate(8, *map(np.array, columns))

    large = of(1280, 720, 300, 250)
    # all 300 frames of 0.92 megapixels; prepared 8 x 8.5 of them of 455x256
    assert large.ms == pytest.approx(300 * 0.9216 * 2.4)
    assert large.prepared_ms == pytest.approx(68 * 0.9216 * (256 / 720) ** 2 * 2.4)
    assert large.should_be_prepared
    assert large.said(400.0).endswith("266 cores for one GPU, or 8")
    ready = of(340, 256, 300, 16)
    assert ready.ms == ready.prepared_ms
    assert not ready.should_be_prepared
    assert of(340, 256, 300, 0).ms == of(340, 256, 300, 300).ms  # unknown key frames


def test_a_step_waits_for_the_slowest_of_its_ranks():
    jittery = replace(ASSUMED, jitter=0.1)
    point = speed(4, replace(GPU, network_gbit_s=100), CPU, RATES, 0.0, jittery)
    # the largest of 4 standard normal draws is 1.0294 on average; Blom's approximation says 1.049
    assert point.step_s == pytest.approx(0.02 * 1.103, rel=0.003)
    draws = np.random.default_rng(0).standard_normal((20_000, 64)).max(axis=1).mean()
    assert slowest_of(64) == pytest.approx(draws, rel=0.01)
    assert slowest_of(1) == 0.0


def test_money_is_hours_times_the_nodes_that_are_paid_for():
    point = speed(8, GPU, CPU, RATES, 0.0, ASSUMED)
    job = Job(num_videos=64_000, epochs=9, start_s=360.0, restart_s=120.0)
    head = NodeType(name="head", on_demand=0.5, cpus=2, network_gbit_s=1)
    paid = cost(point, job, 8, GPU, CPU, head)
    assert steps(job, 64) == 9000
    assert paid.hours == pytest.approx(0.1 + 9000 * point.step_s / 3600)
    assert paid.on_demand == pytest.approx(paid.hours * (2 * 5 + 3 * 1 + 0.5))
    assert paid.interruptions == pytest.approx(paid.spot_hours * 2 * 0.1)
    assert paid.spot == pytest.approx(paid.spot_hours * (2 * 2 + 3 * 0.25 + 0.5))


def test_the_last_batch_of_an_epoch_is_a_whole_step():
    assert steps(Job(num_videos=65, epochs=2), 64) == 4


def test_interruptions_once_an_hour_cost_an_eighth():
    # exp(120/3600) x 3600 x (exp(600/3600) - 1) / 600
    expected = 36_000 * math.exp(1 / 30) * 6 * (math.exp(1 / 6) - 1)
    assert with_interruptions(36_000, 1 / 3600, 600, 120) == pytest.approx(expected)
    assert expected / 36_000 == pytest.approx(1.125, abs=0.001)
    assert with_interruptions(36_000, 0.0, 600, 120) == 36_000
    assert with_interruptions(36_000, 1.0, 600, 120) == math.inf  # no checkpoint is ever reached


def test_the_expected_time_with_interruptions_is_what_a_simulation_finds():
    generator = np.random.default_rng(0)
    mean_s, checkpoint_s, restart_s, pieces = 1800.0, 600.0, 120.0, 40_000
    total = 0.0
    for _ in range(pieces):
        needed = checkpoint_s
        while True:
            until_cut = generator.exponential(mean_s)
            if until_cut >= needed:
                total += needed
                break
            total += until_cut
            needed = checkpoint_s
            while (cut := generator.exponential(mean_s)) < restart_s:  # the restart is cut as well
                total += cut
            total += restart_s
    simulated = total / (pieces * checkpoint_s)
    said = with_interruptions(checkpoint_s, 1 / mean_s, checkpoint_s, restart_s) / checkpoint_s
    assert said == pytest.approx(simulated, rel=0.02)


# ---------------------------------------------------------------- whatever the numbers

rates = st.builds(
    lambda decode, train, k: replace(
        RATES, decode_clips_per_s_core=decode, train_clips_per_s_gpu=train, batch_size=k
    ),
    st.floats(5, 500),
    st.floats(20, 800),  # with the batch: a step takes at least 10 ms
    st.integers(8, 64),
)
gpu_nodes = st.builds(
    lambda cpus, gpus, network, link: replace(
        GPU, cpus=cpus, gpus=gpus, network_gbit_s=network, gpu_link_gbyte_s=link
    ),
    st.integers(0, 128),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(1, 400),
    st.floats(1, 500),
)
gradients = st.floats(0, 500e6)


@given(rates, gpu_nodes, gradients, st.integers(2, 63))
def test_from_two_nodes_on_a_further_node_never_costs_hours(rate, node, bytes_, num_nodes):
    fewer, more = (
        speed(n * node.gpus, node, CPU, rate, bytes_, Assumptions())
        for n in (num_nodes, num_nodes + 1)
    )
    assert more.clips_per_s >= fewer.clips_per_s * (1 - 1e-9)


@given(rates, gpu_nodes, gradients, st.integers(1, 256))
def test_no_number_of_gpus_is_faster_than_as_many_alone(rate, node, bytes_, gpus):
    point = speed(gpus, node, CPU, rate, bytes_, Assumptions())
    assert 0 < point.efficiency <= 1
    assert point.clips_per_s == pytest.approx(
        point.efficiency * gpus * rate.train_clips_per_s_gpu, rel=1e-6
    )


@given(rates, gpu_nodes, gradients, st.integers(1, 256), st.floats(1, 10))
def test_a_faster_network_and_faster_cores_never_slow_a_step(rate, node, bytes_, gpus, times):
    before = speed(gpus, node, CPU, rate, bytes_, Assumptions(), cpu_nodes=8)
    wider = replace(
        node,
        network_gbit_s=node.network_gbit_s * times,
        gpu_link_gbyte_s=node.gpu_link_gbyte_s * times,
    )
    after = speed(
        gpus,
        wider,
        replace(CPU, network_gbit_s=CPU.network_gbit_s * times),
        rate,
        bytes_,
        Assumptions(),
        cpu_nodes=8,
    )
    assert after.step_s <= before.step_s * (1 + 1e-9)


@given(st.floats(1, 1e6), st.floats(0, 1e-3), st.floats(1, 7200), st.floats(0, 3600))
def test_interruptions_never_save_time(work_s, per_s, checkpoint_s, restart_s):
    assert with_interruptions(work_s, per_s, checkpoint_s, restart_s) >= work_s * (1 - 1e-9)


# ---------------------------------------------------------------- where the rates come from


def bench_files(tmp_path, **changes):
    """What `stm bench data` and `stm bench model` print, as far as a plan reads it."""
    about = {"machine": "a machine", "date": "2026-11-22"}
    files = {
        "decode": {"what": "decode", "clips_per_s_core": {"packets": 81.0}, **about},
        "data": {
            "what": "data",
            "cores": 2,
            "clips_per_s": {"stream": 113.0},
            "clip_mb": 1.204,
            **about,
        },
        "model": {
            "what": "model",
            "device": "a GPU",
            "num_frames": 8,
            "size": 224,
            "batch_size": 16,
            "rows": [
                {"network": "tsn", "mode": "train", "clips_per_s": 999.0},
                {"network": "stm", "mode": "inference", "clips_per_s": 888.0},
                {"network": "stm", "mode": "train", "clips_per_s": 400.0},
            ],
            **about,
        },
    }
    for name, change in changes.items():
        files[name].update(change)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return lambda *names: [str(tmp_path / f"{name}.json") for name in names]


def test_rates_are_read_from_bench_files_and_name_them(tmp_path):
    files = bench_files(tmp_path)
    found = read_rates(files("decode", "model", "data"))
    assert (
        found.decode_clips_per_s_core == 56.5
    )  # the stream's rate counts: it includes what Ray Data costs
    assert (found.train_clips_per_s_gpu, found.batch_size) == (400.0, 16)
    assert found.clip_bytes == 8 * 224 * 224 * 3
    assert all("a machine, 2026-11-22" in source for source in found.sources.values())
    assert read_rates(files("decode", "model")).decode_clips_per_s_core == 81.0
    given_one = read_rates(files("data", "model"), decode=10.0)
    assert given_one.decode_clips_per_s_core == 10.0
    assert given_one.sources["decode"] == "given on the command line"


def test_what_bench_really_prints_is_understood(tmp_path):
    """The names that a plan reads are those that `stm.bench` writes."""
    import inspect

    from stm.bench import data, decode, model

    for module, names in (
        (decode, ["clips_per_s_core"]),
        (data, ["clips_per_s", "stream", "cores", "clip_mb"]),
        (model, ["rows", "network", "mode", "clips_per_s", "num_frames", "batch_size", "device"]),
    ):
        source = inspect.getsource(module)
        assert [name for name in names if f'"{name}"' not in source] == []


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["model"], {}, "stm bench data"),
        (["data"], {}, "stm bench model --device cuda"),
        (["data"], {"train": 400.0}, "--batch_size is not set"),
        (["data", "model"], {"num_segments": 16}, "was measured with 8"),
        (["data", "model"], {"decode": 0.0}, "must be above 0"),
        (
            ["data"],
            {"train": 4.0, "batch_size": 8, "num_segments": 16},
            "the training's are 2.408 MB",
        ),
        (["missing"], {}, "No such file"),
    ],
)
def test_a_plan_without_a_measured_rate_is_refused_with_the_command(tmp_path, names, options, said):
    with pytest.raises(UserError, match=said):
        read_rates(bench_files(tmp_path)(*names), **options)


def test_a_rate_of_a_cpu_is_not_taken_for_a_gpus(tmp_path):
    files = bench_files(tmp_path, model={"device": "cpu"})
    with pytest.raises(UserError, match="measured on a CPU"):
        read_rates(files("data", "model"))


# ---------------------------------------------------------------- prices


def test_the_sample_of_prices_can_be_read_and_says_that_it_is_made_up():
    prices = read_prices(str(SAMPLE))
    assert prices["gpu"].gpus == 4
    assert "made-up" in prices.source


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("spot: 1.80", "spott: 1.80"), "nodes.gpu.spott: unknown"),
        (("on_demand: 0.72", "on_demand: dear"), "nodes.cpu.on_demand 'dear': must be a number"),
        (("gpu_link_gbyte_s: 12", "spot: 1"), "gpu_link_gbyte_s is missing: the node has 4 GPUs"),
        (("network_gbit_s: 10", "network_gbit_s: 0"), "network_gbit_s is missing or 0"),
        (("currency: USD", ""), "no `currency`"),
    ],
)
def test_a_wrong_field_of_the_prices_is_named(tmp_path, change, said):
    path = tmp_path / "prices.yaml"
    path.write_text(SAMPLE.read_text().replace(*change))
    with pytest.raises(UserError, match=said):
        read_prices(str(path))


def test_the_plan_of_a_manifest_says_to_prepare_it_first(tmp_path, capfd):
    row = dict.fromkeys(SCHEMA.names, "") | {"label": 0, "fps": 25.0, "num_frames": 300}
    row |= {"width": 1280, "height": 720, "keyframe_interval": 250, "status": "ok"}
    rows = [{**row, "video_id": name, "path": f"/v/{name}.mp4"} for name in "abc"]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    Manifest(table=table, classes=("a",), dataset="", flip=True).write(tmp_path / "m.parquet")
    (tmp_path / "scale.json").write_text(
        json.dumps({"what": "scale", "rows": [{"ceiling_clips_per_s": 900, "streams": 2}]})
    )
    rates = ["--decode_clips_per_s_core", "2", "--train_clips_per_s_gpu", "400", "--batch_size=8"]
    more = ["--prices", "sample", "--epochs", "1", "--bench", str(tmp_path / "scale.json")]
    arguments = ["plan", "--manifest", str(tmp_path / "m.parquet"), *rates, *more]
    assert cli.main(arguments) == 0
    said = capfd.readouterr().out
    assert "266 cores for one GPU, or 8; prepare them first: `stm prepare`" in said
    assert "deals out at most 450 clips/s, as measured" in said
