"""The spaces of a sweep file: what they mean, and that what is wrong is named with line and field."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from ray.tune.tune import _setup_signal_catching

from stm import cluster
from stm.errors import UserError
from stm.tune import reading, results
from stm.tune import sweep as sweep_module
from stm.tune.placement import share
from stm.tune.space import parse_domain, proposals

SWEEP = """\
base:
  recipe: something-v2-t8
  optim: {lr: 1e-3}
space:
  optim.lr: loguniform(1e-4, 1e-1)
  data.num_segments: choice(4, 8, 16)
  model.variant: choice(stm, tsm)
  model.stages: choice([2, 3], [4])
num_trials: 6
scheduler: {name: asha, grace_epochs: 2}
budget: {clips: 1000}
"""


def drawn(**changes):
    return {
        "optim.lr": 0.01,
        "data.num_segments": 4,
        "model.variant": "tsm",
        "model.stages": "[2, 3]",
        **changes,
    }


def test_a_sweep_is_read_whole_and_its_recipe_is_changed_where_it_says_so():
    sweep = reading.parse_sweep(SWEEP)
    assert sweep.base.optim.lr == 1e-3, "YAML 1.1 takes 1e-3 for a word"
    assert sweep.base.optim.milestones == [0.6, 0.8, 0.9]
    assert sweep.scheduler.grace_epochs == 2
    assert (sweep.epochs(num_videos=300), sweep.epochs(num_videos=5000)) == (4, 1)
    config = sweep.config_of(drawn(), epochs=4)
    assert config.optim.lr == 0.01
    assert config.data.num_segments == 4
    assert config.model.variant == "tsm"
    assert config.model.stages == [2, 3]
    assert config.optim.epochs == 4


def test_each_trial_has_settings_of_its_own():
    sweep = reading.parse_sweep(SWEEP)
    configs = [
        sweep.config_of(drawn(**{"optim.lr": lr, "data.num_segments": segments}), 4)
        for lr in (0.1, 0.2)
        for segments in (4, 8)
    ]
    assert len({(c.optim.lr, c.data.num_segments) for c in configs}) == 4
    assert sweep.base.optim.lr == 1e-3, "the base stays as it is"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim.lr: log", "optim.lrr: log", r"x.yaml:5: space.optim.lrr: .*did you mean optim.lr"),
        ("choice(4, 8, 16)", "choice(4, eight)", r"x.yaml:6: space.data.num_segments: .*eight"),
        ("choice(4, 8, 16)", "choice(0, 8)", r"x.yaml:6: .*must be at least 1"),
        ("choice(4, 8, 16)", "choice()", r"x.yaml:6: .*is empty"),
        ("choice(4, 8, 16)", "choice(4, 4)", r"x.yaml:6: .*twice"),
        ("choice(4, 8, 16)", "uniform(4, 8)", r"x.yaml:6: .*Expected a <class 'int'>"),
        ("choice(4, 8, 16)", "[4, 8]", r"x.yaml:6: .*is a value, not a space"),
        ("choice(4, 8, 16)", "__import__('os').system('true')", r"x.yaml:6: .*is no space"),
        ("choice(4, 8, 16)", "choice(open('x'))", r"x.yaml:6: .*neither a number"),
        ("choice(4, 8, 16)", "sometimes(4)", r"x.yaml:6: .*there is no sometimes"),
        ("loguniform(1e-4, 1e-1)", "loguniform(0, 1)", r"x.yaml:5: .*above 0"),
        ("loguniform(1e-4, 1e-1)", "uniform(2, 1)", r"x.yaml:5: .*is empty: 2 is not below 1"),
        ("loguniform(1e-4, 1e-1)", "uniform(-1, 1)", r"x.yaml:5: .*must be above 0"),
        ("choice(stm, tsm)", "choice(stm, tsx)", r"x.yaml:7: .*tsx"),
        ("optim.lr: log", "optim.epochs: log", r"x.yaml:5: .*the budget sets it"),
        ("num_trials: 6", "num_trails: 6", r"x.yaml:9: num_trails: .*did you mean num_trials"),
        ("num_trials: 6", "num_trials: 0", r"x.yaml:9: num_trials: 0: must be at least 1"),
        ("num_trials: 6", "num_trials: six", r"x.yaml:9: num_trials: 'six': must be an int, not a"),
        ("num_trials: 6", "num_trials: true", r"x.yaml:9: num_trials: True: must be an int"),
        ("num_trials: 6", "num_trials: null", r"x.yaml:9: num_trials: None: must be an int"),
        ("num_trials: 6", "seed: -1", r"x.yaml:9: seed: -1: must be in \[0, 4294967295\]"),
        ("num_trials: 6", "max_concurrent: 0", r"max_concurrent: 0: must be at least 1, or null"),
        ("num_trials: 6", "max_failures: 1.5", r"max_failures: 1.5: must be an int, not a float"),
        ("num_trials: 6", "metric: top1", r"x.yaml:9: metric: 'top1': must be one of val_top1, "),
        (
            "num_trials: 6",
            "name: a/b",
            r"x.yaml:9: name: 'a/b': must be a directory name: no slashes",
        ),
        ("num_trials: 6", "name: 5", r"x.yaml:9: name: 5: must be a str, not an int"),
        ("num_trials: 6", "searcher: grid", r"a grid needs .*as grid\(0.0001, 0.1\)"),
        ("num_trials: 6", "searcher: gird", r"x.yaml:9: searcher: 'gird'"),
        (
            "name: asha",
            "name: asho",
            r"x.yaml:10: scheduler.name: 'asho': must be one of fifo, asha",
        ),
        ("name: asha", "name: pbt", r"space.data.num_segments: pbt changes settings during"),
        ("grace_epochs: 2", "grace_epochs: 0", r"x.yaml:10: scheduler.grace_epochs: 0: must be at"),
        ("grace_epochs: 2", "reduction_factor: 1", r"x.yaml:10: .*_factor: 1: must be at least 2"),
        ("clips: 1000", "clips: many", r"x.yaml:11: budget.clips: 'many': must be an int or null"),
        ("grace_epochs: 2", "grace: 2", r"x.yaml:10: scheduler.grace: there is no such"),
        ("clips: 1000", "clips: 1000, epochs: 2", r"x.yaml:11: budget: .*not both"),
        ("something-v2-t8", "something-v3", r"x.yaml:1: base: .*did you mean something-v"),
        ("lr: 1e-3", "lr: -1", r"x.yaml:1: base: --optim.lr -1"),
        ("lr: 1e-3", "rate: 1", r"x.yaml:1: base: .*rate"),
        ("budget:", "seed: {", r"x.yaml:\d+: no YAML"),
        ("num_trials: 6", "budget: {epochs: 1}", r"x.yaml:11: budget: is given twice"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_named_with_line_and_field(old, new, message):
    assert old in SWEEP
    with pytest.raises(UserError, match=message):
        reading.parse_sweep(SWEEP.replace(old, new), where="x.yaml")


PROPOSED = [
    ("optim.lr", [0.1, 0.01], "choice(0.1, 0.01)"),
    ("optim.lr", {"min": 0.01, "max": 0.1}, "uniform(0.01, 0.1)"),
    ("optim.lr", {"low": "1e-4", "high": 0.1, "log": True}, "loguniform(0.0001, 0.1)"),
    ("optim.lr", {"min": 0.1, "max": 0.5, "step": 0.1}, "quniform(0.1, 0.5, 0.1)"),
    ("optim.lr", {"values": [0.1, 0.2]}, "choice(0.1, 0.2)"),
    ("optim.lr", 0.1, "choice(0.1)"),
    ("optim.lr", "1e-3", "choice(0.001)"),
    ("optim.lr", None, "choice(0.01)"),
    ("optim.lr", {}, "choice(0.01)"),
    ("optim.lr", "uniform(0.2, 0.1)", "uniform(0.1, 0.2)"),
    ("optim.lr", "uniform(0.1, 0.5, 0.9)", "uniform(0.1, 0.9)"),
    ("optim.lr", "uniform(low=0.1, high=0.2)", "uniform(0.1, 0.2)"),
    ("optim.lr", "lognormal(0.1, 1)", "loguniform(0.1, 1)"),
    ("optim.lr", "loguniform(0, 1)", "loguniform(0.001, 1)"),
    ("optim.lr", "choice(0.1, 0.1)", "choice(0.1)"),
    ("data.num_segments", {"min": 4, "max": 16}, "randint(4, 17)"),
    ("data.num_segments", "uniform(4, 8)", "randint(4, 9)"),
    ("model.variant", "stm, tsm", "choice(stm, tsm)"),
    ("model.stages", [2, 3], "choice([2, 3])"),
    ("model.stages", [[2, 3], [4]], "choice([2, 3], [4])"),
    ("train.compile", [True, False], "choice(true, false)"),
    ("model.pretrained", "weights/a.pth", "choice('weights/a.pth')"),
    ("model.pretrained", "choice(a/b.pth, /c/d-1.pth)", "choice('a/b.pth', '/c/d-1.pth')"),
    ("model.pretrained", "choice(s3://a/b.pth, null)", "choice('s3://a/b.pth', null)"),
]


def space_of(name, expression):
    base = {"data": {"train": "a.parquet", "val": "b.parquet"}}
    return reading.parse_sweep(yaml.safe_dump({"base": base, "space": {name: expression}})).space


@pytest.mark.parametrize(("name", "expression", "proposal"), PROPOSED)
def test_a_refusal_proposes_what_is_accepted(name, expression, proposal):
    with pytest.raises(UserError) as refused:
        space_of(name, expression)
    assert str(refused.value).endswith(f"; write {proposal}, for example")
    assert space_of(name, proposal)[name].written == proposal


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["min", "max", "step", "values", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(_ANYTHING)
@example(math.inf)
@example([math.inf, 1])
def test_whatever_is_refused_its_proposals_can_be_written(expression):
    """The last is what the setting is now."""
    domains = list(proposals(expression, 0.01))
    assert domains[-1].written == "choice(0.01)"
    for domain in domains:
        assert parse_domain(domain.written) == domain


def test_the_base_is_looked_for_beside_the_sweep_first(tmp_path, monkeypatch):
    """A recipe of the same name, and a file where the command is typed, come after it."""
    (tmp_path / "sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    data = "data: {train: a, val: b}\n"
    (tmp_path / "sweeps" / "base.yaml").write_text(data + "optim: {lr: 0.5}")
    (tmp_path / "base.yaml").write_text(data + "optim: {lr: 0.25}")
    (tmp_path / "only-here.yaml").write_text(data + "optim: {lr: 0.125}")
    sweep = tmp_path / "sweeps" / "sweep.yaml"
    for base, lr in [
        ("base.yaml", 0.5),
        (str(tmp_path / "base.yaml"), 0.25),
        ("only-here.yaml", 0.125),
        ("something-v2-t8", 0.01),
    ]:
        sweep.write_text(f"base: {base}\nspace: {{optim.momentum: choice(0.5)}}")
        assert reading.read_sweep(sweep).base.optim.lr == lr


@pytest.mark.parametrize("missing", ["base", "space"])
def test_a_sweep_without_its_parts_is_refused(missing):
    values = yaml.safe_load(SWEEP)
    del values[missing]
    with pytest.raises(UserError, match=f"'{missing}' is missing"):
        reading.parse_sweep(yaml.safe_dump(values))


def test_a_sweep_without_validation_is_refused():
    with pytest.raises(UserError, match=r"data.val is not set: trials are compared by validation"):
        reading.parse_sweep("base: {data: {train: a}}\nspace: {optim.lr: choice(0.1)}")


def test_a_grid_has_every_combination_and_refuses_those_that_cannot_be():
    text = (
        "searcher: grid\nbase: {recipe: something-v2-t8, train: {num_workers: 8}}\n"
        "space: {optim.lr: 'grid(0.1, 0.2)', optim.batch_size: 'choice(32, 64, 128)'}\n"
    )
    assert reading.parse_sweep(text).num_trials == 6
    with pytest.raises(UserError, match="the grid has 6 combinations"):
        reading.parse_sweep(text + "num_trials: 5\n")
    both = "optim.batch_size: choice(8, 64)\n  optim.accumulate: choice(1, 8)"
    with pytest.raises(UserError, match=r"space: .*optim.accumulate 8: a worker's share"):
        reading.parse_sweep(
            "searcher: grid\nbase: {data: {train: a, val: b}, optim: {batch_size: 64}}\n"
            f"space:\n  {both.replace('choice(8', 'choice(4')}\n"
        )


@given(
    st.sampled_from(["uniform", "loguniform"]),
    st.floats(1e-6, 1e3),
    st.floats(1.001, 1e3),
    st.integers(0, 2**31),
)
def test_every_draw_lies_in_its_range_whatever_the_numbers(kind, low, factor, seed):
    high = low * factor
    domain = parse_domain(f"{kind}({low!r}, {high!r})")
    assert domain.arguments == (low, high)
    import numpy as np

    value = domain.value(
        domain.to_tune(grid=False).sample(random_state=np.random.RandomState(seed))
    )
    assert isinstance(value, float)
    assert low <= value <= high or math.isclose(value, high) or math.isclose(value, low)


_VALUES = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["stm", "tsn", "bfloat16"]),
    st.lists(st.integers(0, 9), max_size=4),
)


@given(st.lists(_VALUES, min_size=1, max_size=6, unique_by=repr))
def test_a_choice_means_the_values_that_were_written(values):
    domain = parse_domain(f"choice({', '.join(map(repr, values))})")
    back = [domain.value(encoded) for encoded in domain.to_tune(grid=False).categories]
    assert back == values
    assert [type(value) for value in back] == [type(value) for value in values]


@given(st.text(max_size=30))
def test_no_text_does_more_than_raise_a_user_error(text):
    with contextlib.suppress(UserError):
        parse_domain(text)


# ---------------------------------------------------------------------- reports, signals


def test_a_trial_that_ray_tune_never_noted_does_not_keep_a_sweep_open(tmp_path):
    """A driver killed as a trial began: its report was written, Ray Tune's own state was not."""
    path = tmp_path / "reports.jsonl"
    for trial in ("lost", "known"):
        results.append(path, kind="start", trial=trial, settings={})
    results.close_unknown(path, {"known"})
    results.close_unknown(path, {"known"})
    lost, known = results.read_reports(path)
    assert (lost.state, known.state) == ("interrupted", "training")
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGUSR1])
def test_only_a_signal_is_an_interruption(number):
    """With the handlers that Ray Tune sets for itself, which are gone afterwards."""

    class Tuner:
        def fit(self):
            _setup_signal_catching()
            if number is not None:
                signal.raise_signal(number)
            return []

    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGUSR1)]
    assert sweep_module._fit(Tuner()) == ([], number is not None)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGUSR1)] == before


