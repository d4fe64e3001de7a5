"""Unequal classes in the loss: weights of classes, adjusted logits, and files of weights that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stm.checkpoint.format import Meta
from stm.config import Config
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.train.checks import check_same_run
from stm.train.optim import weighted_loss_sum
from stm.train.rarity import class_terms

CLASSES = ["push", "pull", "lift, slowly"]
COUNTS = np.array([90, 9, 1])


def terms(counts=COUNTS, balance=0.0, **optim):
    config = Config.from_dict({"data": {"balance": balance}, "optim": optim})
    return class_terms(config, counts, CLASSES)


def test_nothing_is_done_unless_asked_for():
    assert terms() is None
    assert terms(balance=1.0) is None  # the plan's business, not the loss's


def test_inverse_weights_make_each_class_count_alike_and_a_sample_1_on_average():
    weights = np.array(terms(class_weights="inverse").weights)
    np.testing.assert_allclose(weights * COUNTS, 100 / 3)


@pytest.mark.parametrize(("beta", "like"), [(0.0, [1, 1, 1]), (1 - 1e-7, [1 / 90, 1 / 9, 1])])
def test_effective_numbers_lie_between_equal_and_inverse(beta, like):
    weights = np.array(terms(class_weights="effective", effective_beta=beta).weights)
    np.testing.assert_allclose(weights / weights[0], np.array(like) / like[0], rtol=1e-4)


def test_what_sampling_made_equal_is_not_made_equal_twice():
    balanced = terms(balance=1.0, class_weights="inverse", logit_adjustment=1.0)
    np.testing.assert_allclose(balanced.weights, 1, atol=0.02)
    assert np.ptp(balanced.adjustment) < 0.05


def test_a_class_without_a_video_is_no_infinity():
    found = terms(np.array([5, 0, 5]), class_weights="inverse", logit_adjustment=1.0)
    assert np.isfinite([*found.weights, *found.adjustment]).all()


def test_the_loss_is_that_of_the_papers():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    counted = torch.tensor([1.0, 1.0, 0.0, 1.0])
    found = terms(class_weights="inverse", logit_adjustment=0.5)
    weights, adjustment = torch.tensor(found.weights), torch.tensor(found.adjustment)
    shifted = logits + 0.5 * torch.log(torch.tensor(COUNTS / 100)).float()
    expected = (
        F.cross_entropy(shifted, labels, reduction="none") * weights[labels] * counted
    ).sum()
    torch.testing.assert_close(
        weighted_loss_sum(logits, labels, counted, 0.0, weights, adjustment), expected
    )


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_file_names_every_class(kind, tmp_path):
    path = tmp_path / f"weights.{kind}"
    values = {"lift, slowly": 3, "push": 1, "pull": 0}
    if kind == "json":
        path.write_text(json.dumps(values))
    else:
        path.write_text('class,weight\r\n"lift, slowly",3\r\npush,1\r\npull,0\r\n')
    weights = np.array(terms(class_weights=str(path)).weights)
    np.testing.assert_allclose(weights, np.array([1, 0, 3]) * 100 / 93)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("push,1\npull,2\n", "no weight for 1 class, such as 'lift, slowly'"),
        ("push,1\npull,2\npulll,2\n", "did you mean 'pull'"),
        ("push,1\npush,2\n", "line 2: class 'push' has a weight already"),
        ("push;1\n", "line 1: expected a class and its weight"),
        ("push,much\n", "line 1: 'much' is no weight"),
        ("push,-1\n", "'-1' is no weight"),
        ("push,inf\n", "'inf' is no weight"),
        ('{"push": nan}', "is no JSON"),
        ('{"push": [1]}', "is no weight"),
        ('push,0\npull,0\n"lift, slowly",0\n', "weighs 0"),
        (b"\xff\xfe\x00", "is not text"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_message(text, said, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="class_weights") as told:
        terms(class_weights=str(path))
    assert said in str(told.value)


def test_a_word_that_is_no_file_is_told_what_there_is():
    with pytest.raises(UserError, match="no such file; or use `inverse` or `effective`"):
        terms(class_weights="inverted")


def test_a_folder_is_no_file_of_weights(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        terms(class_weights=str(tmp_path))


def test_a_run_does_not_go_on_with_a_file_of_weights_that_has_changed(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps(dict.fromkeys(CLASSES, 1) | {"push": 2}))
    config = Config.from_dict({"optim": {"class_weights": str(path)}, "train": {"name": "mine"}})
    meta = Meta(
        config=config.to_dict(), classes=CLASSES, position=Position(1, 0), step=9, fingerprint="f",
        class_counts=COUNTS.tolist(), class_weights=class_terms(config, COUNTS, CLASSES).weights,
    )  # fmt: skip
    check_same_run(config, "f", meta)
    path.write_text(json.dumps(dict.fromkeys(CLASSES, 1) | {"push": 3}))
    with pytest.raises(UserError, match="'mine' was trained with other weights of classes"):
        check_same_run(config, "f", meta)


def test_a_beta_that_nothing_looks_at_is_refused():
    with pytest.raises(
        UserError, match=r"effective_beta 0\.9: has no effect on .*class_weights inv"
    ):
        terms(class_weights="inverse", effective_beta=0.9)
