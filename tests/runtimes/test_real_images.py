"""Real files on real images: the counts of a plain LiteRT loop, through our own preprocessing and labels, to the image.

The files are too large for the repository: a folder with cifar10/CLASS/*.jpg and mlperf_tiny/*.tflite of mlcommons/tiny.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from harness import ROOT, CommandLine
from PIL import Image

from edgekit import holdout, metrics, preprocess
from edgekit.types import Quantization, TensorSpec

PLACE = Path(os.environ.get("EDGEKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
IMAGES, FILES = PLACE / "cifar10", PLACE / "mlperf_tiny"

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.skipif(
        not (IMAGES.is_dir() and FILES.is_dir()),
        reason="there is no cifar10/ and mlperf_tiny/: name the folder that holds them in EDGEKIT_TEST_DATA",
    ),
]
CASES = [("fp32", "range=0..255", 224), ("int8", "", 222)]


def interpreter(precision: str) -> tuple[object, dict[str, object], dict[str, object]]:
    """(a LiteRT interpreter, its input, its output) of ResNet-8."""
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(str(FILES / f"ic_resnet8_{precision}.tflite"), num_threads=1)
    made.allocate_tensors()
    return made, made.get_input_details()[0], made.get_output_details()[0]


@pytest.mark.parametrize(("precision", "text", "expected"), CASES)
def test_the_counts_of_the_plain_loop(precision: str, text: str, expected: int) -> None:
    made, taken, given = interpreter(precision)
    scale, zero_point = taken["quantization"]
    quantization = Quantization((float(scale),), (int(zero_point),)) if scale else None
    shape, dtype = tuple(int(side) for side in taken["shape"]), np.dtype(taken["dtype"])
    spec = TensorSpec(taken["name"], shape, dtype.name, None, quantization)
    settings = preprocess.gather(("--preprocess", text))
    found = holdout.prepare((spec,), settings, IMAGES, None, None, False, 10, lambda _: None)
    outputs = []
    for row in found.x[0]:
        stored = np.clip(np.rint(row / np.float64(scale)) + zero_point, -128, 127) if scale else row
        made.set_tensor(taken["index"], stored[None].astype(dtype))
        made.invoke()
        outputs.append(made.get_tensor(given["index"])[0].astype(np.float32))
    judged = metrics.judge(np.array(outputs), found.y, found.provenance["labels"])
    assert (judged["correct"], judged["total"]) == (expected, 300)
    assert found.provenance["data"]["applied"][0]["as_they_are"] == 300


def test_the_plain_loop_itself() -> None:
    """Not a line of ours between the file and the interpreter, so that the expected counts are known to be right."""
    for precision, _, expected in CASES:
        made, taken, given = interpreter(precision)
        right = 0
        for label, folder in enumerate(sorted(IMAGES.iterdir())):
            for path in sorted(folder.iterdir()):
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
                stored = pixels - 128 if precision == "int8" else pixels
                made.set_tensor(taken["index"], stored[None].astype(taken["dtype"]))
                made.invoke()
                right += int(made.get_tensor(given["index"])[0].argmax()) == label
        assert right == expected


@pytest.mark.parametrize(("precision", "text", "expected"), CASES)
def test_profile_reports_them(cli: CommandLine, precision: str, text: str, expected: int) -> None:
    options = ["--preprocess", text] if text else []
    file = FILES / f"ic_resnet8_{precision}.tflite"
    done = cli("profile", file, "--data", IMAGES, *options, "--device", "local", "--launches", "1", "--json")
    assert done.rc == 0, done.stderr
    (cell,) = done.json["cells"]
    assert (cell["accuracy"]["correct"], cell["accuracy"]["total"]) == (expected, 300)


@pytest.mark.emulated
@pytest.mark.parametrize(("precision", "text", "expected"), CASES)
def test_profile_reports_them_on_the_emulated_board(cli: CommandLine, precision: str, text: str, expected: int) -> None:
    options = ["--preprocess", text] if text else []
    file = FILES / f"ic_resnet8_{precision}.tflite"
    done = cli("profile", file, "--data", IMAGES, *options, "--device", "pi4", "--json")
    assert done.rc == 0, done.stderr
    (cell,) = [cell for cell in done.json["cells"] if cell["runtime"] == "tflite"]
    assert (cell["accuracy"]["correct"], cell["accuracy"]["total"]) == (expected, 300)