# ---------------------------------------------------------------------- placement


def test_a_sweep_that_cannot_fit_is_refused_with_the_sum():
    trial = cluster.Placement(4, 2.0, False, 1.0)
    with pytest.raises(
        UserError,
        match=r"3 trials at once x \(4 workers x 2 CPU \+ 1 CPU to decode .*\) = 27 CPU, but the cluster has 20 CPU; "
        "at most 2 fit at once",
    ):
        share(trial, cpus=20, gpus=0, num_trials=8, max_concurrent=3)
    with pytest.raises(UserError, match=r"= 9 CPU, but the cluster has 8 CPU; not even one fits"):
        share(trial, cpus=8, gpus=0, num_trials=8)
    with pytest.raises(UserError, match=r"= 9 CPU, 4 GPU, but the cluster has 64 CPU, 3 GPU"):
        share(replace(trial, use_gpu=True), cpus=64, gpus=3, num_trials=8)


@given(
    st.integers(1, 8),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.booleans(),
    st.integers(1, 200),
    st.integers(0, 64),
    st.integers(1, 40),
)
def test_what_trials_may_take_never_exceeds_the_cluster(
    workers, cpus_per_worker, data_cpus, use_gpu, cpus, gpus, num_trials
):
    trial = cluster.Placement(workers, cpus_per_worker, use_gpu, data_cpus)
    try:
        shares = share(trial, cpus, gpus, num_trials)
    except UserError:
        assert trial.cpus > cpus or trial.gpus > gpus
        return
    assert 1 <= shares.concurrent <= num_trials
    taken = shares.concurrent * (workers * cpus_per_worker + shares.data_cpus)
    assert taken <= cpus * (1 + 1e-9)
    assert shares.concurrent * trial.gpus <= gpus or not use_gpu
    assert shares.data_cpus >= data_cpus


