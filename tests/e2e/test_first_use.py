"""What a first use meets on a machine that lacks something: one sentence, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import FAKE_DEVICE, FAKE_MODEL, ROOT, CommandLine

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there
OFFLINE = {
    "http_proxy": NOWHERE,
    "https_proxy": NOWHERE,
    "PIP_INDEX_URL": f"{NOWHERE}/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
}


def leftovers(cache: Path) -> list[str]:
    """Everything in a cache that is neither a finished entry nor an empty lock."""
    return [
        str(path.relative_to(cache))
        for path in cache.glob("*/*")
        if path.name.startswith(".") and not (path.name.endswith(".lock") and path.stat().st_size == 0)
    ]


@pytest.mark.skipif(not shutil.which("gcc"), reason="the plug-in is compiled before the emulator is looked for")
def test_without_the_emulator_the_package_is_named(cli: CommandLine, tmp_path: Path, cold_cache: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("gcc", "g++", "as", "ld", "git"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    ran = cli("profile", FAKE_MODEL, "--device", ROOT / "device_profiles/pi4.toml", "-q", PATH=str(tools))
    assert ran.rc == 3, ran.stderr
    assert "qemu-aarch64 is not installed" in ran.stderr
    assert "apt-get install qemu-user" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not leftovers(cold_cache)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="looks for the emulator first; ./tools/setup installs it")
def test_without_a_network_first_use_says_so(cli: CommandLine, cold_cache: Path) -> None:
    ran = cli("profile", FAKE_MODEL, "--device", ROOT / "device_profiles/pi4.toml", "-q", **OFFLINE)
    assert ran.rc == 3, ran.stderr
    assert "the first use of a device needs the Debian mirror: check the network" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not leftovers(cold_cache)


def test_a_full_disk_ends_the_run_and_keeps_the_cache_whole(tmp_path: Path) -> None:
    """A real full disk: a file system of 64 kB in a mount namespace of its own."""
    small = tmp_path / "small"
    small.mkdir()
    can = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", str(small)], capture_output=True)
    if can.returncode:
        pytest.skip("this kernel or container does not allow an unprivileged mount namespace")
    profile = f"edgekit profile {FAKE_MODEL} --device {FAKE_DEVICE} -q --output {tmp_path / 'results'}"
    script = f"""
        mount -t tmpfs -o size=64k none {small} || exit 99
        EDGEKIT_CACHE_DIR={small} python -m {profile}; echo "exit code $?"
        find {small} -mindepth 2 -maxdepth 2 -not -name '*.lock'
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "exit code 3" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "--cache-dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [line for line in done.stdout.splitlines() if "/." in line.removeprefix(str(small))], done.stdout
