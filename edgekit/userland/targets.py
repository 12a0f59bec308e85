"""What is fixed: the architectures a userland can be built for, and the pinned wheels its runtimes come from."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from edgekit.errors import unknown


@dataclass(frozen=True)
class Target:
    """One architecture: its names in Debian, GNU tools, QEMU and wheels.

    `loop`: whether the native timing loop is made for it; its arguments are 64-bit, so a 32-bit device has none.
    """

    arch: str
    debian: str
    multiarch: str
    loader: str
    wheel_platforms: tuple[str, ...]
    qemu: str
    loop: bool = True

    @property
    def is_this_machine(self) -> bool:
        return platform.machine() == self.arch


TARGETS = {
    "aarch64": Target(
        arch="aarch64",
        debian="arm64",
        multiarch="aarch64-linux-gnu",
        loader="ld-linux-aarch64.so.1",
        wheel_platforms=(
            "manylinux_2_34_aarch64",
            "manylinux_2_28_aarch64",
            "manylinux_2_27_aarch64",
            "manylinux2014_aarch64",
        ),
        qemu="qemu-aarch64",
    ),
    # Raspberry Pis with a 32-bit system
    "armv7": Target(
        arch="armv7",
        debian="armhf",
        multiarch="arm-linux-gnueabihf",
        loader="ld-linux-armhf.so.3",
        wheel_platforms=("manylinux_2_34_armv7l",),
        qemu="qemu-arm",
        loop=False,
    ),
    # Android's emulator images, and PCs reached over SSH
    "x86_64": Target(
        arch="x86_64",
        debian="amd64",
        multiarch="x86_64-linux-gnu",
        loader="ld-linux-x86-64.so.2",
        wheel_platforms=("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"),
        qemu="qemu-x86_64",
    ),
}


@dataclass(frozen=True)
class Wheel:
    """A runtime's official wheel. Only files of it are used; `python_tag` names the build that is fetched.

    `libraries` are copied next to the loader; `include` is the folder of headers, where we compile against it. A wheel
    that is used from Python has `modules` instead, which are imported, and `debian`, the packages these need.
    """

    distribution: str
    version: str
    python_tag: str
    sha256: dict[str, str]
    libraries: tuple[str, ...]
    include: str | None = None
    modules: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()


WHEELS = {
    "tflite": Wheel(
        "ai-edge-litert",
        "2.3.0",
        "3.11",
        {
            "aarch64": "853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
            "x86_64": "1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23",
        },
        ("ai_edge_litert/libLiteRt.so",),
    ),
    "onnxruntime": Wheel(
        "onnxruntime",
        "1.32.0",
        "3.11",
        {
            "aarch64": "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
            "x86_64": "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
        },
        ("onnxruntime/capi/libonnxruntime.so.1.32.0",),
    ),
    "executorch": Wheel(
        "executorch",
        "1.5.1",
        "3.11",
        {
            "aarch64": "8ee02348a3ea80ddf770822911ebf78da616b73afce0fbaaa79f23311c88c66a",
            "x86_64": "274c28c2fe2b76acb03f9fa381537425c40e0098dcf886baf6d97a1a55ffe300",
        },
        (
            "executorch/lib/libexecutorch.so",
            "executorch/lib/libexecutorch_kernels_optimized.so",
            "executorch/lib/libexecutorch_kernels_quantized.so",
            "executorch/lib/libexecutorch_backend_xnnpack.so",
            "executorch/lib/libexecutorch_threadpool.so",
        ),
        "executorch/include",
    ),
    # The last one there will be; it was built against NumPy 1.
    "tflite_runtime": Wheel(
        "tflite-runtime",
        "2.14.0",
        "3.11",
        {
            "aarch64": "ce9fa5d770a9725c746dcbf6f59f3178233b3759f09982e8b2db8d2234c333b0",
            "armv7": "c4e66a74165b18089c86788400af19fa551768ac782d231a9beae2f6434f7949",
            "x86_64": "195ab752e7e57329a68e54dd3dd5439fad888b9bff1be0f0dc042a3237a90e4d",
        },
        (),
        modules=("numpy", "tflite_runtime.interpreter"),
        debian=("python3-numpy",),
    ),
}

# What tflite_runtime needs beside it on this machine, where no Debian package brings it.
NUMPY = Wheel(
    "numpy",
    "1.26.4",
    "3.11",
    {
        "aarch64": "7ab55401287bfec946ced39700c053796e7cc0e3acbef09993a9ad2adba6ca6e",
        "x86_64": "666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5",
    },
    (),
)

# Runtimes that are frameworks in this very Python environment, by the names of the distribution that brings each.
FRAMEWORKS = {
    "torchscript": ("torch",),
    "ptl": ("torch",),
    "aoti": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
}


def target(arch: str) -> Target:
    """The target of that name. Raises UserError for an architecture no userland can be built for."""
    if arch not in TARGETS:
        raise unknown("architecture of a userland", arch, TARGETS)
    return TARGETS[arch]


def wheel(runtime: str) -> Wheel:
    """The pinned wheel of a runtime. Raises UserError when no wheel carries its library."""
    if runtime not in WHEELS:
        raise unknown("runtime with a shared library", runtime, WHEELS)
    return WHEELS[runtime]
