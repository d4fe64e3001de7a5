"""docs/notebooks: each is run from its first cell to its last, in an empty folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


def run(path, folder):
    """The notebook with the outputs of a run in ``folder``. Raises ``CellExecutionError`` where a cell does."""
    nbformat = pytest.importorskip("nbformat", reason="the group `docs` is not installed")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(path, as_version=4)
    return client(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_to_its_end(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = run(path, tmp_path)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    last = "".join(str(output) for cell in code[-2:] for output in cell.outputs)
    assert last, "the last cells show something"
    if "STM_SAVE_NOTEBOOKS" in os.environ:
        save(done, path)


def save(notebook, path):
    """Write the outputs into the repository, without what is of this machine and this moment."""
    import nbformat

    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    nbformat.write(notebook, path)
