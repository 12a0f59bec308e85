"""Runs artifacts of one format with its official Python runtime on this machine: run_on_host.py FORMAT.

A script of its own, so that a test can tell what a file computes without any code of edgekit between them. Each line of its
input is JSON, [file, inputs.npz, outputs.npz, names of the inputs], and is answered by a line: "done", or what went wrong.
Both archives hold one array [N, ...] per input or output, under "0", "1" ...; inputs are encoded as the file wants them.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Run = Callable[[Sequence[Any]], Sequence[Any]]


def tflite(path: str, names: Sequence[str]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details(), interpreter.get_output_details()

    def run(xs: Sequence[Any]) -> list[Any]:
        for tensor, x in zip(into, xs, strict=True):
            interpreter.set_tensor(tensor["index"], x)
        interpreter.invoke()
        return [interpreter.get_tensor(tensor["index"]) for tensor in out]

    return run


def onnx(path: str, names: Sequence[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda xs: session.run(None, dict(zip(names, xs, strict=True)))


def executorch(path: str, names: Sequence[str]) -> Run:
    import torch
    from executorch.runtime import Runtime, Verification

    method = Runtime.get().load_program(path, verification=Verification.Minimal).load_method("forward")
    assert method is not None

    def run(xs: Sequence[Any]) -> list[Any]:
        # Canonical strides: the runtime reads the memory as it lies.
        tensors = [torch.from_numpy(np.ascontiguousarray(x)).clone(memory_format=torch.contiguous_format) for x in xs]
        return [value.numpy().copy() for value in method.execute(tensors)]

    return run


def from_torch(load: Callable[[str], Any]) -> Callable[[str, Sequence[str]], Run]:
    def runner(path: str, names: Sequence[str]) -> Run:
        import torch

        module = load(path)

        def run(xs: Sequence[Any]) -> list[Any]:
            with torch.no_grad():
                found = module(*(torch.from_numpy(np.ascontiguousarray(x)) for x in xs))
            return [value.numpy() for value in (found if isinstance(found, (tuple, list)) else [found])]

        return run

    return runner


def torchscript(path: str) -> Any:
    import torch

    return torch.jit.load(path)


def ptl(path: str) -> Any:
    from torch.jit.mobile import _load_for_lite_interpreter

    return _load_for_lite_interpreter(path)


def aoti(path: str) -> Any:
    import torch

    return torch._inductor.aoti_load_package(path)


def savedmodel(path: str, names: Sequence[str]) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    function = loaded.signatures["serving_default"]

    def run(xs: Sequence[Any]) -> list[Any]:
        assert loaded  # it owns the variables
        found = function(**{name: tf.constant(x) for name, x in zip(names, xs, strict=True)})
        return [found[name].numpy() for name in sorted(found)]

    return run


RUNNERS = {
    "tflite": tflite,
    "onnx": onnx,
    "executorch": executorch,
    "torchscript": from_torch(torchscript),
    "ptl": from_torch(ptl),
    "aoti": from_torch(aoti),
    "savedmodel": savedmodel,
}


def answer(format_: str, file: str, inputs: str, results: str, names: Sequence[str]) -> None:
    """Run a file on every row of the inputs."""
    with np.load(inputs) as archive:
        arrays = [archive[str(index)] for index in range(len(archive.files))]
    run = RUNNERS[format_](file, names)
    rows = [run([array[index : index + 1] for array in arrays]) for index in range(len(arrays[0]))]
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    np.savez(results, **{str(index): column for index, column in enumerate(columns)})


if __name__ == "__main__":
    for line in sys.stdin:
        said = "done"
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer(sys.argv[1], *json.loads(line))
            except Exception:
                said = json.dumps(traceback.format_exc()[-2000:])
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
