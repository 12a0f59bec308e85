"""Whatever is found by file name keeps its contract: runtimes, transports, converters, device profiles, model recipes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness import FAKES, ROOT

from edgekit import config, data, metrics, plan, plugins, recipes, sources
from edgekit.agent.protocol import Fault
from edgekit.errors import UserError
from edgekit.transports import Transport
from edgekit.types import Device, Model
from edgekit.userland import targets

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
PROFILES = sorted((*(ROOT / "device_profiles").glob("[!_]*.toml"), *(FAKES / "devices").glob("*.toml")))
RECIPES = sorted((*(ROOT / "models").glob("[!_]*.py"), *(FAKES / "models").glob("*.py")))
# Forms of a model beside those that a recipe's functions give.
FILE_SOURCES = {"savedmodel", "onnx", "tflite"}
# What measure.py uses of a loaded model.
LOADED = {"set_input": ["index", "data"], "run": [], "output": ["index"], "close": []}


def parameters(function: Any) -> list[str]:
    """The names of a function's parameters, without self."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def documented(module: ModuleType) -> None:
    """The module and its public functions and classes say what they are."""
    assert module.__doc__
    for name, value in vars(module).items():
        ours = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        # ctypes names a pointer type after what it points to, and its module is whoever asked for it first
        if ours and (inspect.isfunction(value) or inspect.isclass(value)) and value.__name__ == name:
            assert value.__doc__, f"{module.__name__}.{name} has no docstring"


def test_every_kind_finds_its_files_and_nothing_else() -> None:
    assert {"executorch", "fake", "onnxruntime", "tflite"} <= set(plugins.names("runtime"))
    assert {"emulator", "local"} <= set(plugins.names("transport"))
    assert {"executorch", "fake", "onnx", "tflite"} <= set(plugins.names("converter"))
    assert {"local", "pi4"} <= set(config.device_names())
    assert {"digits_cnn", "digits_mlp", "mobilenet_v2"} <= set(sources.names())
    for names in (*map(plugins.names, plugins.KINDS), config.device_names(), sources.names()):
        assert not [name for name in names if name.startswith("_")]
    with pytest.raises(UserError) as caught:
        plugins.load("runtime", "tflit")
    assert str(caught.value) == "unknown runtime 'tflit' (did you mean 'tflite'?)"
    with pytest.raises(UserError):
        plugins.load("runtime", "_library")  # a base is no plug-in


@pytest.mark.parametrize("name", plugins.names("runtime"))
def test_runtime(name: str) -> None:
    module = plugins.load("runtime", name)
    documented(module)
    assert module.FORMATS
    assert set(module.FORMATS) <= set(plugins.names("converter"))
    assert parameters(module.probe) == ["libraries"]
    assert parameters(module.load) == ["path", "options"]
    for method, expected in LOADED.items():
        assert parameters(getattr(module.Loaded, method)) == expected, method
    source = inspect.getsource(module.Loaded)
    for attribute in ("inputs", "outputs", "version"):
        assert hasattr(module.Loaded, attribute) or f"self.{attribute}" in source, attribute
    # Either it tells the time of its operators, or why it does not.
    assert getattr(module, "NO_PROFILER", "") or "self.profiler" in source


@pytest.mark.parametrize("name", [name for name in plugins.names("runtime") if name != "fake"])
def test_runtime_without_its_library_is_unavailable(name: str, tmp_path: Path) -> None:
    module = plugins.load("runtime", name)
    broken = tmp_path / "libbroken.so"
    broken.write_text("no ELF")
    for libraries in ({}, {"runtime": str(tmp_path / "nowhere.so")}, {"runtime": str(broken)}):
        with pytest.raises(Fault) as caught:
            module.probe(libraries)
        assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("name", plugins.names("transport"))
def test_transport(name: str) -> None:
    module = plugins.load("transport", name)
    documented(module)
    # The second is what userland.prepare() made for it: an emulator's counter, the image of a VM, None for all others.
    assert parameters(module.connect) in (["device", "counter"], ["device", "image"])
    assert parameters(module.look) == ["device"]
    mine = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    made = [c for c in mine if issubclass(c, Transport)]
    assert len(made) == 1
    assert not inspect.isabstract(made[0]), made[0].__abstractmethods__


@pytest.mark.parametrize("name", plugins.names("converter"))
def test_converter(name: str) -> None:
    module = plugins.load("converter", name)
    documented(module)
    assert module.SOURCES
    assert set(module.SOURCES) <= {*recipes.FRAMEWORKS, *FILE_SOURCES}
    assert module.SUFFIX.startswith(".") or (name == "savedmodel" and not module.SUFFIX)
    assert module.PRECISIONS[0] == "fp32"
    assert set(module.PRECISIONS) <= set(plan.ALL_PRECISIONS)
    assert all(values and len(set(values)) == len(values) for values in module.OPTIONS.values())
    assert parameters(module.convert) == [
        "source",
        "precision",
        "calibration",
        "input_specs",
        "options",
        "output",
        "framework",
    ]
    assert parameters(module.check) == ["path"]
    assert set(module.EXTRA) == set(module.PACKAGES) == set(module.SOURCES)
    for framework, packages in module.PACKAGES.items():
        if packages:
            pinned = {wish.split("==")[0] for wish in _unfolded(module.EXTRA[framework])}
            assert set(packages) <= pinned, "the extra must bring what is part of the artifact's key"


