"""Write a package, the folder of an MLflow model: weights, source, requirements, signature, example and model card.

    MLmodel, requirements.txt, python_env.yaml, conda.yaml      files of MLflow: how to load it, and what it needs
    README.md                                                   the model card
    data/checkpoint/                                            model.safetensors and meta.json, nothing pickled;
                                                                plugin.py, if the blocks are the user's own
    code/stm/                                                   the source that reads the checkpoint
    input_example.json                                          a data URL of a short video

The package includes the source, so that the environment that loads it needs no ``stm``, and no other version of stm
reads these weights.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import DATA
from stm.storage import scratch

TOP_K = 5
"""Number of classes in an answer, unless a call asks for another number."""

_NEEDED = (
    *("av", "fsspec", "mlflow-skinny", "numpy", "pandas", "pillow", "psutil", "pyarrow"),
    *("safetensors", "simplejpeg", "torch"),
)
"""Packages that ``stm.package.network`` and its imports need. MLflow's skinny package is enough to load a model."""

_EXAMPLE_FRAMES, _EXAMPLE_SIZE = 8, 64


def save_package(
    path: Path,
    directory: str,
    meta: checkpoints.Meta,
    card: str,
    requirements: list[str],
    mlflow_model: Any = None,
) -> None:
    """Write the package of the checkpoint ``directory`` (see above) as the folder ``path``, which must not exist.

    ``meta`` replaces the checkpoint's, because it can have the result of a later validation.
    """
    import mlflow.pyfunc

    with scratch() as temporary:
        data = temporary / Path(DATA).name
        data.mkdir()
        plugin = [checkpoints.PLUGIN] if meta.plugin else []
        for file in (checkpoints.MODEL, checkpoints.META, *plugin):
            (data / file).write_bytes(checkpoints.read_file(directory, file))
        # `meta` also has the validation that followed the checkpoint.
        (data / checkpoints.META).write_text(meta.to_json())
        mlflow.pyfunc.save_model(
            str(path),
            loader_module="stm.package.network",
            data_path=str(data),
            code_paths=[str(Path(__file__).parents[1])],
            signature=_signature(),
            input_example=[example_url()],
            pip_requirements=requirements,
            mlflow_model=mlflow_model,
        )
    (path / "README.md").write_text(card)


def pinned_requirements(meta: checkpoints.Meta) -> list[str]:
    """Return ``name==version`` of each requirement, as installed here, without labels such as torch's ``+cpu``."""
    needed = [
        *_NEEDED,
        *(["decord"] if checkpoints.config_of(meta).data.decoder == "decord" else []),
    ]
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in needed]


def example_url() -> str:
    """Make a short video and return it as a data URL, the package's input example."""
    import av

    y, x = np.mgrid[0:_EXAMPLE_SIZE, 0:_EXAMPLE_SIZE]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=8)
        stream.width = stream.height = _EXAMPLE_SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(_EXAMPLE_FRAMES):  # a disc that moves to the right
            disc = (x - 8 - 6 * number) ** 2 + (y - _EXAMPLE_SIZE // 2) ** 2 < 100
            picture = np.repeat(np.where(disc, 220, 30).astype(np.uint8)[..., None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return "data:video/mp4;base64," + base64.b64encode(buffer.getvalue()).decode()


def _signature() -> Any:
    """The package's signature: an input row has any type, and ``stm.package.network`` documents the output columns."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    return ModelSignature(
        inputs=Schema([ColSpec(AnyType())]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "classes"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(DataType.string, "error"),
            ]
        ),
        params=ParamSchema([ParamSpec("top_k", DataType.long, TOP_K)]),
    )
