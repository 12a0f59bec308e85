"""The one-way rule of DESIGN section 1, read from the source; what importing costs; the agent's floor of Python 3.9."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import ROOT

PACKAGE = ROOT / "edgekit"
AGENT = PACKAGE / "agent"

# From the top down: a module imports only what stands on a line below its own. A package stands for all in it.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"cli_report", "cli_history", "cli_ci"},
    {"cli_profile", "cli_compare"},
    {"cli_judge"},
    {"cli_devices"},
    {"arguments"},
    {"api"},
    {"fleet", "ci"},
    {"advice", "comparison", "judge"},
    {"baseline", "findings", "policy"},
    {"abtest", "calibration", "gate"},
    {"history"},
    {"turns"},
    {"pairs"},
    {"bench", "doctor"},
    {"devices"},
    {"timing", "operators", "sustained", "energy"},
    {"verification"},
    {"evidence"},
    {"plan"},
    {"link", "limits"},
    {"figures"},
    {"convert", "session", "report", "powermeter"},
    {"data"},
    {"holdout", "metrics"},
    {"userdata"},
    {"datasets"},
    {"sources"},
    {"inspection"},
    {"files"},
    {"recipes"},
    {"opening"},
    {"macs", "ratio"},
    {"worker", "twins", "converters", "transports", "store", "stats", "noise", "progress", "changes"},
    {"userland"},
    {"config"},
    {"plugins", "caveats", "labels", "preprocess", "pte", "estimate", "answers", "terminal"},
    {"places"},
    {"cache", "inert", "prompt"},
    {"types"},
    {"errors"},
    {"agent"},
)
# Packages whose files can be exchanged for one another: there, a file knows only a base ("_name") and the package itself.
INTERCHANGEABLE = ("converters", "transports", "agent.runtimes")
# What a process may not need for importing edgekit's modules; numpy, rich and the others belong to the light core.
BLOCKED = (
    "torch", "torchao", "tensorflow", "keras", "executorch", "onnx", "onnxruntime", "ai_edge_litert", "sklearn",
    "pandas", "altair",
)  # fmt: skip
# Additions to the standard library after 3.9 that code for devices is likely to reach for.
NEWER_MODULES = {"tomllib", "asyncio.taskgroups", "importlib.resources.abc", "wsgiref.types"}
NEWER_NAMES = {
    "pairwise", "batched", "bit_count", "file_digest", "add_note", "ExceptionGroup", "BaseExceptionGroup", "EncodingWarning",
    "aiter", "anext", "StrEnum", "cbrt", "exp2", "TaskGroup", "orig_argv", "stdlib_module_names", "UnionType",
    "EllipsisType", "NoneType", "override", "Self", "ParamSpec", "TypeAlias", "get_annotations", "setprofile_all_threads",
}  # fmt: skip
NEWER_KEYWORDS = {"zip": {"strict"}, "dataclass": {"slots", "kw_only"}, "bisect": {"key"}, "bisect_left": {"key"}}


@dataclass(frozen=True)
class Import:
    """One import statement: `target` is absolute, `top` when it runs as the module is imported."""

    module: str
    target: str
    line: int
    top: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


def module_name(path: Path) -> str:
    """edgekit/report/table.py -> edgekit.report.table; a package's __init__ is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def walk(node: ast.AST, top: bool, typing_only: bool) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """Every import statement below a node, with where it stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, top, typing_only
        elif isinstance(child, ast.expr):  # holds no statements
            continue
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from walk(child, top, True)
        else:
            yield from walk(child, top and not isinstance(child, ast.FunctionDef), typing_only)


