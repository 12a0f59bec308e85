"""The bundle for a bare ARM device: it runs from any folder with no library but its own, and tells nothing of its making."""

from __future__ import annotations

import ast
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from edgekit import cache, userland
from edgekit.errors import SetupError, UserError
from edgekit.userland import apt, build, bundles, elf, python, targets, tools, trim

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "edgekit" / "agent"
RUNTIMES = (*tiny_models.FILES, "tflite_runtime")


def silent(text: str) -> None:
    """Progress that nobody reads."""


def no_network(*args: object, **kwargs: object) -> str:
    raise AssertionError("a warm userland starts no tool")


# ---- what can be told without a network ----


def test_stdlib_list_covers_what_the_agent_imports() -> None:
    listed = {name for entry in python.STDLIB for name in (entry, entry.split(".")[0])}
    for path in sorted(AGENT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            own = {n.split(".")[0] for n in names} - {
                "numpy",
                "torch",
                "tensorflow",
                "tflite_runtime",
                "ai_edge_litert",
            }
            assert own <= listed, f"{path.name} imports {own - listed}: add it to edgekit.userland.python.STDLIB"


def test_unknown_names_are_the_users_error() -> None:
    with pytest.raises(UserError, match="riscv64"):
        userland.bundle("riscv64", "tflite", silent)
    with pytest.raises(UserError, match=r"did you mean 'tflite'"):
        userland.bundle("aarch64", "tflit", silent)


def test_missing_compiler_names_the_package(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SetupError) as caught:
        userland.bundle("aarch64", "tflite", silent)
    if not targets.target("aarch64").is_this_machine:
        assert caught.value.hint == "apt-get install g++-aarch64-linux-gnu"
    with pytest.raises(SetupError) as caught:
        userland.counter_plugin(silent)
    assert caught.value.hint == "apt-get install qemu-user"
    assert not any(path.is_dir() for path in (cold_cache / "userland").iterdir())


@pytest.mark.parametrize("damage", ["truncated", "no object", "no key", "a library cut short", "a library gone"])
def test_a_damaged_bundle_is_made_again_and_said(
    cold_cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def made_base(target: targets.Target, say: Any) -> Path:
        folder = cold_cache / "base"
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python3.11").write_text("python")
        bundles.write_manifest(folder, {"python": "3.11", "libc": "2.36"})
        return folder

    def add(target: targets.Target, runtime: str, wheel: targets.Wheel, folder: Path) -> None:
        (folder / "lib").mkdir()
        (folder / "lib" / "libLiteRt.so").write_text("a library")

    monkeypatch.setattr(bundles, "base", made_base)
    monkeypatch.setattr(bundles, "add_runtime", add)
    monkeypatch.setattr(build, "compiler", lambda *args: "g++")
    made = userland.bundle("aarch64", "tflite", silent)
    assert made.root is not None
    manifest = made.root / bundles.MANIFEST
    text = manifest.read_text("utf-8")
    if damage == "a library gone":
        (made.root / "lib" / "libLiteRt.so").unlink()
    elif damage == "a library cut short":
        (made.root / "lib" / "libLiteRt.so").write_text("a lib")
    else:
        manifest.write_text({"truncated": text[:-9], "no object": "[]", "no key": "{}"}[damage], "utf-8")
    said: list[str] = []
    assert userland.bundle("aarch64", "tflite", said.append) == made
    assert said[0] == "the cache entry of the tflite for aarch64 is damaged; making it again"
    assert manifest.read_text("utf-8") == text
    assert (made.root / "lib" / "libLiteRt.so").read_text() == "a library"
    said.clear()
    userland.bundle("aarch64", "tflite", said.append)
    assert not said


def test_native_without_a_compiler_lacks_the_loop_and_says_so(
    cold_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said: list[str] = []
    land = userland.native("fake", said.append)
    assert land.libraries == {}
    assert land.python == (sys.executable,)
    assert "apt-get install gcc g++" in said[-1]


def test_native_wheel_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = targets.Wheel("edgekit-no-such-wheel", "1.0", "3.11", {}, ("nothing.so",))
    monkeypatch.setitem(targets.WHEELS, "tflite", gone)
    with pytest.raises(SetupError) as caught:
        userland.native("tflite", silent)
    assert caught.value.hint == "pip install edgekit-no-such-wheel==1.0"


def test_failing_tool_shows_its_last_lines(tmp_path: Path) -> None:
    program = "import sys; [print(i, file=sys.stderr) for i in range(99)]; sys.exit(3)"
    with pytest.raises(SetupError) as caught:
        tools.run([sys.executable, "-c", program], "trying", "do this")
    assert (caught.value.message, caught.value.hint) == ("trying failed: 98", "do this")
    with pytest.raises(SetupError) as caught:
        tools.run([sys.executable, "-c", program.replace("print(i,", "print('E: no' if i == 90 else i,")], "trying")
    assert caught.value.message == "trying failed: E: no"
    assert caught.value.hint.splitlines() == [*map(str, range(84, 90)), "E: no", *map(str, range(91, 99))]
    with pytest.raises(SetupError, match="No such file"):
        tools.run([tmp_path / "nothing"], "trying")


def test_no_network_leaves_nothing_half_written(cold_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[Any], what: str, hint: str = "", **options: Any) -> str:
        raise SetupError(f"{what} failed with exit code 100:\nTemporary failure resolving the mirror", hint)

    monkeypatch.setattr(tools, "run", fail)
    monkeypatch.setattr(tools, "find", lambda package, *names: names[0])
    with pytest.raises(SetupError, match="Temporary failure") as caught:
        userland.bundle("aarch64", "tflite", silent)
    assert not any(path.is_dir() for path in (cold_cache / "userland").iterdir())
    assert "apt" in caught.value.message


def test_apt_is_private_and_runs_no_hook_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = ['Acquire::http::Proxy "http://proxy:3128";', 'Acquire::Languages:: "de";']
    monkeypatch.setattr(apt, "host_settings", lambda: host)
    sources = tmp_path / "my.list"
    monkeypatch.setenv(apt.SOURCES_VARIABLE, str(sources))
    text = apt.configure("arm64", tmp_path / "work").read_text()
    assert host[0] in text
    assert '"de"' not in text
    assert f'Dir::State::status "{tmp_path}/work/status";' in text
    assert f'Dir::Etc::Parts "{tmp_path}/work/parts";' in text
    assert f'Dir::Etc::sourcelist "{sources}";' in text


def test_host_settings_are_those_of_reaching_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = (
        'APT::Update::Post-Invoke:: "rm -rf /";\nAcquire::http::Proxy "http://p";\nAcquire::IndexTargets::deb "";\n'
        'DPkg::Pre-Install-Pkgs:: "x";\nAcquire::Check-Date "false";\n'
    )
    monkeypatch.setattr(tools, "run", lambda *args, **options: dump)
    monkeypatch.setattr(tools, "find", lambda *args: "apt-config")
    assert apt.host_settings() == ['Acquire::http::Proxy "http://p";', 'Acquire::Check-Date "false";']


def test_needed_reads_what_a_library_asks_for() -> None:
    assert any(name.startswith("libc.so") for name in elf.needed(Path(sys.executable).resolve()))
    with pytest.raises(ValueError, match="not a little-endian"):
        elf.needed(Path(__file__))


def test_packed_module_holds_no_path(tmp_path: Path) -> None:
    source = tmp_path / "somewhere" / "module.py"
    source.parent.mkdir()
    source.write_text('"""Doc."""\ndef function():\n    return (lambda: 1)\n')
    paths = []
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            trim.pack(archive, "package.module", source)
        paths.append(tmp_path / name)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"somewhere" not in paths[0].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        assert archive.namelist() == ["package/module.pyc"]


# ---- the real thing ----


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The start of a command that runs ARM programs as a Raspberry Pi 4 would: no library, only what its kernel shows."""
    root = tmp_path_factory.mktemp("board")
    (root / "proc").mkdir()
    core = "processor\t: {}\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
    core += "CPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    (root / "proc/cpuinfo").write_text("".join(core.format(number) for number in range(4)))
    cpu = root / "sys/devices/system/cpu"
    cpu.mkdir(parents=True)
    for name in ("online", "possible", "present"):
        (cpu / name).write_text("0-3\n")
    return ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(root)]


@pytest.mark.runtimes
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bundle_of_a_pc_runs_here(runtime: str, tmp_path: Path) -> None:
    target = targets.target("x86_64")
    if not target.is_this_machine:
        pytest.skip("needs an x86-64 machine")
    land = userland.bundle(target.arch, runtime, silent)
    assert land.root is not None
    libraries = [land.libraries[name].replace("{root}", str(land.root)) for name in ("runtime", "loop")]
    model = tiny_models.make(tmp_path, runtime)[runtime]
    found = json.loads(run(argv(land, land.root, *guest(tmp_path, runtime, libraries, model))))
    assert found["version"] == land.versions["runtime"]
    assert bytes.fromhex(found["output"]) == tiny_models.pack(tiny_models.answer(tiny_models.SAMPLE))


@pytest.fixture(scope="session", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def land(runtime: str) -> userland.Userland:
    """The bundle of a runtime, in the user's cache."""
    return userland.bundle("aarch64", runtime, silent)


def argv(land: userland.Userland, root: Path, *arguments: str) -> list[str]:
    """The command that starts the bundle's Python when the bundle lies at `root`."""
    return [*(part.replace("{root}", str(root)) for part in land.python), "-I", "-S", *arguments]


def run(command: list[str]) -> str:
    """Run to the end with an empty environment, as a device's bare shell would."""
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin"}, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.emulated
def test_bundle_runs_from_any_folder(land: userland.Userland, board: list[str], tmp_path: Path) -> None:
    assert land.root is not None
    place = tmp_path / "some where"
    shutil.copytree(land.root, place)
    program = "import sys, os, json; print(json.dumps([sys.prefix, sys.executable, sys.path, os.uname().machine]))"
    prefix, executable, path, machine = json.loads(run([*board, *argv(land, place, "-c", program)]))
    assert prefix == str(place)
    assert executable.startswith(f"{place}/bin/python3.")
    assert all(entry.startswith(str(place)) for entry in path)
    assert machine == "aarch64"


@pytest.mark.emulated
def test_python_starts_fast(land: userland.Userland, board: list[str]) -> None:
    assert land.root is not None
    """By what it loads, which a busy machine does not change: 0.3 s on an idle one."""
    code = "import json, ctypes, os, struct, sys; print(len(sys.modules))"
    assert int(run([*board, *argv(land, land.root, "-c", code)])) < 80


@pytest.mark.emulated
def test_every_listed_module_is_there(land: userland.Userland, board: list[str]) -> None:
    assert land.root is not None
    run([*board, *argv(land, land.root, "-c", f"import {', '.join(python.STDLIB)}")])


@pytest.mark.emulated
def test_bundle_is_complete_and_small(runtime: str, land: userland.Userland) -> None:
    assert land.root is not None
    lib = land.root / "lib"
    present = {path.name for path in lib.iterdir()}
    for path in land.root.rglob("*"):
        if path.is_file() and elf.is_elf(path):
            assert set(elf.needed(path)) <= present, path.name
    for library in land.libraries.values():
        assert (land.root / library.removeprefix("{root}/")).exists()
    manifest = json.loads((land.root / bundles.MANIFEST).read_text())
    limit = {"tflite": 21e6, "executorch": 28e6, "onnxruntime": 43e6, "tflite_runtime": 40e6}
    assert manifest["total_bytes"] < limit[runtime]
    assert set(land.versions) == {"python", "libc", "runtime"}
    assert manifest["versions"]["runtime"] == targets.wheel(runtime).version
    assert "libc6" in manifest["packages"]
    assert manifest["key"] == land.key
    for name, file in manifest["files"].items():
        assert (land.root / name).stat().st_size == file["bytes"]


@pytest.mark.emulated
def test_bundle_holds_no_trace_of_the_machine_that_made_it(land: userland.Userland) -> None:
    assert land.root is not None
    traces = [str(ROOT), str(Path.home()), str(cache.cache_dir()), "/edgekit-", str(Path(sys.prefix))]
    for path in land.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [trace for trace in traces if trace.encode() in data and len(trace) > 5], path.name
            assert not path.is_symlink()


@pytest.mark.emulated
def test_warm_bundle_starts_nothing(runtime: str, land: userland.Userland, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_network)
    monkeypatch.setattr(subprocess, "Popen", no_network)
    assert userland.bundle("aarch64", runtime, silent) == land


@pytest.mark.emulated
def test_cold_base_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    land = userland.bundle("aarch64", RUNTIMES[0], silent)
    assert land.root is not None
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path))
    fresh = bundles.base(targets.target("aarch64"), silent)
    old = json.loads((land.root / bundles.MANIFEST).read_text())
    new = json.loads((fresh / bundles.MANIFEST).read_text())
    assert new["packages"] == old["packages"], "the mirror has moved on: remove the userlands from the cache"
    assert new["files"].items() <= old["files"].items()


GUEST = """
import ctypes, importlib, json, sys
agent, runtime, library, loop, model, sample = sys.argv[1:]
sys.path.append(agent)
module = importlib.import_module("agent.runtimes." + runtime)
libraries = {"runtime": library, "loop": loop}
version = module.probe(libraries)["version"]
loaded = module.load(model, {"threads": 1, "libraries": libraries})
loaded.set_input(0, bytes.fromhex(sample))
native = ctypes.CDLL(loop)
native.edgekit_loop.restype = ctypes.c_uint64
u64 = ctypes.c_uint64
rows = []
for address, arguments, mask in (loaded.native, (ctypes.cast(native.edgekit_nothing, ctypes.c_void_p).value, [0] * 8, 1)):
    times, counts = (u64 * 6)(), (u64 * 48)()
    status = native.edgekit_loop(ctypes.c_void_p(address), (u64 * 8)(*arguments), u64(mask), u64(6), u64(1), times, counts)
    rows.append([list(counts[8 * i : 8 * i + 8]) for i in range(6)])
memory = importlib.import_module("agent.plugin").guest_memory(False)
output = loaded.output(0).hex()
loaded.close()
print(json.dumps({"version": version, "status": status, "counts": rows[0], "nothing": rows[1], "output": output,
                  "memory": memory, "numpy": "numpy" in sys.modules}))
"""


def guest(tmp_path: Path, runtime: str, libraries: list[str], model: Path) -> list[str]:
    """The arguments of the device's Python that run GUEST with a copy of the agent, which lies in a path with a space."""
    (tmp_path / "guest.py").write_text(GUEST)
    shutil.copytree(AGENT, tmp_path / "on device" / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    sample = tiny_models.pack(tiny_models.SAMPLE).hex()
    return [str(tmp_path / "guest.py"), str(tmp_path / "on device"), runtime, *libraries, str(model), sample]


@pytest.mark.emulated
@pytest.mark.runtimes
def test_runtime_answers_and_counts_repeat(
    runtime: str, land: userland.Userland, board: list[str], tmp_path: Path
) -> None:
    assert land.root is not None
    model = tiny_models.make(tmp_path, runtime)[runtime]
    libraries = [land.libraries[name].replace("{root}", str(land.root)) for name in ("runtime", "loop")]
    plugin = f"{userland.counter_plugin(silent)},memory=on"
    command = [*board, "-plugin", plugin, *argv(land, land.root, *guest(tmp_path, runtime, libraries, model))]
    first, second = (json.loads(run(command)) for _ in range(2))

    assert first["version"] == land.versions["runtime"]
    assert first["status"] == 0
    assert first["numpy"] == (runtime == "tflite_runtime")
    found = struct.unpack(f"<{tiny_models.OUTPUTS}f", bytes.fromhex(first["output"]))
    assert list(found) == tiny_models.answer(tiny_models.SAMPLE)

    total, *classes = first["counts"][-1]
    assert sum(classes) == total
    assert 50 < first["nothing"][-1][0] < 200
    assert total > 2 * first["nothing"][-1][0]
    if runtime.startswith("tflite"):
        assert first["counts"][-1] == first["counts"][-2]  # the same to the last instruction
    # So small a layer is mostly ONNX Runtime's own hash tables and locks, whose work depends on addresses.
    allowed = 0.1 * total if runtime == "onnxruntime" else max(20, 0.001 * total)
    assert abs(total - second["counts"][-1][0]) <= allowed
    resident, peak, anonymous, anonymous_peak, *_ = first["memory"]
    assert 5e6 < anonymous <= anonymous_peak < resident <= peak < 80e6


@pytest.mark.emulated
def test_plugin_is_compiled_once(cold_cache: Path) -> None:
    said: list[str] = []
    assert userland.counter_plugin(said.append) == userland.counter_plugin(said.append)
    assert said == [f"compiling {build.PLUGIN}"]


@pytest.mark.parametrize(
    ("version", "options", "reason"),
    [
        ("10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", "-cpu model", "without plug-ins"),
        ("9.1.0", "-plugin QEMU_PLUGIN", "newer interface"),
    ],
)
def test_qemu_that_takes_no_plugin_is_named(
    cold_cache: Path, tmp_path: Path, version: str, options: str, reason: str
) -> None:
    qemu = tmp_path / "qemu-aarch64"
    qemu.write_text(
        f'#!/bin/sh\ncase $1 in --version) echo "qemu-aarch64 version {version}";; *) echo "{options}";; esac\n'
    )
    qemu.chmod(0o755)
    with pytest.raises(SetupError, match=f"version {version.split()[0]}.*{reason}"):
        build.counter(tmp_path / build.PLUGIN, str(qemu))
    assert not (tmp_path / build.PLUGIN).exists()
