"""Recipes for CI: what to measure, on which device and against which policy, as files of GitHub, GitLab and pre-commit.

Text only: nothing is measured here, and nothing is written over.
"""

from __future__ import annotations

import json
import re
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__, baseline, config, doctor, policy, sources
from edgekit.cache import disk_errors, is_file
from edgekit.errors import UserError, unknown
from edgekit.types import Device

TEMPLATES = Path(__file__).parent / "templates"
MODEL = "digits_cnn"
PUBLISHED = f"edgekit[all]=={__version__}"
PRESENT = ("apt", "dpkg")  # in every image of Debian


@dataclass(frozen=True)
class Kind:
    """Where a recipe is written, the device it measures on where none is named, and what to do when the file is there already."""

    target: str
    device: str
    elsewhere: str
    folder: str = ".edgekit"


KINDS: Mapping[str, Kind] = {
    "github": Kind(".github/workflows/edgekit.yml", "pi4", "put it into another file of .github/workflows"),
    "github-android": Kind(
        ".github/workflows/edgekit-android.yml",
        "android-emulator",
        "put it into another file of .github/workflows",
        ".edgekit/android",
    ),
    "gitlab": Kind(".gitlab-ci.yml", "pi4", "put it into a file beside it, and add: include: {local: THAT_FILE}"),
    "pre-commit": Kind(".pre-commit-config.yaml", "pi4", "add its `- repo:` to the list there"),
}


class Template(string.Template):
    """A recipe with @@{name} to fill in: "$" and "{{" mean something to the shell and to GitHub."""

    delimiter = "@@"


@dataclass(frozen=True)
class Asked:
    """What a recipe measures, and what it holds that against. Paths are relative to `root`, the root of the repository.

    `model` and `device` as for `edgekit profile`; `install` is what pip is told to install (default: installed()).
    """

    kind: str
    model: str = MODEL
    device: str | None = None
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    policy: str | None = None
    baseline: str | None = None
    install: str | None = None
    root: Path = Path()


@dataclass(frozen=True)
class Recipe:
    """A recipe as text, the policy that goes with it, the commands that it consists of, for a shell, and the files of the
    repository that it reads."""

    kind: str
    target: str
    text: str
    policy: str
    policy_text: str
    baseline: str
    profile: str
    gate: str
    reads: tuple[str, ...]


def make(asked: Asked) -> Recipe:
    """The recipe that was asked for. Raises UserError for an unknown kind, model or device, for what CI would not have, and for
    a name that no recipe can hold."""
    if asked.kind not in KINDS:
        raise unknown("recipe", asked.kind, KINDS)
    kind = KINDS[asked.kind]
    model, (device_name, device) = model_of(asked), device_of(asked)
    limits = inside(asked.root, asked.policy or f"{kind.folder}/policy.toml", "policy", new=True)
    saved = inside(asked.root, asked.baseline or f"{kind.folder}/baseline.json", "baseline", new=True)
    profile = ["edgekit", "profile", model, "--device", device_name]
    # Nobody gates on the latency of an emulator, so it need not be sure.
    profile += ["--metric", "instructions"] if device.counted else ["--quick"] if device.emulated else []
    profile += ["--runtime", ",".join(asked.runtimes)] if asked.runtimes else []
    profile += ["--precision", ",".join(asked.precisions)] if asked.precisions else []
    gate = ["edgekit", "gate", "last", "--policy", limits, "--baseline", saved]
    for word in (*profile, *gate, asked.install or ""):
        if "${{" in word or not word.isprintable():
            raise UserError(f"a recipe cannot hold the name {word!r}", "rename it")
    commands = {"profile": shlex.join(profile), "gate": shlex.join(gate)}
    values = {
        **commands,
        "model_comment": model,
        "device_comment": device_name,
        "policy_comment": limits,
        "baseline_comment": saved,
        "baseline": shlex.quote(saved),
        "packages": " ".join(packages(device)),
        "version": __version__,
        **parts_of(asked, model, commands),
    }
    policy_text = read("counted.toml" if device.counted else "uncounted.toml")
    text = Template(read(f"{asked.kind}.yml")).substitute(values)
    reads = tuple(filter(None, (file_of(model), device_name if device_name.endswith(".toml") else "")))
    return Recipe(asked.kind, kind.target, text, limits, policy_text, saved, **commands, reads=reads)


