"""Bench: int8 converters of edgekit beside the bare library calls for the same file, by turns in one process.

    .venv/bin/python tools/bench/convert_overhead.py [--rounds 5] [--models digits_cnn ...] [--formats onnx ...]

The figures are seconds of CPU time with one thread, which other programs on the machine disturb little. Imports and building
the source model are in neither. Then, in an empty cache, what a second profile converts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from side_by_side import by_turns, show

import edgekit
from edgekit import convert, data, plugins, sources, worker
from edgekit.types import Json, TensorSpec

LIMIT = 1.10
MODELS = ("digits_cnn", "mobilenet_v2")
# format -> the framework of the model that it is made from here
FORMATS = {"tflite": "keras", "onnx": "torch", "executorch": "torch"}
Rows = Sequence[Any]


def bare_tflite(model: Any, rows: Rows, spec: TensorSpec, output: Path) -> None:
    """TensorFlow's converter on the frozen function."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    signature = tf.TensorSpec(spec.shape, spec.dtype, name="input")
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(function)])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row] for row in rows)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    output.write_bytes(converter.convert())


def bare_onnx(model: Any, rows: Rows, spec: TensorSpec, output: Path) -> None:
    """torch.onnx, then ONNX Runtime's preparation and static quantization."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        rows_left = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            row = next(self.rows_left, None)
            return None if row is None else {"input": row}

    exported, prepared = output.with_suffix(".float.onnx"), output.with_suffix(".prepared.onnx")
    example = (torch.zeros(spec.shape),)
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(model, example, str(exported), dynamo=True, verbose=False, external_data=False, **names)
    quant_pre_process(str(exported), str(prepared), skip_symbolic_shape=True)
    types = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8}
    quantize_static(
        str(prepared), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **types
    )  # fmt: skip


def bare_executorch(model: Any, rows: Rows, spec: TensorSpec, output: Path) -> None:
    """PT2E static int8, lowered to XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torch.export import export
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    example = (torch.zeros(spec.shape),)
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    prepared = prepare_pt2e(export(model, example).module(), XNNPACKQuantizer().set_global(config))
    for row in rows:
        prepared(torch.from_numpy(row))
    program = export(convert_pt2e(prepared), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    output.write_bytes(lowered.to_executorch().buffer)


BARE: dict[str, Callable[[Any, Rows, TensorSpec, Path], None]] = {
    "tflite": bare_tflite,
    "onnx": bare_onnx,
    "executorch": bare_executorch,
}


def compare(name: str, format_: str, rounds: int, folder: Path) -> float:
    """Convert one model both ways; the ratio of the medians."""
    model, framework = sources.load(name), FORMATS[format_]
    converter = plugins.load("converter", format_)
    specs = sources.inputs_of(model, framework)
    given = data.load(model).calibration[0]
    calibration = data.to_layout(given, model.inputs[0].layout, specs[0].layout)
    rows = [row[None] for row in calibration]
    options = {key: values[0] for key, values in converter.OPTIONS.items()}
    source = sources.build(model, framework, sources.weights(model, print))
    output = folder / f"{name}{converter.SUFFIX}"

    def timed(work: Callable[[], object]) -> float:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            started = time.process_time()
            work()
            return time.process_time() - started

    def ours() -> float:
        arguments = (source, "int8", (calibration,), specs, options, output)
        return timed(lambda: converter.convert(*arguments, framework=framework))

    def bare() -> float:
        return timed(lambda: BARE[format_](source, rows, specs[0], output.with_name(f"bare-{output.name}")))

    ours(), bare()  # imports, and what the libraries keep between conversions
    figures = by_turns(rounds, edgekit=ours, bare=bare)
    return show(f"{name} to {format_} int8, from {framework}, {len(rows)} calibration inputs", figures, "s", LIMIT)


def second_run(folder: Path) -> bool:
    """Profile one model twice in an empty cache; whether the second one starts no worker and so converts nothing."""
    os.environ["EDGEKIT_CACHE_DIR"] = str(folder / "cache")
    started: list[str] = []
    run = worker.run

    def counted(function: str, *rest: Any, **more: Any) -> Json:
        started.append(function)
        return run(function, *rest, **more)

    def profile() -> str:
        started.clear()
        begun = time.perf_counter()
        report = edgekit.profile(
            MODELS[0], "local", runtimes=("tflite", "onnxruntime", "executorch"), precisions=("int8",), samples=10,
            output=folder / "results", effort={"launches": 1, "calls": 20, "warmup_s": 0.0},
        )  # fmt: skip
        assert all(cell["status"] == "ok" for cell in report.cells), report.cells
        conversions = sum("convert_in_worker" in function for function in started)
        seconds = time.perf_counter() - begun
        return f"{seconds:6.1f} s   {len(started)} workers started, {conversions} of them to convert"

    worker.run = counted
    try:
        print(f"profile {MODELS[0]} in int8 in three runtimes, twice, from an empty cache")
        print(f"  first   {profile()}")
        print(f"  second  {profile()}")
        quiet = not started
        begun = time.perf_counter()
        for format_ in FORMATS:
            convert.artifact(sources.load(MODELS[0]), format_, "int8")
        spent = (time.perf_counter() - begun) / len(FORMATS)
    finally:
        worker.run = run
    print(f"  convert.artifact of what is there already: {spent * 1e3:.1f} ms, {len(started)} workers started")
    return quiet and not started


def main() -> int:
    """Compare every format of both models, then run a profile twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--formats", nargs="+", default=tuple(FORMATS), choices=tuple(FORMATS))
    chosen = parser.parse_args()
    # Before any framework is imported. Several threads would wait for one another in busy loops.
    os.environ.update({**worker.ENVIRONMENT, "OMP_NUM_THREADS": "1"})
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = [(model, format_) for format_ in chosen.formats for model in chosen.models]
        ratios = [compare(model, format_, chosen.rounds, folder) for model, format_ in pairs]
        nothing = second_run(folder)
    print(f"worst ratio {max(ratios):.3f}; a second run converts {'nothing' if nothing else 'again'}")
    return 0 if max(ratios) <= LIMIT and nothing else 1


if __name__ == "__main__":
    sys.exit(main())
