"""The native sources: the timing loop, the classes of the instruction counter, the guest's exact memory peak."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import userland
from edgekit.agent import memory, plugin

CLASSES = ("total", "load_store", "simd_load_store", "fp_fma", "int_mac", "simd_other", "branch", "alu")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs a C compiler: apt-get install gcc g++")
Call = ctypes.CFUNCTYPE(ctypes.c_uint64, *([ctypes.c_uint64] * 8))


def silent(text: str) -> None:
    """Progress that nobody reads."""


# ---- the timing loop ----


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The loop, compiled for this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        library = ctypes.CDLL(userland.native("fake", silent).libraries["loop"])
    library.edgekit_loop.restype = ctypes.c_uint64
    return library


def time_calls(
    loop: ctypes.CDLL,
    function: Callable[..., int],
    samples: int,
    batch: int,
    arguments: tuple[int, ...] = (0,) * 8,
    mask: int = 2**64 - 1,
    counts: Any = None,
) -> tuple[int, list[int]]:
    """What edgekit_loop returns, and its samples."""
    times = (ctypes.c_uint64 * samples)()
    values = (ctypes.c_uint64 * 8)(*arguments)
    u64 = ctypes.c_uint64
    status = loop.edgekit_loop(Call(function), values, u64(mask), u64(samples), u64(batch), times, counts)
    return status, list(times)


@needs_gcc
def test_loop_calls_samples_times_batch_with_all_arguments(loop: ctypes.CDLL) -> None:
    seen = []

    def function(*arguments: int) -> int:
        seen.append(arguments)
        return 0

    arguments = (2**64 - 1, 2, 3, 4, 5, 6, 7, 2**40)
    status, _ = time_calls(loop, function, 3, 5, arguments)
    assert status == 0
    assert seen == [arguments] * 15


@needs_gcc
def test_loop_times_the_batch(loop: ctypes.CDLL) -> None:
    def function(*arguments: int) -> int:
        time.sleep(0.002)
        return 0

    before = time.monotonic_ns()
    _, times = time_calls(loop, function, 4, 3)
    spent = time.monotonic_ns() - before
    assert min(times) >= 6_000_000
    assert sum(times) <= spent


@needs_gcc
def test_loop_stops_at_the_first_failure_of_the_mask(loop: ctypes.CDLL) -> None:
    results = itertools.chain([0, 5 << 32, 0x17, 0], itertools.repeat(0))
    called = []

    def function(*arguments: int) -> int:
        called.append(1)
        return next(results)

    # An int-returning function leaves the upper half of the register undefined: only the lower half counts.
    status, _ = time_calls(loop, function, 2, 10, mask=0xFFFFFFFF)
    assert status == 0x17
    assert len(called) == 3


@needs_gcc
def test_without_a_plugin_nothing_answers_and_figures_are_zero(loop: ctypes.CDLL) -> None:
    count = plugin.Count()
    count.start()
    count.stop()
    assert count.read() is None
    assert plugin.guest_memory(True) is None
    assert isinstance(memory.meter(True), memory.KernelMeter)
    counts = (ctypes.c_uint64 * 16)(*[7] * 16)
    time_calls(loop, lambda *arguments: 0, 2, 1, counts=counts)
    assert list(counts) == [0] * 16


# ---- the classes of the instruction counter ----

INSTRUCTIONS = {
    "load_store": """
        ldr x3, [x1]; ldrb w3, [x1, #1]; ldp x3, x4, [x1, #16]; stp x3, x4, [x1, #16]; str w3, [x1, x2]; ldur x3, [x1, #8]
        ldar x3, [x1]; prfm pldl1keep, [x1]; ldadd x3, x4, [x1]; cas x3, x4, [x1]; ldr x3, =0x1234567812345678""",
    "simd_load_store": """
        ldr q0, [x1]; str d0, [x1, #8]; ldp q0, q1, [x1, #32]; stp d0, d1, [x1]; ldr s0, [x1, x2]; ld1 {v0.4s}, [x1]
        ld1 {v0.16b-v3.16b}, [x1]; ld1r {v0.4s}, [x1]; ld1 {v0.s}[1], [x1]; st1 {v0.8h}, [x1]; ld2 {v0.4s, v1.4s}, [x1]
        ld1w {z0.s}, p0/z, [x1]; st1b {z0.b}, p0, [x1]""",
    "fp_fma": """
        fmadd s0, s1, s2, s3; fnmsub d0, d1, d2, d3; fmla v0.4s, v1.4s, v2.4s; fmls v0.4s, v1.4s, v2.4s
        fmla v0.2d, v1.2d, v2.2d; fmla v0.4s, v1.4s, v2.s[3]; fmls v0.2s, v1.2s, v2.s[1]; fmla v0.2d, v1.2d, v2.d[1]
        fmla s0, s1, v2.s[3]; fmls d0, d1, v2.d[1]; fmla h0, h1, v2.h[3]; fmla v0.8h, v1.8h, v2.8h; fmls v0.4h, v1.4h, v2.4h
        fmla v0.8h, v1.8h, v2.h[7]; fmls v0.8h, v1.8h, v2.h[7]; fmlal v0.4s, v1.4h, v2.4h; fmlsl v0.4s, v1.4h, v2.4h
        fmlal2 v0.4s, v1.4h, v2.4h; fmlsl2 v0.4s, v1.4h, v2.4h; fmlal v0.4s, v1.4h, v2.h[5]; fmlsl v0.4s, v1.4h, v2.h[5]
        fmlal2 v0.4s, v1.4h, v2.h[5]; fmlsl2 v0.4s, v1.4h, v2.h[5]; fcmla v0.4s, v1.4s, v2.4s, #90
        fcmla v0.8h, v1.8h, v2.8h, #0; fcmla v0.4s, v1.4s, v2.s[1], #0; fcmla v0.4s, v1.4s, v2.s[1], #270
        bfdot v0.4s, v1.8h, v2.8h; bfdot v0.4s, v1.8h, v2.2h[1]; bfmmla v0.4s, v1.8h, v2.8h; bfmlalb v0.4s, v1.8h, v2.8h
        bfmlalt v0.4s, v1.8h, v2.8h; bfmlalb v0.4s, v1.8h, v2.h[3]""",
    "int_mac": """
        mla v0.4s, v1.4s, v2.4s; mls v0.8h, v1.8h, v2.8h; mla v0.4s, v1.4s, v2.s[1]; mls v0.4h, v1.4h, v2.h[1]
        smlal v0.4s, v1.4h, v2.4h; smlal2 v0.4s, v1.8h, v2.8h; umlal v0.4s, v1.4h, v2.4h; smlsl v0.8h, v1.8b, v2.8b
        smlal v0.4s, v1.4h, v2.h[3]; umlsl2 v0.4s, v1.8h, v2.h[3]; smull v0.8h, v1.8b, v2.8b; umull2 v0.8h, v1.16b, v2.16b
        smull v0.4s, v1.4h, v2.h[3]; sqdmlal v0.4s, v1.4h, v2.4h; sqdmlsl2 v0.2d, v1.4s, v2.4s; sqdmull v0.4s, v1.4h, v2.4h
        sqdmlal v0.4s, v1.4h, v2.h[2]; sqdmlsl v0.4s, v1.4h, v2.h[2]; sqdmull v0.4s, v1.4h, v2.h[2]; sqdmlal s0, h1, h2
        sqdmlsl d0, s1, s2; sqdmull s0, h1, h2; sqdmlal s0, h1, v2.h[2]; sqdmull d0, s1, v2.s[2]
        sqrdmlah v0.4s, v1.4s, v2.4s; sqrdmlsh v0.8h, v1.8h, v2.8h; sqrdmlah v0.4s, v1.4s, v2.s[1]
        sqrdmlsh v0.4s, v1.4s, v2.s[1]; sqrdmlah s0, s1, s2; sqrdmlah s0, s1, v2.s[1]; sdot v0.4s, v1.16b, v2.16b
        udot v0.2s, v1.8b, v2.8b; sdot v0.4s, v1.16b, v2.4b[2]; udot v0.4s, v1.16b, v2.4b[2]; usdot v0.4s, v1.16b, v2.16b
        usdot v0.4s, v1.16b, v2.4b[2]; sudot v0.4s, v1.16b, v2.4b[2]; smmla v0.4s, v1.16b, v2.16b
        ummla v0.4s, v1.16b, v2.16b; usmmla v0.4s, v1.16b, v2.16b""",
    "simd_other": """
        fadd v0.4s, v1.4s, v2.4s; fmul v0.4s, v1.4s, v2.4s; fmul v0.4s, v1.4s, v2.s[1]; fmulx v0.4s, v1.4s, v2.4s
        fmul s0, s1, s2; fnmul s0, s1, s2; fcadd v0.4s, v1.4s, v2.4s, #90; fmax v0.4s, v1.4s, v2.4s; fcvtns v0.4s, v1.4s
        fmov s0, w3; fmov x3, d0; scvtf s0, w3; fcmp s0, s1; mul v0.4s, v1.4s, v2.4s; mul v0.8h, v1.8h, v2.h[1]
        pmul v0.16b, v1.16b, v2.16b; pmull v0.8h, v1.8b, v2.8b; sqdmulh v0.4s, v1.4s, v2.4s; sqrdmulh v0.4s, v1.4s, v2.s[1]
        sqdmulh s0, s1, v2.s[1]; sadalp v0.4s, v1.8h; saddw v0.8h, v1.8h, v2.8b; saddl v0.8h, v1.8b, v2.8b
        saba v0.8h, v1.8h, v2.8h; sabal v0.8h, v1.8b, v2.8b; addhn v0.8b, v1.8h, v2.8h; addp v0.4s, v1.4s, v2.4s
        srshl v0.4s, v1.4s, v2.4s; sqxtn v0.8b, v1.8h; sshll v0.8h, v1.8b, #0; ssra v0.4s, v1.4s, #3; movi v0.4s, #0
        fmov v0.4s, #1.0; dup v0.4s, w3; ins v0.s[1], w3; umov w3, v0.s[1]; ext v0.16b, v1.16b, v2.16b, #4
        zip1 v0.4s, v1.4s, v2.4s; tbl v0.16b, {v1.16b}, v2.16b; aese v0.16b, v1.16b; sha256h q0, q1, v2.4s
        add z0.s, z1.s, z2.s""",
    "branch": """
        b 1f; bl 1f; b.eq 1f; cbz x3, 1f; cbnz w3, 1f; tbz x3, #5, 1f; tbnz x3, #40, 1f; br x9; blr x9; ret x9""",
    "alu": """
        add x3, x4, x5; add x3, x4, #1; subs w3, w4, w5, lsl #2; movz x3, #5; adr x3, .; adrp x3, .; ubfx x3, x4, #3, #7
        extr x3, x4, x5, #3; csel x3, x4, x5, eq; ccmp x3, #1, #0, eq; mul x3, x4, x5; madd x3, x4, x5, x6
        smull x3, w4, w5; umulh x3, x4, x5; sdiv x3, x4, x5; clz x3, x4; crc32b w3, w4, w5; nop; dmb ish; isb
        mrs x3, nzcv; mrs x3, tpidr_el0; dc zva, x1""",
}
CASES = [
    (name, text.strip())
    for name, block in INSTRUCTIONS.items()
    for line in block.strip().splitlines()
    for text in line.split(";")
]
# x1: 8 KiB of memory, x2: 8, x9: where a register branch goes, p0: all lanes
PROGRAM = """
        .arch armv8.6-a+fp16fml+i8mm+bf16+sve+crypto+sha2
        .global _start
_start: ldr x1, =memory
        mov x2, #8
        ptrue p0.b
        .macro ask offset
        mov x8, #7777
        ldr x0, =figures + \\offset
        svc #0
        .endm
{body}
        mov x8, #64         // write(1, figures, size)
        mov x0, #1
        ldr x1, =figures
        ldr x2, ={size}
        svc #0
        mov x8, #94         // exit_group(0)
        mov x0, #0
        svc #0
        .ltorg
        .bss
        .balign 4096
memory: .space 8192
figures: .space {size}
"""


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What the plug-in counted for each of CASES, by class."""
    folder = tmp_path_factory.mktemp("classes")
    body = []
    for index, text in enumerate(["", *(text for _, text in CASES)]):
        body += ["adr x9, 1f", f"ask {128 * index}", text, "1:", f"ask {128 * index + 64}", "b 2f", ".ltorg", "2:"]
    (folder / "program.s").write_text(PROGRAM.format(body="\n".join(body), size=128 * (len(CASES) + 1)))
    build = ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-o", "program", "program.s"]
    subprocess.run(build, cwd=folder, check=True)
    plugin = userland.counter_plugin(silent)
    run = ["qemu-aarch64", "-cpu", "max", "-plugin", str(plugin), "./program"]
    output = subprocess.run(run, cwd=folder, check=True, capture_output=True, timeout=60).stdout
    asked = [struct.unpack_from("<16Q", output, 128 * index) for index in range(len(CASES) + 1)]
    between = [[row[8 + c] - row[c] for c in range(8)] for row in asked]
    # The first has no instruction in between: what asking itself costs.
    return [[figure - cost for figure, cost in zip(row, between[0], strict=True)] for row in between[1:]]


@pytest.mark.emulated
@pytest.mark.parametrize("index", range(len(CASES)), ids=[text for _, text in CASES])
def test_instruction_is_counted_once_in_its_class(classified: list[list[int]], index: int) -> None:
    found = dict(zip(CLASSES, classified[index], strict=True))
    assert {name: figure for name, figure in found.items() if figure} == {"total": 1, CASES[index][0]: 1}


# ---- the guest's memory ----

MEBI = 1 << 20
MEMORY_PROGRAM = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <stdint.h>
#define SIZE (50 << 20)
static void ask(const char *what, int reset) {
    uint64_t out[6] = {0};
    syscall(7778, out, (long)reset);
    printf("%s %lu %lu %lu %lu %lu %lu\n", what, out[0], out[1], out[2], out[3], out[4], out[5]);
    fflush(stdout);
}
static char *fresh(void) {
    return mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
int main(int argc, char **argv) {
    ask("start", 1);
    ask("start", 1);
    char *a = fresh();
    ask("untouched", 0);
    memset(a, 1, SIZE);
    munmap(a, SIZE);
    ask("munmap", 1);
    ask("afterwards", 0);
    a = fresh();
    memset(a, 1, SIZE);
    madvise(a, SIZE, MADV_DONTNEED);
    ask("madvise", 1);
    memset(a, 1, SIZE);
    mmap(a, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ask("fixed", 1);
    if (argc > 1) return 0; // QEMU 7.2 crashes on the next call when it runs with -R
    memset(a, 1, SIZE);
    mremap(a, SIZE, 4096, 0);
    ask("mremap", 1);
    return argv == NULL;
}
"""


def memory_of_program(tmp_path: Path, plugin_options: str, *qemu_options: str) -> dict[str, list[int]]:
    """The six figures at each point of MEMORY_PROGRAM."""
    (tmp_path / "memory.c").write_text(MEMORY_PROGRAM)
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", "memory", "memory.c"], cwd=tmp_path, check=True)
    plugin = f"{userland.counter_plugin(silent)}{plugin_options}"
    run = ["qemu-aarch64", *qemu_options, "-plugin", plugin, "./memory", *qemu_options]
    output = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout
    rows = [line.split() for line in output.splitlines()]
    return {name: [int(figure) for figure in figures] for name, *figures in rows}


@pytest.mark.emulated
@pytest.mark.parametrize("reserve", [0, 1 << 30])
def test_memory_peak_is_exact_though_the_memory_is_gone(tmp_path: Path, reserve: int) -> None:
    if reserve:
        found = memory_of_program(tmp_path, f",memory=on,reserved={reserve}", "-R", str(reserve))
    else:
        found = memory_of_program(tmp_path, ",memory=on")
    resident, _, anonymous, _, pss, _ = found["start"]
    assert 0 < anonymous <= pss <= resident < 8 * MEBI  # the guest alone: QEMU's own 25 MB are not in it
    assert found["untouched"][1] - resident < MEBI
    assert found["afterwards"][1] - resident < MEBI
    for what in ("munmap", "madvise", "fixed", *([] if reserve else ["mremap"])):
        now, peak, anonymous_now, anonymous_peak, pss_now, pss_peak = found[what]
        assert now - resident < MEBI, what
        assert 50 * MEBI <= peak - resident < 51 * MEBI, what
        assert 50 * MEBI <= anonymous_peak - anonymous < 51 * MEBI, what
        assert anonymous_now - anonymous < MEBI, what
        assert 50 * MEBI <= pss_peak - pss < 51 * MEBI, what
        assert pss_now - pss < MEBI, what


@pytest.mark.emulated
def test_memory_is_not_answered_unless_asked_for(tmp_path: Path) -> None:
    assert memory_of_program(tmp_path, "")["munmap"] == [0] * 6


@pytest.mark.emulated
def test_plugin_refuses_an_option_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        memory_of_program(tmp_path, ",memry=on")