def _unfolded(extra: str) -> list[str]:
    """The requirements of an extra, those of other extras it names included."""
    found = []
    for wish in EXTRAS[extra]:
        inner = wish.removeprefix("edgekit[").removesuffix("]").split(",") if wish.startswith("edgekit[") else []
        found += [one for name in inner for one in _unfolded(name)] or [wish]
    return found


def test_suffixes_and_formats_are_unique() -> None:
    suffixes = [plugins.load("converter", name).SUFFIX for name in plugins.names("converter")]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize("name", plugins.names("converter"))
@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\0" * 100, b"\xff" * 100, b"{}", b"hello, I am a text\n" * 10, b"\x1c\0\0\0TFL3", b"\0\0\0\0ET12"],
    ids=["empty", "one byte", "zeros", "ones", "json", "text", "only a tflite header", "only a pte header"],
)
def test_converter_refuses_what_its_suffix_promises_but_is_not(name: str, content: bytes, tmp_path: Path) -> None:
    module = plugins.load("converter", name)
    path = tmp_path / f"model{module.SUFFIX}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        module.check(path)
    assert path.name in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_checking_a_file_imports_nothing_heavy() -> None:
    code = """
import sys, tempfile
from pathlib import Path
from edgekit import plugins
from edgekit.errors import UserError
for name in plugins.names("converter"):
    module = plugins.load("converter", name)
    path = Path(tempfile.mkdtemp()) / f"m{module.SUFFIX}"
    path.write_bytes(b"nothing")
    try:
        module.check(path)
    except UserError:
        pass
print(*{name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert {name for name in done.stdout.split() if not name.startswith(("_", "edgekit"))} == set()


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_device_profile(path: Path) -> None:
    device = config.device(str(path))
    assert isinstance(device, Device)
    assert device.name == path.stem
    assert 0 < len(device.description) <= 60, "it stands in the title of a table of 100 columns"
    assert device.runtimes
    assert len(set(device.all_runtimes)) == len(device.all_runtimes)
    if device.arch != "host":
        assert targets.target(device.arch).arch == device.arch
        for runtime in device.all_runtimes:
            assert device.arch in targets.wheel(runtime).sha256
    if device.transport == "emulator":
        assert device.emulated
        board_files = plugins.load("transport", "emulator").board_files
        files = board_files(device.emulation)
        assert files["proc/cpuinfo"].count("processor\t:") == device.emulation["cores"]
        assert all(not name.startswith("/") and text for name, text in files.items())


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, type]:
    """{full name of a key: type of its value}, tables included."""
    found: dict[str, type] = {}
    for key, value in table.items():
        found[prefix + key] = type(value)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                found |= flat(part, f"{prefix}{key}.")
    return found


def test_the_reference_profile_shows_every_key_and_no_other() -> None:
    path = ROOT / "device_profiles" / "_reference.toml"
    shown = flat(tomllib.loads(path.read_text("utf-8")))
    known = {
        f"{table}.{key}" if table else key: kind for table, keys in config.KEYS.items() for key, kind in keys.items()
    }
    assert shown == known
    assert config.read(path).transport == "emulator"  # and it is a valid profile itself
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        for key in config.REQUIRED:
            if line.startswith(f"{key} ="):
                assert "# required" in line, f"line {number}: {key} is required and should say so"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path) -> None:
    model = sources.load(str(path))
    assert isinstance(model, Model)
    assert model.name == path.stem
    assert len(model.description) <= 110, "it is one line of `edgekit models`"
    assert model.licence
    assert all(spec.shape[0] == 1 for spec in model.inputs)
    assert model.frameworks
    module = recipes.execute(path)
    documented(module)
    for function in recipes.FUNCTIONS:
        if hasattr(module, function):
            assert parameters(getattr(module, function)) == []


def test_recipes_load_without_anything_heavy() -> None:
    code = f"""
import sys
from edgekit import recipes, sources
for path in {[str(path) for path in RECIPES]!r}:
    sources.load(path)
print(*sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"torch", "keras", "tensorflow", "sklearn", "numpy"} & set(done.stdout.split())


def test_the_default_model_can_be_made_for_every_runtime_of_every_device() -> None:
    model = sources.load("digits_cnn")
    for name in config.device_names():
        for runtime in config.device(name).runtimes:
            converter = plugins.load("converter", plugins.load("runtime", runtime).FORMATS[0])
            assert set(converter.SOURCES) & set(model.frameworks)
            assert "fp32" in converter.PRECISIONS


def test_the_fake_model_is_right_on_190_of_200() -> None:
    found = data.load(sources.load(str(FAKES / "models" / "fake_identity.py")))
    assert found.y is not None and found.x[0].shape == (200, 10)
    assert metrics.top(found.x[0], found.y, 1)["correct"] == 190


def test_a_fault_has_a_kind_of_the_table() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Fault("nonsense", "a kind that no table knows")
