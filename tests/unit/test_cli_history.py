"""What the commands over all runs print, and that a run is one run whichever way leads to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import FAKE_BOARD, FAKE_MODEL, CommandLine

from edgekit import places

pytestmark = pytest.mark.usefixtures("cold_cache")


def test_a_folder_is_noted_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "results")
    places.note(tmp_path / "link")
    places.note(tmp_path / "results")
    places.note(tmp_path / "link" / ".." / "results")
    assert places.noted() == [tmp_path / "results"]


@pytest.mark.slow
def test_a_link_to_the_results_makes_no_second_run_of_the_first(cli: CommandLine, cold_cache: Path) -> None:
    """Else the one run would be older than itself, and prune would take it."""
    environment = {"EDGEKIT_CACHE_DIR": str(cold_cache)}
    done = cli("profile", FAKE_MODEL, "--device", FAKE_BOARD, "-p", "fp32", "-q", **environment)
    assert done.rc == 0, done.stderr
    (cli.cwd / "link").symlink_to(cli.cwd / "results")
    for folder in ("results", "link"):
        (run,) = cli("runs", "-o", folder, "--json", **environment).json
        assert Path(run["path"]).parent == cli.cwd / "results"
    gone = cli("prune", "--keep", "1", "--yes", "-o", "link", "--json", **environment).json
    assert gone == {"dry_run": False, "runs": [], "left": {}}
    assert Path(run["path"]).is_dir()
    told = cli("history", "fake_identity", "-o", "link", **environment)
    assert "  when (UTC)" in told.stdout and told.stdout.count("123.5 k instructions") == 1


def test_a_hostile_name_moves_no_terminal(cli: CommandLine, cold_cache: Path) -> None:
    environment = {"EDGEKIT_CACHE_DIR": str(cold_cache)}
    for _ in range(2):
        assert cli("profile", FAKE_MODEL, "--device", FAKE_BOARD, "-p", "fp32", "-q", **environment).rc == 0
    for number, run in enumerate(sorted((cli.cwd / "results").iterdir())):
        run.rename(run.with_name(f"a\x1b[31mred\x07{number}"))
    for command in (("runs",), ("history", "fake_identity"), ("prune", "--keep", "1", "--dry-run")):
        done = cli(*command, **environment)
        assert done.rc == 0, done.stderr
        assert "a?[31mred?" in done.stdout and "\x1b" not in done.stdout
