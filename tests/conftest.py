"""Fixtures of the quick tests: a private cache, the real command line in an empty folder, variants of the fake model."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from harness import FAKE_MODEL, CommandLine, wait_gone

from edgekit.cache import cache_dir

# Hundreds of Pythons are started, and each would compile edgekit anew; so would this one the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
HEAVY_MARKS = ("runtimes", "emulated", "hardware")

hypothesis.settings.register_profile("edgekit", database=None, deadline=None, max_examples=60)
hypothesis.settings.register_profile("quick", database=None, deadline=None, max_examples=20)
hypothesis.settings.load_profile("edgekit")


def pytest_configure(config: pytest.Config) -> None:
    """Each process that tests has devices of its own on this machine: one is lent to one run at a time."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    os.environ["EDGEKIT_DEVICES_DIR"] = str(cache_dir() / "test-devices" / worker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left with one of them when the others have ended."""
    marked = {item.path for item in items if any(item.get_closest_marker(mark) for mark in HEAVY_MARKS)}
    items.sort(key=lambda item: (item.path not in marked, item.path.parent.name != "e2e"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all quick tests, so that what is the same is made once; never the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the devices of whoever runs it."""
    path = tmp_path / "config"
    monkeypatch.setenv("EDGEKIT_CONFIG_DIR", str(path))
    return path


@pytest.fixture(autouse=True)
def cache(request: pytest.FixtureRequest, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """The shared cache for every quick test. Tests of real runtimes use the user's: their parts take minutes to make."""
    if any(request.node.get_closest_marker(mark) for mark in HEAVY_MARKS):
        return None
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(shared_cache))
    monkeypatch.delenv("EDGEKIT_DEVICES_DIR")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # its threads are a quarter of what importing numpy costs
    return shared_cache


@pytest.fixture
def cold_cache(cache: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for tests that must start cold."""
    path = tmp_path / "cold cache"
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(path))
    return path


@pytest.fixture
def cli(request: pytest.FixtureRequest, tmp_path: Path, cache: Path | None) -> Iterator[CommandLine]:
    """The command line in an empty folder. Whatever it leaves running is an error."""
    place = tmp_path / "work"
    place.mkdir(exist_ok=True)
    line = CommandLine(place, warm=not any(request.node.get_closest_marker(mark) for mark in (*HEAVY_MARKS, "fresh")))
    yield line
    left = [pid for pid in line.running() if not wait_gone(pid)]
    assert not left, f"still running: {left}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "chromium is missing: ./tools/setup --tests installs it"
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a variant of the fake model: recipe("name", fault="crash", latency_ns=5) -> the path of its file."""

    def write(name: str, **changes: object) -> Path:
        path = tmp_path / "work" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        text = FAKE_MODEL.read_text("utf-8").replace("def fake_model(", "def _fake_model(")
        path.write_text(f"{text}\n\ndef fake_model():\n    return {{**_fake_model(), **{changes!r}}}\n", "utf-8")
        return path

    return write
