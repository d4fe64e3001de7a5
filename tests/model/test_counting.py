"""Parameters and operations, to the digit of the paper's table."""

from __future__ import annotations

import pytest
import torch

from stm.model import build_model, count_operations, count_parameters


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"variant": "stm"}, 24_035_666),
        ({"variant": "tsn"}, 23_864_558),
        ({"variant": "tsm"}, 23_864_558),
        ({"variant": "cstm"}, 23_875_886),
        ({"variant": "cstm", "temporal_conv": "ordinary"}, 27_636_974),
        ({"num_classes": 27}, 23_734_463),
        ({"num_classes": 400}, 24_498_740),
        ({"num_classes": 101}, 23_886_089),
        ({"num_classes": 51}, 23_783_639),
    ],
    ids=str,
)
def test_parameters_are_the_papers(settings, parameters):
    with torch.device("meta"):
        assert count_parameters(build_model(**settings)) == parameters


@pytest.mark.parametrize(
    ("settings", "num_frames", "giga_operations"),
    [
        ({"variant": "tsn"}, 8, 32.878),
        ({"variant": "tsn"}, 16, 65.756),
        ({"variant": "tsm"}, 8, 32.878),
        ({"variant": "cstm"}, 8, 32.924),
        ({"variant": "cstm", "temporal_conv": "ordinary"}, 8, 40.585),
        ({"variant": "stm"}, 8, 33.255),
        ({"variant": "stm"}, 16, 66.510),
    ],
    ids=str,
)
def test_operations_are_the_papers(settings, num_frames, giga_operations):
    with torch.device("meta"):
        model = build_model(**settings)
    assert round(count_operations(model, num_frames) / 1e9, 3) == giga_operations


def test_counting_leaves_the_model_as_it_was():
    model = build_model(depth=26, width=16, num_classes=5).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = [weight.data_ptr() for weight in model.parameters()]
    count_operations(model, num_frames=2, size=32)
    assert model.training
    assert weights == [weight.data_ptr() for weight in model.parameters()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
