"""docs/extending.md and docs/blocks.md: the code of these pages runs as it stands."""

from __future__ import annotations

import importlib
import json
import re
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import pipelines
from pipelines import cli
from stm.data.annotations import formats, read_annotations
from stm.data.manifest import SCHEMA, Manifest
from stm.errors import UserError
from stm.model import plugins, registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()


def block(heading: str) -> str:
    """The Python code of a section."""
    return re.search(rf"^## {heading}$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S)[1]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Saves code as a module of a package, from a folder that the package is told to look in, too."""
    folder = tmp_path / "beside"
    folder.mkdir()
    saved = []

    def save(package, name, code):
        (folder / f"{name}.py").write_text(code)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        importlib.invalidate_caches()
        saved.append((package, name))

    yield save
    for package, name in saved:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_the_reader_of_a_data_set_makes_splits_groups_and_classes(module, tmp_path):
    module(formats, "kth", block("A data set"))
    for name in ("person01_boxing_d1", "person02_walking_d3", "person02_walking_d4"):
        (tmp_path / f"{name}_uncomp.avi").touch()
    (tmp_path / "00sequences.txt").touch()
    found = read_annotations("kth", tmp_path)
    assert found.classes[0] == "boxing"
    assert [entry.video_id for entry in found.splits["val"]] == ["person01_boxing_d1_uncomp"]
    assert [(e.label, e.group) for e in found.splits["train"]] == [(5, "person02")] * 2
    with pytest.raises(UserError, match="KTH has no list"):
        read_annotations("kth", tmp_path, annotations=tmp_path / "00sequences.txt")
    with pytest.raises(UserError, match=r"nonsense: unknown format\. Choose one of .*kth"):
        read_annotations("nonsense", tmp_path)


def test_a_command_is_found_and_has_help_and_json(module, tmp_path, capfd):
    module(pipelines, "count", block("A command"))
    empty = {field.name: "" if pa.types.is_string(field.type) else 8 for field in SCHEMA}
    rows = [
        {**empty, "video_id": f"v{k}", "path": f"/v{k}.mp4", "label": label, "status": status}
        for k, (label, status) in enumerate([(0, "ok"), (1, "ok"), (1, "ok"), (1, "not_found")])
    ]
    path = str(tmp_path / "train.parquet")
    Manifest(pa.Table.from_pylist(rows, SCHEMA), ("wave", "clap"), "made", True).write(path)
    assert cli.main(["count", "--manifest", path]) == 0
    assert capfd.readouterr().out == "     1  wave\n     2  clap\n"
    assert cli.main(["count", "--manifest", path, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"wave": 1, "clap": 2}
    assert cli.main(["count", "--help"]) == 0
    assert "file that `stm index` wrote" in capfd.readouterr().out


def test_the_block_of_the_page_is_registered_and_computes_what_it_says(tmp_path):
    page = (ROOT / "docs" / "blocks.md").read_text()
    code = textwrap.dedent(re.search(r"^    # my_blocks.py\n(?:    .*\n|\n)+", page, re.M)[0])
    code = code.partition("stm train ")[0]
    (tmp_path / "my_blocks.py").write_text(code)
    plugin = plugins.load(str(tmp_path / "my_blocks.py"))
    try:
        made = registry.get("averaged").build(64, 16, 1, share=0.25).eval()
        x = torch.randn(2 * 4, 64, 6, 6)
        clips = x.unflatten(0, (2, 4))
        mean = clips.mean(1, keepdim=True).expand_as(clips).flatten(0, 1)
        plain = registry.get("tsn").build(64, 16, 1).eval()
        plain.load_state_dict(made.state_dict())
        torch.testing.assert_close(made(x.clone(), 4), plain(x + 0.25 * mean, 4))
    finally:
        registry.forget(plugin.digest)
        plugins._loaded.pop(plugin.digest, None)