def parts_of(asked: Asked, model: str, commands: Mapping[str, str]) -> dict[str, str]:
    """The parts of a template that each service writes in its own way, YAML's quotes included. Raises UserError."""
    file, install = file_of(model), asked.install or installed(asked.root)
    if asked.kind == "pre-commit":
        if not file:
            raise UserError(
                f"the hook runs when the file of a model changes, and {model} comes with edgekit",
                "name a file of the repository: --model net.py",
            )
        hook = shlex.join(["bash", "-c", f"{commands['profile']} --quiet && {commands['gate']}"])
        return {"hook": quoted(hook), "files": quoted(f"^{re.escape(file)}(/|$)")}
    if asked.kind == "gitlab":
        return {"install": '"edgekit[all]==$EDGEKIT_VERSION"' if install == PUBLISHED else shlex.quote(install)}
    escaped = file.replace("'", "''")
    return {
        "install": shlex.quote(install),
        "hash": quoted(f"${{{{ hashFiles('{escaped}') }}}}" if file else model)[1:-1],
    }


def write(recipe: Recipe, root: Path, force: bool) -> list[str]:
    """Write the recipe and, where there is none, the policy; what was written, as paths relative to the root.

    Raises UserError when the recipe is there and not `force`, and when the policy that is there cannot be read.
    """
    target, limits = root / recipe.target, root / recipe.policy
    if target.exists() and not force:
        raise UserError(
            f"{recipe.target} is there already",
            f"--stdout prints the recipe instead: {KINDS[recipe.kind].elsewhere}\n--force writes it over what is there",
        )
    kept = limits.exists()
    if kept:
        policy.read(limits)
    for path in (target, limits, root / recipe.baseline):
        with disk_errors(str(path.parent)):
            path.parent.mkdir(parents=True, exist_ok=True)
    if not kept:
        baseline.write(limits, "the policy", recipe.policy_text)
    baseline.write(target, "the recipe", recipe.text)
    return [recipe.target] if kept else [recipe.target, recipe.policy]


def model_of(asked: Asked) -> str:
    """The model as the recipe names it: one that comes with edgekit, or a file of the repository. Raises UserError."""
    if asked.model in sources.names():
        return asked.model
    path, entry = parts(asked.model)
    if "/" not in path and not Path(path).suffix and not (asked.root / path).exists():
        raise unknown("model", asked.model, sources.names())
    return inside(asked.root, path, "model") + entry


def parts(model: str) -> tuple[str, str]:
    """The path of a model, and ":factory" or ""."""
    factory = re.fullmatch(r"(.+\.py)(:[A-Za-z_]\w*)", model)
    return (factory[1], factory[2]) if factory else (model, "")


def device_of(asked: Asked) -> tuple[str, Device]:
    """The device as the recipe names it, and its profile: as CI has it, where nobody's devices.toml is. Raises UserError."""
    name = asked.device or KINDS[asked.kind].device
    if name.endswith(".toml"):
        name = inside(asked.root, name, "device profile")
        return name, config.device(str(asked.root / name))
    if asked.kind == "pre-commit":
        return name, config.device(name)
    shipped = config.shipped_names()
    if name in config.device_names() and name not in shipped:
        raise UserError(
            f"{name} is in your devices.toml, which CI does not have",
            "put its profile into the repository: --device FILE.toml",
        )
    if name not in shipped:
        raise unknown("device", name, shipped)
    return name, config.device(str(config.folder("device_profiles") / f"{name}.toml"))


def file_of(model: str) -> str:
    """The file or folder that a model is in, relative to the root; "" for one that comes with edgekit."""
    return "" if model in sources.names() else parts(model)[0]


def inside(root: Path, name: str, what: str, new: bool = False) -> str:
    """A path as the root of the repository sees it. Raises UserError when it lies outside, or is not there and not `new`."""
    top = root.absolute().resolve()
    path = (top / name).resolve()
    if not path.is_relative_to(top) or path == top:
        raise UserError(f"the {what} {name} lies outside of this repository", "CI has only what is committed")
    if not new and not (path.is_dir() or is_file(path)):
        raise UserError(f"there is no {what} {name}")
    return path.relative_to(top).as_posix()


def installed(root: Path) -> str:
    """What pip installs where nobody says it: this checkout of edgekit when it lies in the repository, else this version."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and checkout.is_relative_to(root.resolve()):
        folder = checkout.relative_to(root.resolve()).as_posix()
        return f"{'.' if folder == '.' else f'./{folder}'}[all]"
    return PUBLISHED


def packages(device: Device) -> list[str]:
    """The Debian packages of the programs that edgekit calls for a device."""
    found = {package for package, _, needed in doctor.PROGRAMS.values() if needed(device)}
    return sorted(found - set(PRESENT))


def quoted(text: str) -> str:
    """A string of YAML in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def read(name: str) -> str:
    """A template."""
    return (TEMPLATES / name).read_text("utf-8")
