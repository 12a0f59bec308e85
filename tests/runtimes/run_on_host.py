"""Runs an artifact with its official Python runtime on this machine: run_on_host.py FORMAT FILE INPUTS.npy OUTPUTS.npy.

A script of its own, so that a test can tell what the file computes without any code of edgekit between them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def run_tflite(path: str, x: np.ndarray) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    outputs = []
    for row in x:
        interpreter.set_tensor(into, row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(out))
    return outputs


def run_onnx(path: str, x: np.ndarray) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: row[None]})[0] for row in x]


def run_executorch(path: str, x: np.ndarray) -> list[Any]:
    import torch
    from executorch.runtime import Runtime, Verification

    method = Runtime.get().load_program(path, verification=Verification.Minimal).load_method("forward")
    assert method is not None
    # Canonical strides: the runtime reads the memory as it lies.
    return [method.execute([torch.empty((1, *row.shape)).copy_(torch.from_numpy(row))])[0].numpy().copy() for row in x]


if __name__ == "__main__":
    format_, file, inputs, results = sys.argv[1:]
    runners = {"tflite": run_tflite, "onnx": run_onnx, "executorch": run_executorch}
    np.save(results, np.concatenate(runners[format_](file, np.load(inputs))))
