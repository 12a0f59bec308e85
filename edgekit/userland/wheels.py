"""The official wheels, fetched by pip for another machine and checked against the pinned hash."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from edgekit.userland import tools
from edgekit.userland.targets import Target, Wheel


def fetch(wheel: Wheel, target: Target, work: Path) -> Path:
    """Download the wheel for `target` into `work`; returns its path. Raises SetupError when it fails or the hash differs."""
    pin = f"{wheel.distribution}=={wheel.version}"
    requirements = work / "requirements.txt"
    requirements.write_text(f"{pin} --hash=sha256:{wheel.sha256[target.arch]}\n", encoding="ascii")
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]
    argv += ["--only-binary=:all:", "--require-hashes", "--implementation", "cp", "--python-version", wheel.python_tag]
    for platform in target.wheel_platforms:
        argv += ["--platform", platform]
    argv += ["--dest", str(work), "--requirement", str(requirements)]
    hint = "the first use of a runtime on a device needs PyPI: check the network and pip's configuration"
    tools.run(argv, f"fetching {pin} for {target.arch} with pip", hint)
    return next(work.glob(f"{wheel.distribution.replace('-', '_')}-*.whl"))


def unpack(archive: Path, wheel: Wheel, root: Path) -> list[Path]:
    """Unpack the wheel's libraries (and headers) into `root`, all of a wheel without any; returns the libraries' paths."""
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            wanted = name in wheel.libraries or (wheel.include and name.startswith(wheel.include + "/"))
            if wanted or not wheel.libraries:
                files.extract(name, root)
    return [root / name for name in wheel.libraries]
