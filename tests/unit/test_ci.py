"""CI recipes as text: valid by their services' schemas, with commands that exist, pinned actions and no name that breaks out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edgekit import __version__, ci, cli, doctor, policy
from edgekit.errors import UserError

SCHEMAS = {
    "github": "vendor.github-workflows",
    "github-android": "vendor.github-workflows",
    "gitlab": "vendor.gitlab-ci",
}
RECIPE = "TASK = 'x'\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a model."""
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "net.py").write_text(RECIPE, "utf-8")
    return tmp_path / "repo"


def made(root: Path, kind: str, **asked: object) -> ci.Recipe:
    return ci.make(ci.Asked(**{"kind": kind, "model": "net.py", "root": root, **asked}))  # type: ignore[arg-type]


def checked(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """The check of files by one of check-jsonschema's own copies of a service's schema."""
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_the_services_schemas_hold(root: Path, tmp_path: Path) -> None:
    files: dict[str, list[Path]] = {}
    for kind, schema in SCHEMAS.items():
        for device in ("pi4", "android-emulator"):
            path = tmp_path / f"{kind}-{device}.yml"
            path.write_text(made(root, kind, device=device).text, "utf-8")
            files.setdefault(schema, []).append(path)
    for schema, paths in files.items():
        done = checked(schema, *paths)
        assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(made(root, "github").text.replace("steps:", "stepps:"), "utf-8")
    assert checked(SCHEMAS["github"], broken).returncode == 1


def test_pre_commit_takes_its_configuration(root: Path, tmp_path: Path) -> None:
    from pre_commit import clientlib

    path = tmp_path / "config.yaml"
    path.write_text(made(root, "pre-commit").text, "utf-8")
    ((hook,),) = [one["hooks"] for one in clientlib.load_config(str(path))["repos"]]
    assert hook["pass_filenames"] is False
    assert re.search(hook["files"], "net.py") and not re.search(hook["files"], "my_net.py")


def lines(value: object) -> Iterator[str]:
    """Every line of every text in a YAML document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from lines(one)
    elif isinstance(value, str):
        yield from value.splitlines()


@pytest.mark.parametrize("kind", ci.KINDS)
def test_every_command_of_edgekit_in_a_recipe_is_one(root: Path, kind: str) -> None:
    asked = made(root, kind, runtimes=("tflite",), precisions=("fp32", "int8"))
    found = []
    for line in lines(yaml.safe_load(asked.text)):
        inner = shlex.split(line)[-1] if line.startswith("bash -c ") else line
        for command in re.findall(r"edgekit ((?:profile|gate last|report) [^|>&]*)", inner):
            cli.parse(shlex.split(command))
            found.append(command.split()[0])
    assert {"profile", "gate"} <= set(found), found


def test_a_device_that_counts_is_gated_on_instructions_and_no_other(root: Path) -> None:
    counted, other = made(root, "github"), made(root, "github", device="pi4-vm")
    assert "--metric instructions" in counted.profile and "--metric" not in other.profile
    limits = [
        {limit.metric for limit in policy.of(tomllib.loads(one.policy_text)).relative} for one in (counted, other)
    ]
    assert limits == [{"instructions"}, {"size", "peak"}]


def test_what_edgekit_calls_is_installed(root: Path) -> None:
    for device in ("pi4", "pi2", "pi4-vm"):
        (line,) = [line for line in made(root, "gitlab", device=device).text.splitlines() if "apt-get install" in line]
        known = ci.config.device(device)
        needed = {package for package, _, needs in doctor.PROGRAMS.values() if needs(known)}
        assert needed - set(line.split()) == {"apt", "dpkg"}


@pytest.mark.parametrize("kind", ["github", "github-android"])
def test_actions_are_pinned_by_their_commits(root: Path, kind: str) -> None:
    used = re.findall(r"uses: (\S+)(.*)", made(root, kind).text)
    assert len(used) >= 3
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) and re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("kind", ci.KINDS)
def test_a_recipe_names_no_host(root: Path, kind: str) -> None:
    assert "://" not in made(root, kind).text


@pytest.mark.parametrize(
    "name", ["it's a net.py", '"; touch broken; ".py', "$(touch broken).py", "a: #b.py", "[x]*.py", "ü.py"]
)
@pytest.mark.parametrize("kind", ci.KINDS)
def test_a_name_stays_a_name(root: Path, kind: str, name: str) -> None:
    (root / name).write_text(RECIPE, "utf-8")
    whole = yaml.safe_load(made(root, kind, model=name).text)
    told = [line for line in lines(whole) if "edgekit profile" in line]
    assert len(told) == 1
    words = shlex.split(told[0])
    words = shlex.split(words[2]) if words[:2] == ["bash", "-c"] else words
    assert words[words.index("profile") + 1] == name
    if kind == "pre-commit":
        assert re.fullmatch(whole["repos"][0]["hooks"][0]["files"].removesuffix("(/|$)"), name)


@pytest.mark.parametrize("name", ["${{ secrets.TOKEN }}.py", "two\nlines.py"])
def test_a_name_that_no_recipe_can_hold_is_refused(root: Path, name: str) -> None:
    (root / name).write_text(RECIPE, "utf-8")
    with pytest.raises(UserError, match="cannot hold the name"):
        made(root, "github", model=name)


def test_what_ci_would_not_have_is_refused(root: Path) -> None:
    outside = root.parent / "other.py"
    outside.write_text(RECIPE, "utf-8")
    (root / "link.py").symlink_to(outside)
    for name in ("../other.py", str(outside), "link.py"):
        with pytest.raises(UserError, match="outside of this repository"):
            made(root, "github", model=name)
    assert "profile net.py --device" in made(root, "github", model=str(root / "net.py")).text
    assert "profile net.py:make --device" in made(root, "github", model="./net.py:make").text


def test_a_device_is_what_ci_knows_of_it(root: Path, config_folder: Path) -> None:
    config_folder.mkdir()
    mine = '[mine]\ndescription = "x"\narch = "aarch64"\ntransport = "ssh"\nruntimes = ["tflite"]\n'
    (config_folder / "devices.toml").write_text(
        f'{mine}[pi4]\ntransport = "ssh"\n[pi4.connection]\nhost = "h"\n', "utf-8"
    )
    assert "--metric instructions" in made(root, "github").profile
    with pytest.raises(UserError, match=r"mine is in your devices\.toml"):
        made(root, "github", device="mine")
    assert "--device mine" in made(root, "pre-commit", device="mine").profile


def test_edgekit_is_installed_from_its_checkout_in_the_repository_else_in_this_version(root: Path) -> None:
    assert f"pip install 'edgekit[all]=={__version__}'" in made(root, "github").text
    assert f'EDGEKIT_VERSION: "{__version__}"' in made(root, "gitlab").text
    assert 'pip install "edgekit[all]==$EDGEKIT_VERSION"' in made(root, "gitlab").text
    checkout = Path(ci.__file__).resolve().parents[2]
    assert ci.installed(checkout.parent) == f"./{checkout.name}[all]" and ci.installed(checkout) == ".[all]"
    assert "pip install './vendor/edgekit[all]'" in made(root, "gitlab", install="./vendor/edgekit[all]").text