@pytest.mark.parametrize("name", reading.samples())
def test_every_sample_sweep_is_sound(name):
    sweep = reading.read_sweep(reading.path_of(name))
    assert sweep.num_trials >= 8
    assert {"optim.lr", "data.num_segments"} <= set(sweep.space)
    assert sweep.scheduler.name == "asha"


def test_a_sweep_of_an_older_version_goes_on_and_another_base_does_not(tmp_path):
    text = (
        "base: {data: {train: a, val: b}, optim: {lr: 0.5}}\nspace: {optim.momentum: choice(0.5)}"
    )
    identity = reading.parse_sweep(text).identity()
    older = json.loads(json.dumps(identity))
    for new in ("name", "schedule", "betas", "freeze"):
        del older["base"]["optim"][new]
    path = tmp_path / "sweep.json"
    assert not results.check_state(path, older, "mine")
    assert results.check_state(path, identity, "mine")
    other = reading.parse_sweep(text.replace("0.5}}", "0.25}}")).identity()
    with pytest.raises(UserError, match="sweep 'mine' exists with another base"):
        results.check_state(path, other, "mine")


def test_a_part_that_the_network_lacks_is_refused_before_any_trial():
    with pytest.raises(UserError, match=r"--optim.freeze 'layer9': the network has no such part"):
        reading.parse_sweep(
            "base: {data: {train: a, val: b}, optim: {freeze: [layer9]}}\n"
            "space: {optim.momentum: choice(0.5)}"
        )


