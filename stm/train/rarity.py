"""Class imbalance in the loss: class weights, and logits adjusted by class frequency."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stm.config import Config
from stm.data.stream.balance import quotas
from stm.errors import UserError
from stm.plural import counted
from stm.storage import read_bytes


@dataclass(frozen=True)
class ClassTerms:
    """Class terms of the loss; None turns a term off."""

    weights: list[float] | None = None
    """K factors of a sample's loss; their mean over the samples of an epoch is 1."""
    adjustment: list[float] | None = None
    """K terms added to the logits in training (Menon et al., ICLR 2021, equation 10)."""


def class_terms(
    config: Config, class_counts: np.ndarray, classes: Sequence[str]
) -> ClassTerms | None:
    """Return the class terms for ``class_counts`` videos per class (int64 [K]); None if all samples count alike.

    With `data.balance` both terms use how often a class is shown, not how many videos it has, so that classes are not
    balanced twice. Raises ``UserError`` for a file of weights that does not fit the classes.
    """
    optim = config.optim
    shown = quotas(class_counts, config.data.balance)
    at_least_one = np.maximum(shown, 1)
    weights = adjustment = None
    if optim.class_weights == "inverse":
        weights = 1.0 / at_least_one
    elif optim.class_weights == "effective":  # Cui et al., CVPR 2019, equation 2
        beta = optim.effective_beta
        weights = (1 - beta) / (1 - beta**at_least_one)
    elif optim.class_weights is not None:
        weights = _read(optim.class_weights, classes)
    if weights is not None:
        of_an_epoch = float((shown * weights).sum())
        if of_an_epoch == 0:
            raise UserError(
                f"--optim.class_weights {optim.class_weights}: every class that has a video weighs 0"
            )
        weights = weights * (shown.sum() / of_an_epoch)
    if optim.logit_adjustment:
        adjustment = optim.logit_adjustment * np.log(at_least_one / at_least_one.sum())
    if weights is None and adjustment is None:
        return None
    return ClassTerms(
        None if weights is None else weights.tolist(),
        None if adjustment is None else adjustment.tolist(),
    )


def _read(path: str, classes: Sequence[str]) -> np.ndarray:
    """Read the weights of ``classes`` from a CSV file (class, weight) or a JSON object: float64 [K]."""
    flag = f"--optim.class_weights {path}"
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{flag}: no such file; or use `inverse` or `effective`") from None
    except UnicodeDecodeError:
        raise UserError(f"{flag}: is not text (UTF-8)") from None
    except OSError as error:
        raise UserError(f"{flag}: cannot be read ({error.strerror or error})") from None
    given = _from_json(text, flag) if text.lstrip().startswith("{") else _from_csv(text, flag)
    unknown = [name for name in given if name not in set(classes)]
    missing = [name for name in classes if name not in given]
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        raise UserError(
            f"{flag}: {unknown[0]!r} is no class of --data.train"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    if missing:
        raise UserError(
            f"{flag}: no weight for {counted(len(missing), 'class')}, such as {missing[0]!r}"
        )
    return np.array([given[name] for name in classes])


def _from_json(text: str, flag: str) -> dict[str, float]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UserError(f"{flag}: is no JSON: {error}") from None
    return {name: _weight(value, f"{flag}: class {name!r}") for name, value in values.items()}


def _from_csv(text: str, flag: str) -> dict[str, float]:
    given: dict[str, float] = {}
    reader = csv.reader(io.StringIO(text))
    for row in reader:
        where = f"{flag}, line {reader.line_num}"
        if not row or [cell.strip() for cell in row] == ["class", "weight"]:
            continue
        if len(row) != 2:
            raise UserError(
                f"{where}: expected a class and its weight, found {counted(len(row), 'column')}"
            )
        if row[0] in given:
            raise UserError(f"{where}: class {row[0]!r} has a weight already")
        given[row[0]] = _weight(row[1], where)
    return given


def _weight(value: object, where: str) -> float:
    try:
        weight = float(str(value))
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(f"{where}: {value!r} is no weight, which is a number from 0")
    return weight
