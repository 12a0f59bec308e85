"""Debian packages of another architecture, unpacked into a folder by the host's apt with a configuration of its own.

No root is needed and the host's package lists, cache and dpkg database are not touched.
"""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from edgekit.errors import SetupError
from edgekit.userland import tools

# A host whose mirror does not carry the device's architecture names a sources.list file of its own here.
SOURCES_VARIABLE = "EDGEKIT_APT_SOURCES"
HINT = (
    "the first use of a device needs the Debian mirror: check the network, and that the apt sources of this machine "
    f"carry its architecture (or name a sources.list that does in {SOURCES_VARIABLE})"
)


def unpack(packages: tuple[str, ...], debian_arch: str, work: Path, root: Path) -> dict[str, str]:
    """Fetch `packages` and all they depend on into `work`, unpack them into `root`; returns name -> version."""
    apt = tools.find("apt", "apt-get")
    dpkg_deb = tools.find("dpkg", "dpkg-deb")
    environment = {"APT_CONFIG": str(configure(debian_arch, work))}
    what = f"fetching the {debian_arch} packages with apt"
    update_error = ""
    try:
        tools.run([apt, "update"], what, HINT, env=environment)
    except SetupError as error:
        # A third-party source of the host may lack this architecture; what matters is whether the packages resolve.
        update_error = error.message
    try:
        tools.run([apt, "install", "--download-only", "--yes", *packages], what, HINT, env=environment)
    except SetupError as error:
        raise SetupError(update_error or error.message, HINT) from error
    versions = {}
    for archive in sorted((work / "cache" / "archives").glob("*.deb")):
        tools.run([dpkg_deb, "-x", archive, root], f"unpacking {archive.name}")
        name, version, _ = urllib.parse.unquote(archive.stem).split("_")
        versions[name] = version
    return versions


def configure(debian_arch: str, work: Path) -> Path:
    """Write the private apt configuration under `work`; returns its path."""
    for folder in ("state/lists/partial", "cache/archives/partial", "log", "parts"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "status").touch()
    settings = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Log": work / "log",
        # The host's apt.conf.d may hold hooks that act on the host; its ways of reaching the mirror are copied below.
        "Dir::Etc::Parts": work / "parts",
        "Dir::Etc::main": "/dev/null",
        "APT::Architecture": debian_arch,
        "APT::Architectures": debian_arch,
        "APT::Sandbox::User": "",
        "APT::Install-Recommends": "0",
        "APT::Update::Error-Mode": "any",  # else a mirror out of reach is only a warning
        "Acquire::Retries": "2",
        "Debug::NoLocking": "1",
    }
    if os.environ.get(SOURCES_VARIABLE):
        settings["Dir::Etc::sourcelist"] = Path(os.environ[SOURCES_VARIABLE]).absolute()
        settings["Dir::Etc::sourceparts"] = work / "parts"
    lines = [line for line in host_settings() if not line.startswith("Acquire::Languages")]
    lines += [f'{name} "{value}";' for name, value in settings.items()]
    lines.append('Acquire::Languages:: "none";')
    path = work / "apt.conf"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def host_settings() -> list[str]:
    """How this host reaches its mirrors (proxies, certificates, date checks), as lines of apt.conf."""
    dump = tools.run([tools.find("apt", "apt-config"), "dump"], "reading the apt configuration")
    unwanted = ("Acquire::IndexTargets", "Acquire::Changelogs", "Acquire::cdrom")
    return [line for line in dump.splitlines() if line.startswith("Acquire::") and not line.startswith(unwanted)]
