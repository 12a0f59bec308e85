"""A runtime alone, by its own Python package: how far its process grows over the same one without a model.

memory_peers.py RUNTIME MODEL_FILE CALLS prints bytes. Nothing of edgekit is in the process.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path


def litert(path: str) -> Callable[[], Callable[[], object]]:
    """ai_edge_litert's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    def load() -> Callable[[], object]:
        found = Interpreter(model_path=path, num_threads=1)
        found.allocate_tensors()
        for one in found.get_input_details():
            found.tensor(one["index"])().fill(0)
        return found.invoke  # type: ignore[no-any-return]

    return load


def onnxruntime(path: str) -> Callable[[], Callable[[], object]]:
    """onnxruntime's session."""
    import numpy as np
    import onnxruntime as ort

    def load() -> Callable[[], object]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        found = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {one.name: np.zeros(one.shape, np.float32) for one in found.get_inputs()}
        return lambda: found.run(None, feeds)

    return load


def executorch(path: str) -> Callable[[], Callable[[], object]]:
    """executorch's runtime, which needs torch for its tensors."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    portable_lib._unsafe_reset_threadpool(1)

    def load() -> Callable[[], object]:
        found = Runtime.get().load_program(path).load_method("forward")
        assert found is not None
        meta = found.metadata.input_tensor_meta(0)
        tensor = torch.zeros(meta.sizes())
        return lambda: found.execute([tensor])

    return load


def status(field: str) -> int:
    """A kB field of this process in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"), re.M)
    assert found
    return int(found[1]) * 1024


def main() -> None:
    """Import, note what is resident, load and run, and print how much higher it was at the most."""
    name, path, calls = sys.argv[1:]
    load = {"tflite": litert, "onnxruntime": onnxruntime, "executorch": executorch}[name](path)
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = status("VmRSS")
    run = load()
    for _ in range(int(calls)):
        run()
    sys.stdout.write(f"{status('VmHWM') - before}\n")


if __name__ == "__main__":
    main()
