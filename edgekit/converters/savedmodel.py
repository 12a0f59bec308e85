"""Keras to a SavedModel folder with one signature of batch 1, for TensorFlow on this machine and for TensorFlow's tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.converters import _tensorflow, _tensors
from edgekit.errors import UserError
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import keras
    import numpy as np

SOURCES = ("keras",)
SUFFIX = ".savedmodel"  # a folder
EXTRA = {"keras": "tensorflow"}
PRECISIONS = ("fp32",)
OPTIONS: Mapping[str, tuple[str, ...]] = {}
PACKAGES = {"keras": ("tensorflow-cpu", "keras")}

GRAPH, INDEX = "saved_model.pb", "variables/variables.index"


def convert(
    source: keras.Model,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Keras' export archive with the endpoint serving_default, its inputs and outputs named as edgekit names them."""
    import keras
    import tensorflow as tf

    call = _tensorflow.caller(source)
    signature = [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in input_specs]
    counted = len(_tensors.flat(source.outputs)) if getattr(source, "outputs", None) else 1
    names = _tensors.output_names(counted)

    def serve(*tensors: object) -> dict[str, object]:
        return dict(zip(names, call(*tensors), strict=True))

    archive = keras.export.ExportArchive()
    archive.track(source)
    archive.add_endpoint("serve", serve, input_signature=signature)
    archive.write_out(str(output), verbose=False)
    made = tf.saved_model.load(str(output)).signatures["serving_default"].structured_outputs
    outputs = [TensorSpec(name, tuple(int(n) for n in made[name].shape), made[name].dtype.name) for name in names]
    return _tensors.answer(input_specs, outputs, {})


def check(path: Path) -> None:
    """The folder has a graph, and as many bytes of variables as there is an index for."""
    if not path.is_dir():
        raise UserError(f"{path.name} is no SavedModel: it is not a folder")
    graph, index = path / GRAPH, path / INDEX
    if not graph.is_file() or not graph.stat().st_size:
        raise UserError(f"{path.name} is no SavedModel: it has no {GRAPH}")
    if (path / "variables").is_dir() and any((path / "variables").iterdir()):
        whole = index.is_file() and index.stat().st_size
        if not whole or not any(file.stat().st_size for file in (path / "variables").glob("variables.data-*")):
            raise UserError(f"{path.name} is cut short: its variables are not whole")
