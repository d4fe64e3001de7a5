"""Classes are matched by their names wherever two lists of them meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stm.data.classes import match_classes
from stm.data.manifest import Manifest
from stm.errors import UserError
from tests.data.test_manifest import make_manifest
from tests.logged import logged


def manifest_of(classes: tuple[str, ...], labels: list[int], **values: object) -> Manifest:
    return replace(make_manifest(label=labels), classes=classes, **values)


@pytest.mark.parametrize(
    ("ours", "theirs", "labels", "near", "unknown"),
    [
        (["b", "a"], ["a", "b", "c"], {0: 1, 1: 0}, {}, []),
        (["Jump Up"], ["run", "jump_up"], {0: 1}, {"Jump Up": "jump_up"}, []),
        (["HandStandPushups"], ["HandstandPushups"], {0: 0}, {"HandStandPushups": "HandstandPushups"}, []),
        # The exact name wins, and what is left over is no near name of it.
        (["run", "Run"], ["Run", "walk"], {1: 0}, {}, [0]),
        # Two near names: neither is certain.
        (["run"], ["Run", "RUN"], {}, {}, [0]),
        (["Run", "RUN"], ["run"], {}, {}, [0, 1]),
        (["1", "10"], ["10", "2", "1"], {0: 2, 1: 0}, {}, []),
        (["_", "-"], ["-", "_"], {0: 1, 1: 0}, {}, []),
    ],
)  # fmt: skip
def test_names_are_matched_exactly_and_else_by_the_one_that_is_near(
    ours, theirs, labels, near, unknown
) -> None:
    match = match_classes(ours, theirs)
    assert (match.labels, match.near, match.unknown) == (labels, near, unknown)


def test_a_manifest_takes_the_labels_of_a_network_by_name_and_mirrors_as_before() -> None:
    manifest = manifest_of(
        ("right", "left", "Jump"), [0, 1, 2], flip=False, flip_map={0: 1, 1: 0, 2: 2}
    )
    with logged() as said:
        taken = manifest.with_classes(("jump", "left", "up", "right"), name="val", of="the network")
    assert taken.classes == ("jump", "left", "up", "right")
    assert taken.table["label"].to_pylist() == [3, 1, 0]
    assert taken.flip_map == {3: 1, 1: 3, 0: 0}
    assert taken.table.drop_columns("label").equals(manifest.table.drop_columns("label"))
    assert said == ["val: taken as the same classes of the network: 'Jump' is 'jump'"]
    assert manifest.with_classes(manifest.classes, name="val", of="it") is manifest


def test_a_class_that_the_network_does_not_know_is_refused_unless_no_video_has_it() -> None:
    manifest = manifest_of(("run", "swim", "fly"), [0, 1, 1])
    with pytest.raises(
        UserError,
        match=r"val has videos of 1 class that net does not have: 'swim' \(2 videos\)",
    ):
        manifest.with_classes(("run", "walk"), name="val", of="net")
    taken = manifest.with_classes(("walk", "swim", "run"), name="val", of="net")  # nobody flies
    assert taken.table["label"].to_pylist() == [2, 1, 1]
