"""Through the real registry and real evaluations: the better network becomes champion, unlike numbers move nothing."""

from __future__ import annotations

import pytest

from stm.checkpoint.locate import open_client
from stm.data.annotations import read_annotations
from stm.data.index.indexing import index_videos
from stm.data.manifest import Manifest
from stm.data.synthetic import write_videos
from stm.errors import UserError
from stm.package.register import champion, register
from tests.package.untrained import write_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def root(ray_cluster, tmp_path_factory):
    """Two manifests of synthetic videos, and four networks whose answers differ."""
    root = tmp_path_factory.mktemp("champion")
    for name, num_test in (("val", 16), ("other", 8)):
        annotations = write_videos(
            root / name, num_train=8, num_test=num_test, size=48, num_frames=8
        )
        found, _ = index_videos(read_annotations("csv", root / name, annotations), cross_check=0)
        found["val"].write(root / f"{name}.parquet")
    classes = list(Manifest.read(root / "val.parquet").classes)
    for seed in range(4):
        write_checkpoint(root / "runs" / str(seed) / "checkpoint-00000007", seed, classes)
    return root


def test_the_better_network_becomes_champion_on_the_same_manifest_alone(root):
    uri = f"sqlite:///{root / 'runs' / 'mlflow.db'}"
    client = open_client(uri)

    def run(seed, manifest="val", rule="better:top1", **more):
        return register(
            str(root / "runs" / str(seed)),
            "actions",
            rule=rule,
            manifest=manifest and str(root / f"{manifest}.parquet"),
            tracking=uri,
            **more,
        )

    best, holder = -1.0, None
    for seed in range(4):
        result = run(seed)
        top1 = result["measured"]["top1"]
        assert result["measured"]["num_videos"] == 16
        assert result["champion"] is (top1 > best)
        if result["champion"]:
            best, holder = top1, result["version"]
        assert champion(client, "actions").version == str(holder)
    assert f"| efficient | 16 | 0 | {top1:.2%} |" in result["card"]
    assert "stm evaluate --checkpoint" in result["card"]

    for unlike in ({"manifest": "other"}, {"protocol": "accurate"}):
        with pytest.raises(UserError, match="needs the same manifest, protocol and classes"):
            run(0, **unlike)
    with pytest.raises(UserError, match="give --manifest"):
        run(0, manifest=None)
    assert len(client.search_model_versions("name='actions'")) == 4  # nothing was written
    moved = run(0, "other", "always")
    assert moved["champion"]
    assert moved["previous"] == holder
