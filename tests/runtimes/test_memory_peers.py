"""The memory of a model by our definition, beside what the runtime's own Python package takes for the same file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgekit import config, convert, data, plugins, sources
from edgekit.session import Session

pytestmark = pytest.mark.runtimes
PEER = Path(__file__).with_name("memory_peers.py")
CALLS = 5
MEBI = 1 << 20
TOLERANCE_MIB, TOLERANCE_SHARE = 3.0, 0.1


def ours(runtime: str, file: Path, inputs: Path) -> dict[str, Any]:
    """The memory figures of the agent on this machine."""
    with Session.open(config.device("local"), runtime, lambda text: None) as live:
        request = {"runtime": runtime, "model": live.push(file), "input": live.push(inputs), "threads": 1}
        found: dict[str, Any] = live.call("predict", {**request, "libraries": live.libraries, "output": "out"}, 120)
    return dict(found["memory"])


@pytest.mark.parametrize("name", ["digits_cnn", "mobilenet_v2"])
@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "executorch"])
def test_a_model_takes_what_it_takes_in_the_runtimes_own_package(runtime: str, name: str, tmp_path: Path) -> None:
    model = sources.load(name)
    artifact = convert.artifact(model, plugins.load("runtime", runtime).FORMATS[0], "fp32")
    rows = data.load(model).x[0][:CALLS]
    layouts = [spec.layout for spec in model.inputs]
    (tmp_path / "input").write_bytes(data.encode((rows,), artifact.inputs, layouts))
    found = ours(runtime, artifact.path, tmp_path / "input")
    argv = [sys.executable, PEER, runtime, artifact.path, str(CALLS)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = int(done.stdout.split()[-1])
    allowed = TOLERANCE_MIB * MEBI + TOLERANCE_SHARE * theirs
    assert abs(found["delta_bytes"] - theirs) < allowed, (found["delta_bytes"] / MEBI, theirs / MEBI)
