"""Settings of a step, two at a time: each pair is built, stepped, kept and continued, or refused before the start."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
import torch.distributed as dist

from stm.checkpoint import format as checkpoints
from stm.config import Config
from stm.data.stream.graph import ClipBatch
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model import registry
from stm.train.replica import Replica
from tests.train.ranks import on_ranks

SETTINGS = {
    "compile": ("train", "compile", True),
    "checkpointing": ("model", "gradient_checkpointing", True),
    "sync_batchnorm": ("optim", "sync_batchnorm", True),
    "ema": ("optim", "ema_decay", 0.5),
    "accumulate": ("optim", "accumulate", 3),
    "mixup": ("optim", "mixup", 0.4),
    "cutmix": ("optim", "cutmix", 1.0),
    "adamw": ("optim", "name", "adamw"),
    "freeze": ("optim", "freeze", ["stem", "layer1"]),
    "partial_bn": ("optim", "partial_bn", True),
    "bfloat16": ("train", "precision", "bfloat16"),
    "float16": ("train", "precision", "float16"),
}
LEAVE_A_STEP_AS_IT_IS = {"compile": 1e-3, "checkpointing": 0.0, "sync_batchnorm": 0.0}
"""On one worker these change how a step is computed, and no weight by more than this."""
APART = {("compile", "checkpointing"), ("bfloat16", "float16")}
PAIRS = [pair for pair in itertools.combinations(SETTINGS, 2) if pair not in APART]
PLAIN = [pair for pair in PAIRS if "compile" not in pair]
COMPILED = [pair for pair in PAIRS if "compile" in pair]
CPU, CLASSES = torch.device("cpu"), 5

compiles = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
]


def with_variants(pairs):
    """Each pair with a variant, so that every setting of them meets every variant."""
    met = set()
    for pair in pairs:
        variant = max(registry.names(), key=lambda name: len({(s, name) for s in pair} - met))
        met |= {(setting, variant) for setting in pair}
        yield pair, variant


def config_of(settings, variant="stm", workers=1, **optim):
    values = {
        "model": {"variant": variant, "depth": 26, "width": 16, "dropout": 0.0},
        "data": {"num_segments": 4, "size": 32},
        "optim": {"batch_size": 4 * workers, **optim},
        "train": {"num_workers": workers},
    }
    for name in settings:
        section, setting, value = SETTINGS[name]
        values[section][setting] = value
    return Config.from_dict(values)


def batch_of(number, weights=(1, 1, 0, 1)):
    """Four clips, of which one cannot be read."""
    rng = np.random.default_rng(number)
    return ClipBatch(
        clips=rng.integers(0, 256, (4, 1, 4, 32, 32, 3), dtype=np.uint8),
        labels=rng.integers(0, CLASSES, 4),
        weights=np.array(weights, np.float32),
        videos=np.arange(4),
        epoch=0,
        offset_end=4,
    )


def built(config, checkpoint=None, world_size=1):
    torch.manual_seed(0)
    return Replica(config, CLASSES, CPU, world_size, checkpoint)


def stepped(replica, numbers):
    for number in numbers:
        sums, _ = replica.step(batch_of(number), 0.01, seed=number)
        assert sums[1] == 3
        assert torch.isfinite(sums).all()
    return replica.shipped.state_dict()


def kept(replica, config, folder):
    folder.mkdir()
    meta = checkpoints.Meta(
        config=config.to_dict(),
        classes=[str(number) for number in range(CLASSES)],
        position=Position(1, 0),
        step=2,
        fingerprint="f",
    )
    checkpoints.write(folder, replica.shipped, replica.state(), meta)
    return str(folder)


def assert_equal(a, b, tolerance=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=tolerance, msg=name)


def frozen(pair, names):
    """Of the names of a state dict."""
    found = set()
    if "freeze" in pair:
        found |= {name for name in names if name.startswith(("conv1", "bn1", "layer1"))}
    if "partial_bn" in pair:
        norms = {name.removesuffix(".running_mean") for name in names if "running_mean" in name}
        norms = {norm for norm in norms if norm != "bn1" and ".cmm." not in norm}
        found |= {name for name in names if name.rpartition(".")[0] in norms}
    return found


def check(pair, variant, folder):
    """A pair learns; goes on from its checkpoint as if nothing had been; and is what its other half alone is."""
    torch.set_num_threads(1)
    config = config_of(pair, variant)
    replica = built(config)
    before = {name: value.clone() for name, value in replica.shipped.state_dict().items()}
    first = [1, 2, 3] if "float16" in pair else [1, 2]  # it may skip two, till its scale fits
    stepped(replica, first)
    checkpoint = kept(replica, config, folder / "checkpoint")
    weights = {name: value.clone() for name, value in replica.shipped.state_dict().items()}
    still = {name for name in weights if torch.equal(weights[name], before[name])}
    assert still == frozen(pair, before), "the steps move every other weight and statistic"
    assert_equal(stepped(built(config, checkpoint), [4]), stepped(replica, [4]))
    for name, other in (pair, pair[::-1]):
        if name in LEAVE_A_STEP_AS_IT_IS:
            alone = built(config_of([other], variant))
            if name == "compile" and other in ("bfloat16", "float16"):
                continue  # a fused kernel rounds in other places, by more than a test could tell from a fault
            assert_equal(weights, stepped(alone, first), LEAVE_A_STEP_AS_IT_IS[name])


@pytest.mark.long
@pytest.mark.parametrize(("pair", "variant"), list(with_variants(PLAIN)))
def test_two_settings_together_train_and_continue(pair, variant, tmp_path):
    check(pair, variant, tmp_path)


def test_every_setting_meets_every_variant():
    met = {(setting, variant) for pair, variant in with_variants(PLAIN) for setting in pair}
    assert met == set(itertools.product(SETTINGS.keys() - {"compile"}, registry.names()))


@pytest.mark.parametrize(
    ("pair", "variant"),
    [
        pytest.param(pair, variant, marks=compiles)
        for pair, variant in [
            *((pair, "stm") for pair in COMPILED),
            *((("compile", "ema"), name) for name in registry.names() if name != "stm"),
        ]
    ],
)
def test_a_compiled_network_goes_with_every_other_setting(pair, variant, tmp_path):
    check(pair, variant, tmp_path)


def one_rank(rank, pairs):
    for pair in pairs:
        replica = built(config_of(pair, workers=2), world_size=2)
        for number, weights in enumerate([(1, 1, 0, 1), (0, 0, 0, 0) if rank else (1, 1, 1, 1)]):
            sums, _ = replica.step(batch_of(2 * number + rank, weights), 0.01, seed=rank)
            assert torch.isfinite(sums).all(), pair
        ours = torch.cat([p.detach().flatten() for p in replica.shipped.parameters()])
        theirs = [torch.empty_like(ours) for _ in range(2)]
        dist.all_gather(theirs, ours)
        assert torch.isfinite(ours).all(), pair
        assert torch.equal(*theirs), f"{pair}: ranks have other weights"


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(PLAIN[::2], marks=pytest.mark.long, id="plain"),
        pytest.param(PLAIN[1::2], marks=pytest.mark.slow, id="plain too"),
        pytest.param(COMPILED, marks=compiles, id="compiled"),
    ],
)
def test_two_settings_together_train_on_two_workers(pairs, tmp_path):
    """One of the two has nothing to learn from in the second step."""
    on_ranks(2, tmp_path, one_rank, pairs)


def test_what_cannot_go_together_is_refused_with_the_settings():
    with pytest.raises(UserError, match=r"--train\.compile true .*gradient_checkpointing true.*"):
        config_of(["compile", "checkpointing"])
