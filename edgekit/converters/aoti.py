"""torch to an AOTInductor package: machine code for this machine's CPU, fp32 or bf16. It needs a C++ compiler."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import cache
from edgekit.converters import _jit, _tensors, _torch
from edgekit.errors import ConvertError, SetupError, UserError, first_line
from edgekit.types import Json, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

SOURCES = ("torch",)
SUFFIX = ".pt2"
EXTRA = {"torch": "torch"}
PRECISIONS = ("fp32", "bf16")
OPTIONS: Mapping[str, tuple[str, ...]] = {}
PACKAGES = {"torch": ("torch",)}


def convert(
    source: torch.nn.Module,
    precision: str,
    calibration: tuple[np.ndarray, ...] | None,
    input_specs: tuple[TensorSpec, ...],
    options: Mapping[str, str],
    output: Path,
    framework: str,
) -> Json:
    """Export, compile with constants folded in, package. bf16 computes in bfloat16 between float32 ends."""
    import torch

    if not shutil.which("g++"):
        raise SetupError("AOTInductor compiles with g++, which is not installed", "apt-get install g++")
    example = _torch.example(input_specs)
    outputs = _torch.outputs(source, example)
    if precision == "bf16":
        source = _in_bfloat16(source)
    program = _torch.program(source, example)
    # Kept: Inductor's tests of the compiler and its precompiled header take 20 s, and do not depend on the model.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.cache_dir() / "inductor"))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "model.pt2"
        try:
            with torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(package), inductor_configs={"freezing": True}
                )
        except Exception as error:  # the compiler's and Inductor's errors have no common class
            reason = first_line(error)
            raise ConvertError(f"AOTInductor refused the model: {type(error).__name__}: {reason}") from error
        _clean(package, output)
    return _tensors.answer(input_specs, outputs, {"cpu": torch.backends.cpu.get_cpu_capability()})


def _in_bfloat16(source: torch.nn.Module) -> torch.nn.Module:
    """The model in bfloat16, with float32 inputs and outputs."""
    import torch

    class Bfloat16(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = source.to(torch.bfloat16)

        def forward(self, *inputs: torch.Tensor) -> Any:
            halves = [value.to(torch.bfloat16) if value.is_floating_point() else value for value in inputs]
            return torch.utils._pytree.tree_map(
                lambda value: value.float() if value.is_floating_point() else value, self.inner(*halves)
            )

    return Bfloat16().eval()


def _clean(package: Path, target: Path) -> None:
    """Copy the package without its C++ sources, and with the folders of this machine blotted out in its libraries.

    The libraries keep the paths of headers and sources for messages only; each is replaced by as many other bytes.
    """
    import torch

    kept = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    places = (
        kept,
        cache.cache_dir(),
        tempfile.gettempdir(),
        sysconfig.get_path("purelib"),
        sys.prefix,
        sys.base_prefix,
        Path.home(),
    )
    folders = {str(Path(place)).encode() for place in places}
    reader = torch._C.PyTorchFileReader(str(package))
    writer = torch._C.PyTorchFileWriter(str(target))
    for name in reader.get_all_records():
        if name.endswith(".cpp") or name in _jit.OWN_RECORDS:
            continue
        content = reader.get_record(name)
        for folder in sorted(folders, key=len, reverse=True):
            if len(folder) > 1:
                content = content.replace(folder + b"/", b"/" * (len(folder) + 1))
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    del reader, writer


def check(path: Path) -> None:
    """A whole zip archive with a compiled model."""
    _jit.check(path, "AOTInductor package", ("/data/aotinductor/",))
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(".so") for name in archive.namelist()):
            raise UserError(f"{path.name} is no AOTInductor package: it has no compiled library")
