"""The Python of the documentation, run as it stands there, on this machine and on the emulated board it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import manual
import pytest
from harness import ROOT, CommandLine

pytestmark = [pytest.mark.runtimes, pytest.mark.timeout(600)]
SNIPPETS = {(found.page.name, found.text.splitlines()[0][:20]): found.text for found in manual.snippets()}
QUICK, REFERENCE, README = (
    ("quickstart.md", "import edgekit"),
    ("python.md", "import edgekit"),
    ("README.md", "import edgekit"),
)
RECIPE, TORCH = ("adding-a-model.md", '"""Which half of the'), ("adding-a-model.md", "def torch_model():")


def python(text: str, folder: Path) -> str:
    """What an example prints, in an empty folder."""
    command = [sys.executable, "-c", text]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert set(SNIPPETS) == {QUICK, REFERENCE, README, RECIPE, TORCH}


@pytest.mark.parametrize("name", [QUICK, REFERENCE], ids=lambda name: name[0])
def test_an_example_prints_latencies(name: tuple[str, str], tmp_path: Path) -> None:
    assert re.search(
        r"^digits_mlp/int8/tflite@local\+threads=1 \d+|^digits_mlp/fp32/tflite@local\+threads=1 \d+",
        python(SNIPPETS[name], tmp_path),
        re.M,
    )


@pytest.mark.emulated
def test_the_example_of_the_readme(tmp_path: Path) -> None:
    told = python(f"{SNIPPETS[README]}\nprint(best['id'], best['instructions']['total'])", tmp_path)
    assert re.fullmatch(r"digits_cnn/int8/\w+@pi4\+threads=1 \d{6}\n", told)


def commands(page: str, *words: str) -> list[list[str]]:
    """The commands of a page with these words in them."""
    found = [manual.argv(one.text) for one in manual.commands() if one.page.name == page]
    return [argv for argv in found if set(words) <= set(argv)]


MAKE = """
import numpy as np
x = np.random.default_rng(0).uniform(0, 1, (400, 16)).astype("float32")
y = (x[:, 8:].sum(1) > x[:, :8].sum(1)).astype("int64")
np.savez("rows.npz", train_x=x[:200], test_x=x[200:], test_y=y[200:])
weights = np.where(np.arange(16)[:, None] < 8, [[1.0, -1.0]], [[-1.0, 1.0]]).astype("float32")
"""
KERAS = """
import keras
model = keras.Sequential([keras.Input((16,), name="sensors"), keras.layers.Dense(2)])
model.layers[0].set_weights([weights, np.zeros(2, "float32")])
model.save("trained.keras")
"""
PYTORCH = """
import torch
torch.save(torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).state_dict(), "trained.pt")
"""


def test_the_recipe_of_a_trained_keras_model(cli: CommandLine) -> None:
    python(MAKE + KERAS, cli.cwd)
    (cli.cwd / "sensor.py").write_text(SNIPPETS[RECIPE], "utf-8")
    (argv,) = commands("adding-a-model.md", "sensor.py")
    done = cli(*argv)
    assert done.rc == 0, done.stderr
    assert re.search(r"fp32\b.*200/200", done.stdout), done.stdout


def test_the_recipe_of_a_torch_checkpoint(cli: CommandLine) -> None:
    python(MAKE + PYTORCH, cli.cwd)
    head = SNIPPETS[RECIPE].partition("def keras_model")[0].replace('("trained.keras", "rows.npz")', '("trained.pt",)')
    (cli.cwd / "sensor.py").write_text(head + SNIPPETS[TORCH], "utf-8")
    done = cli(
        "profile",
        "sensor.py",
        "--device",
        "local",
        "--runtime",
        "onnxruntime",
        "--precision",
        "fp32",
        "--launches",
        1,
        "--json",
    )
    assert done.rc == 0, done.stderr
    page = (manual.DOCS / "adding-a-model.md").read_text("utf-8")
    (said,) = re.findall(r"    weak: (no data were given.*)", page)
    told = [warning["message"] for cell in done.json["cells"] for warning in cell["warnings"]] + [
        w["message"] for w in done.json["warnings"]
    ]
    assert said in told


DATA = Path(os.environ.get("EDGEKIT_TEST_DATA", ROOT.parent / "shared" / "data"))
# A sentence of the report, with the lines that go on with it.
TOLD = re.compile(
    r"^(?:tested on|calibrated with|labels:|weak:|edgekit:|input_1|\"paired\").*(?:\n  \S.*)*", re.MULTILINE
)


def shown() -> Iterator[tuple[list[str], str]]:
    """The commands of docs/data.md on this machine, with what they print there; test_real_images has those on the board."""
    for _, _, text in manual.blocks(manual.DOCS / "data.md"):
        for part in re.split(r"^\s*\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, said = part.partition("\n")
            if command.startswith("edgekit ") and "--device pi4" not in command:
                yield manual.argv(command), said


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what docs/data.md speaks of: 300 images of CIFAR-10, ResNet-8 of MLPerf Tiny, a metric."""
    if not (DATA / "cifar10").is_dir() or not (DATA / "mlperf_tiny").is_dir():
        pytest.skip("there is no cifar10/ and mlperf_tiny/: name the folder that holds them in EDGEKIT_TEST_DATA")
    folder = tmp_path_factory.mktemp("photos")
    (folder / "cifar10").symlink_to(DATA / "cifar10")
    for file in (DATA / "mlperf_tiny").iterdir():
        (folder / file.name).symlink_to(file)
    (metric,) = [text for _, _, text in manual.blocks(manual.DOCS / "data.md") if text.startswith("$ cat worst.py")]
    body = metric.partition("\n")[2].partition("\n\n")[0]
    (folder / "worst.py").write_text(textwrap.dedent(body), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("argv", "said"), list(shown()), ids=lambda given: " ".join(given[1:]) if isinstance(given, list) else ""
)
def test_what_docs_data_shows_is_what_is_printed(photos: Path, argv: list[str], said: str) -> None:
    done = CommandLine(photos)(*argv)
    assert done.rc == (2 if said.startswith("edgekit: ") else 0), done.stderr
    printed = "".join((done.stdout + done.stderr).split())
    figures = re.findall(r"\b\d+/\d+\b|\b0\.4667\b", said)
    told = ["".join(text.split()) for text in [*TOLD.findall(said), *figures]]
    assert told and [text for text in told if text not in printed] == []
