"""The bytes that a device answers for the same bytes: by them links and devices are compared."""

from __future__ import annotations

from pathlib import Path

from edgekit import convert, data, session, sources
from edgekit.types import Artifact

SAMPLES = 20


def questions(runtime: str, folder: Path) -> list[tuple[Artifact, Path]]:
    """digits_cnn as fp32 and int8 for a runtime, each with a file of inputs as its input tensor wants them."""
    model = sources.load("digits_cnn")
    inputs = data.load(model)
    found = []
    for precision in ("fp32", "int8"):
        artifact = convert.artifact(model, {"onnxruntime": "onnx"}.get(runtime, runtime), precision)
        places = data.order(artifact.inputs, model.inputs)
        xs, layouts = [inputs.x[p][:SAMPLES] for p in places], [model.inputs[p].layout for p in places]
        raw = folder / f"{precision}.bin"
        raw.write_bytes(data.encode(xs, artifact.inputs, layouts))
        found.append((artifact, raw))
    return found


def answers(live: session.Session, runtime: str, asked: list[tuple[Artifact, Path]], folder: Path) -> list[bytes]:
    """What comes out on a device, of the first model float32 [SAMPLES, 10], as bytes."""
    found = []
    for artifact, raw in asked:
        request = {
            "runtime": runtime,
            "model": live.push(artifact.path),
            "threads": 1,
            "libraries": live.libraries,
            "input": live.push(raw),
            "emulated": False,
        }
        live.fetch("predict", request, 120, folder / "answer.bin")
        found.append((folder / "answer.bin").read_bytes())
    assert len(found[0]) == SAMPLES * 10 * 4
    return found