def imports_of(module: str) -> Iterator[Import]:
    """The imports of a module; `from package import module` names the module."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node, top, typing_only in walk(ast.parse(path.read_text("utf-8")), True, False):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            assert isinstance(node, ast.ImportFrom)
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                assert node.level <= len(parts), f"{module} line {node.lineno} leaves the package"
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            targets = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        for target in dict.fromkeys(targets):
            yield Import(module, target, node.lineno, top, typing_only)


IMPORTS = [found for module in MODULES for found in imports_of(module)]
OURS = [found for found in IMPORTS if found.target.split(".")[0] == "edgekit"]


def layer(module: str) -> int:
    """The line of LAYERS a module stands on."""
    name = module.split(".")[1]
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_its_layer() -> None:
    names = {module.split(".")[1] for module in MODULES if module != "edgekit"}
    assert names == set().union(*LAYERS)


def test_imports_only_go_down() -> None:
    wrong = []
    for found in OURS:
        if "edgekit" in (found.module, found.target):
            continue  # the front door: its own tests are below
        if found.module.split(".")[1] == found.target.split(".")[1]:
            continue
        if layer(found.target) <= layer(found.module):
            wrong.append(str(found))
    assert not wrong


def test_the_front_door_imports_nothing_and_only_the_version_is_taken_from_it() -> None:
    assert not [str(found) for found in OURS if found.module == "edgekit" and not found.typing_only]
    for found in OURS:
        if found.target == "edgekit":
            line = MODULES[found.module].read_text("utf-8").splitlines()[found.line - 1]
            assert "__version__" in line, f"{found}: {line}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for found in OURS:
        if not found.typing_only and found.target in MODULES and found.target != "edgekit":
            graph[found.module].add(found.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("package", INTERCHANGEABLE)
def test_siblings_do_not_know_one_another(package: str) -> None:
    prefix = f"edgekit.{package}."
    assert any(module.startswith(prefix) for module in MODULES)
    for found in OURS:
        if found.module.startswith(prefix) and found.target.startswith(prefix):
            assert found.target.removeprefix(prefix).startswith("_"), str(found)
        if found.module == prefix[:-1]:
            assert not found.target.startswith(prefix), f"the package knows one of its plug-ins: {found}"


def test_plugins_are_named_nowhere() -> None:
    """They are found by file name: a module that imports one by name would be a registry to forget."""
    plugins = {
        module
        for module in MODULES
        for package in INTERCHANGEABLE
        if module.startswith(f"edgekit.{package}.") and not module.rpartition(".")[2].startswith("_")
    }
    assert not [str(found) for found in OURS if found.target in plugins]


def test_of_the_agent_the_host_knows_only_the_protocol_and_the_file_check() -> None:
    for found in OURS:
        if found.target.startswith("edgekit.agent") and not found.module.startswith("edgekit.agent"):
            # flatbuffer: the same file is refused on the host and on the device, so one piece of code does both;
            # frames: the two ends of a serial line
            known = ("edgekit.agent.protocol", "edgekit.agent.flatbuffer", "edgekit.agent.frames")
            assert found.target in known, str(found)


def test_the_agent_imports_the_standard_library_and_itself() -> None:
    for found in IMPORTS:
        if not found.module.startswith("edgekit.agent"):
            continue
        if found.target.startswith("edgekit"):
            assert found.target.startswith("edgekit.agent"), str(found)
        else:
            assert found.target.split(".")[0] in sys.stdlib_module_names, str(found)
    for path in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("edgekit")
            named = isinstance(node, ast.Import) and any(a.name.startswith("edgekit") for a in node.names)
            assert not absolute and not named, f"{path.name} line {node.lineno}: on the device there is no edgekit"


def test_modules_import_packages_only_where_they_use_them() -> None:
    for found in IMPORTS:
        if found.top and not found.typing_only:
            assert found.target.split(".")[0] in {*sys.stdlib_module_names, "edgekit"}, f"{found} as it is imported"


def python(code: str, *options: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_the_heavy_packages() -> None:
    names = [module for module in MODULES if module != "edgekit.__main__"]  # that one is the command line, run
    code = f"""
import importlib, importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
for name in {BLOCKED!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} was not blocked")
for name in {names!r}:
    importlib.import_module(name)
    print(name)
"""
    assert python(code).split() == names


def test_import_edgekit_brings_only_a_few_modules() -> None:
    code = "import sys; before = set(sys.modules); import edgekit; print(*sorted(set(sys.modules) - before))"
    loaded = set(python(code).split())
    assert {name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names} == {"edgekit"}
    assert len(loaded) < 40


def test_help_brings_nothing_heavy() -> None:
    code = """
import sys
from edgekit.cli import main
try:
    main(["--help"])
except SystemExit:
    print("MODULES", *sys.modules)
"""
    loaded = set(python(code).rpartition("MODULES")[2].split())
    assert not loaded & {*BLOCKED, "numpy", "rich", "shtab", "platformdirs", "subprocess", "zipfile", "ctypes"}
    assert "edgekit.cli" in loaded
    assert "edgekit.bench" not in loaded


def test_the_public_names_are_there() -> None:
    import edgekit

    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'profil'"):
        edgekit.profil  # noqa: B018


@pytest.mark.parametrize("path", sorted(AGENT.rglob("*.py")), ids=lambda path: path.relative_to(AGENT).as_posix())
def test_agent_is_python_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        where = f"{path.name} line {getattr(node, 'lineno', '?')}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & (NEWER_MODULES | NEWER_NAMES), where
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_NAMES, f"{where}: {node.attr} is newer than Python 3.9"
        if isinstance(node, ast.Name):
            assert node.id not in NEWER_NAMES, f"{where}: {node.id} is newer than Python 3.9"
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = {keyword.arg for keyword in node.keywords}
            assert not given & NEWER_KEYWORDS.get(called, set()), f"{where}: newer than Python 3.9"
        annotations = [getattr(node, name, None) for name in ("annotation", "returns")]
        for annotation in filter(None, annotations):
            unions = [n for n in ast.walk(annotation) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)]
            assert not unions, f"{where}: X | Y in an annotation is evaluated, and fails before Python 3.10"