def test_weights_of_all_trials_are_found_once_and_tried_on_every_network(tmp_path, monkeypatch):
    from stm.checkpoint import pretrained
    from stm.model import build_model
    from stm.tune.trial import Job

    monkeypatch.chdir(tmp_path)
    for width in (16, 32):
        network = build_model("tsn", depth=26, num_classes=9, width=width)
        torch.save(network.state_dict(), f"{width}.pth")
    base = {
        "data": {"train": "a.parquet", "val": "b.parquet"},
        "model": {"depth": 26, "width": 16, "pretrained": "16.pth"},
    }

    def sweep_over(**space):
        return reading.parse_sweep(yaml.safe_dump({"base": base, "space": space, "num_trials": 2}))

    rates = sweep_over(**{"optim.lr": "loguniform(1e-4, 1e-1)"})
    found = sweep_module._weights(rates, ["a", "b"])
    assert list(found) == [str(tmp_path / "16.pth")]
    shares = share(cluster.Placement(1, 1.0, False, 1.0), cpus=4, gpus=0, num_trials=1)
    job = Job(
        sweep=rates, storage=str(tmp_path), epochs=1, num_videos=1, shares=shares, parent=None
    )
    assert pretrained.key(job.config_of({"optim.lr": 0.1}, "1").model) in found

    either = sweep_over(**{"model.pretrained": "choice('16.pth', null)"})
    assert list(sweep_module._weights(either, ["a", "b"])) == list(found)
    with pytest.raises(UserError, match=r"space: .*'32.pth'.*It fits a model of .* width 32"):
        sweep_module._weights(
            sweep_over(**{"model.pretrained": "choice('16.pth', '32.pth')"}), ["a"]
        )
    assert pretrained._received == {}
