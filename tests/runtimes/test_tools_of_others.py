"""What is written for other tools, read by these tools themselves: TensorBoard's reader and server, MLflow's store."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page as made
import pytest
from harness import wait_until

from edgekit import stats, store
from edgekit.errors import SetupError
from edgekit.report import Report, tensorboard
from edgekit.report.columns import COLUMNS, numbers

pytestmark = pytest.mark.runtimes
RUN = Path(__file__).parents[1] / "golden" / "forms" / "run"


@pytest.fixture(autouse=True)
def _nothing_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def report() -> Report:
    """A recorded run with every kind of cell and of figures."""
    return Report.load(RUN)


@pytest.fixture
def events(report: Report, tmp_path: Path) -> Path:
    """That report as TensorBoard's events."""
    assert len(tensorboard.write(report, tmp_path / "logs")) == len(report.cells)
    return tmp_path / "logs"


@pytest.mark.filterwarnings("ignore")  # of the packages below TensorBoard
def test_tensorboards_reader_finds_the_same_figures(report: Report, events: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    reader = EventMultiplexer(size_guidance={"histograms": 0}).AddRunsFromDirectory(str(events))
    reader.Reload()
    lines = {line["id"]: line for line in store.Run.load(RUN).lines}
    assert len(reader.Runs()) == len(report.cells)
    for cell in report.cells:
        name = f"{report.run}/{tensorboard.named(cell['id'])}"
        tags = reader.Runs()[name]
        found = {tag: [one.value for one in reader.Scalars(name, tag)] for tag in tags["scalars"] if "/" not in tag}
        assert found == {key: [pytest.approx(value, rel=1e-6)] for key, value in numbers(cell).items()}
        windows = cell.get("sustained", {}).get("windows", [])
        if windows:
            curve = [(one.step, one.value) for one in reader.Scalars(name, "sustained/p50_ns")]
            assert curve == [(1000 * one["end_s"], pytest.approx(one["p50_ns"], rel=1e-6)) for one in windows]
        if cell["status"] != "ok":
            assert not tags["histograms"]
            continue
        launches = stats.per_call(lines[cell["id"]]["launches"])
        histograms = reader.Histograms(name, tensorboard.HISTOGRAM)
        assert [one.step for one in histograms] == list(range(len(launches)))
        for one, samples in zip(histograms, launches, strict=True):
            told = one.histogram_value
            assert (told.num, told.min, told.max) == (len(samples), min(samples), max(samples))
            assert told.sum == pytest.approx(sum(samples))


def test_what_was_written_is_not_written_twice(report: Report, events: Path) -> None:
    before = sorted(events.rglob("events*"))
    tensorboard.write(report, events)
    assert sorted(events.rglob("events*")) == before


@pytest.mark.filterwarnings("ignore")  # of the packages below TensorBoard
def test_a_cell_that_was_measured_anew_is_written_anew(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    path = made.write(tmp_path, [made.line(0), made.line(1)])
    (tmp_path / "logs").mkdir()
    kept, _ = tensorboard.write(Report.load(path), tmp_path / "logs")
    (before,) = kept.iterdir()
    (path / "measurements.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (made.line(0), made.line(5) | {"id": made.line(1)["id"]})), "utf-8"
    )
    again = Report.load(path)
    tensorboard.write(again, tmp_path / "logs")
    assert list(kept.iterdir()) == [before]
    reader = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "logs"))
    reader.Reload()
    name = f"{again.run}/{tensorboard.named(again.cells[1]['id'])}"
    assert [one.value for one in reader.Scalars(name, "p50_ns")] == [
        pytest.approx(again.cells[1]["latency"]["p50_ns"], rel=1e-6)
    ]


@pytest.fixture
def hostile(tmp_path: Path) -> Report:
    """A run whose cells have names that no folder and no tag can have."""
    lines = [made.line(number) | {"id": name} for number, name in enumerate((*made.HOSTILE, "../../x", "n" * 10_000))]
    return Report.load(made.write(tmp_path / "hostile", lines))


@pytest.mark.filterwarnings("ignore")  # of the packages below TensorBoard
def test_tensorboard_takes_names_of_any_kind(hostile: Report, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    folder = tmp_path / "logs"
    written = tensorboard.write(hostile, folder)
    assert len(set(written)) == len(hostile.cells)
    assert all(place.parent == folder / hostile.run for place in written)
    reader = EventMultiplexer().AddRunsFromDirectory(str(folder))
    reader.Reload()
    assert len(reader.Runs()) == len(hostile.cells)


@pytest.fixture
def server(events: Path) -> Iterator[str]:
    """The address of a real TensorBoard that serves these events."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(events), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--load_fast", "false"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stderr
    said = b""
    try:
        while not (found := re.search(rb"at (http://127.0.0.1:\d+)/", said)):
            assert select.select([process.stderr], [], [], 120)[0], "TensorBoard says nothing"
            read = process.stderr.read1()  # type: ignore[attr-defined]
            assert read, said.decode()
            said += read
        yield found[1].decode()
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def test_tensorboards_server_shows_them(report: Report, server: str) -> None:
    def ask(path: str, **query: str) -> Any:
        address = f"{server}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return json.load(answer)

    names = {f"{report.run}/{tensorboard.named(cell['id'])}" for cell in report.cells}
    tags = wait_until(lambda: found if (found := ask("scalars/tags")).keys() == names else None)
    name = f"{report.run}/{tensorboard.named(report.cells[0]['id'])}"
    assert "p50_ns" in tags[name]
    ((_, step, value),) = ask("scalars/scalars", run=name, tag="p50_ns")
    assert (step, value) == (0, pytest.approx(report.cells[0]["latency"]["p50_ns"], rel=1e-6))
    assert len(ask("histograms/histograms", run=name, tag=tensorboard.HISTOGRAM)) == 6


@pytest.mark.filterwarnings("ignore")  # of the packages below MLflow
def test_mlflows_store_keeps_them(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from edgekit.report import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    made = mlflow.log(report, uri)
    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "edgekit"]
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == set(made)
    for cell, number in zip(report.cells, made, strict=True):
        run = client.get_run(number)
        assert run.data.metrics == {key: float(value) for key, value in numbers(cell).items()}
        words = {column.name: column.of(cell) for column in COLUMNS if not column.number}
        assert run.data.params == {key: str(value) for key, value in words.items() if value is not None}
        assert run.info.status == ("FAILED" if cell["status"] == "failed" else "FINISHED")
        assert run.data.tags["edgekit.run"] == report.run
        assert [one.path for one in client.list_artifacts(number)] == ["run.json"]
    assert len(mlflow.log(report, uri)) == len(made), "an experiment that is there takes more runs"


@pytest.mark.filterwarnings("ignore")
def test_mlflow_takes_names_of_any_kind(hostile: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from edgekit.report import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    logged = mlflow.log(hostile, uri)
    names = [MlflowClient(tracking_uri=uri).get_run(number).info.run_name for number in logged]
    assert names == [cell["id"][: mlflow.NAMES] for cell in hostile.cells]


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_is_none_is_named(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.report import mlflow

    with pytest.raises(SetupError, match="MLflow at nonsense://x refused"):
        mlflow.log(report, "nonsense://x")
