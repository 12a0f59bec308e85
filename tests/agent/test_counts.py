"""How the plug-in counts a guest that waits, or has several threads: what is the model's, and not the schedule's."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from edgekit import userland
from edgekit.agent import plugin

pytestmark = pytest.mark.emulated
ROUNDS = 10
# Two questions with a loop in between that says YIELD once in each round of so many instructions.
WAITING = """
        .macro ask offset
        mov x8, #7777
        ldr x0, =figures + \\offset
        svc #0
        .endm
        .global _start
_start: mov x5, #{rounds}
        ask 0
1:      yield
        .rept {filling}
        nop
        .endr
        subs x5, x5, #1
        b.ne 1b
        ask 64
        mov x8, #64         // write(1, figures, 128)
        mov x0, #1
        ldr x1, =figures
        mov x2, #128
        svc #0
        mov x8, #94         // exit_group(0)
        mov x0, #0
        svc #0
        .ltorg
        .bss
        .balign 64
figures: .space 128
"""
# Three threads work, the first waits for them; each says YIELD while it waits, as thread pools do.
THREADS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
static atomic_int turn, done;
static void wait_for(atomic_int *what, int value) {
    while (atomic_load(what) < value) __asm__ volatile("yield");
}
static void *work(void *unused) {
    for (int round = 1; round <= 20; round++) {
        wait_for(&turn, round);
        for (volatile int i = 0; i < 20000; i++) {}
        atomic_fetch_add(&done, 1);
    }
    return unused;
}
int main(void) {
    pthread_t threads[3];
    uint64_t before[8], after[8];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, NULL);
    syscall(7777, before);
    for (int round = 1; round <= 20; round++) {
        atomic_store(&turn, round);
        wait_for(&done, 3 * round);
    }
    syscall(7777, after);
    printf("%lu\n", after[0] - before[0]);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}
"""

# The clock while it tells instructions, and again while it tells the time: nanoseconds of a loop of known length, twice.
CLOCK = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}
static long loop(long rounds) {
    long begin = now();
    __asm__ volatile("1: subs %0, %0, #1; b.ne 1b" : "+r"(rounds));
    return now() - begin;
}
int main(void) {
    syscall(7779, 1L);
    long empty = loop(1), full = loop(5001);
    syscall(7779, 0L);
    printf("%ld\n", full - empty);
}
"""


def silent(text: str) -> None:
    """Progress that nobody reads."""


def output_of(folder: Path, name: str, text: str, *flags: str, repeats: int = 1) -> list[bytes]:
    """What a program prints in each of several runs under the plug-in."""
    (folder / name).write_text(text)
    build = ["aarch64-linux-gnu-gcc", "-static", *flags, "-o", "program", name]
    subprocess.run(build, cwd=folder, check=True)
    run = ["qemu-aarch64", "-cpu", "cortex-a72", "-plugin", str(userland.counter_plugin(silent)), "./program"]
    done = (subprocess.run(run, cwd=folder, check=True, capture_output=True, timeout=120) for _ in range(repeats))
    return [one.stdout for one in done]


@pytest.mark.parametrize(("size", "counted"), [(256, False), (257, True)])
def test_rounds_of_a_wait_are_not_counted_and_longer_ones_are(tmp_path: Path, size: int, counted: bool) -> None:
    program = WAITING.format(rounds=ROUNDS, filling=size - 3)
    (output,) = output_of(tmp_path, "waiting.s", program, "-nostdlib")
    figures = struct.unpack("<16Q", output)
    rounds = (figures[8] - figures[0]) / size
    assert round(rounds) == (ROUNDS if counted else 1)  # of a wait the way out of it is left
    branches = figures[14] - figures[6]
    assert branches == (ROUNDS if counted else 1)
    assert sum(figures[9:]) - sum(figures[1:8]) == figures[8] - figures[0]


def test_threads_that_wait_for_one_another_count_the_same_every_time(tmp_path: Path) -> None:
    outputs = output_of(tmp_path, "threads.c", THREADS, "-O1", "-pthread", repeats=4)
    totals = [int(output) for output in outputs]
    alone = 3 * 20 * 20_000  # iterations; each takes several instructions
    assert min(totals) > 3 * alone
    assert max(totals) / min(totals) < 1.005


def test_clocks_tell_instructions_while_they_are_asked_to(tmp_path: Path) -> None:
    outputs = output_of(tmp_path, "clock.c", CLOCK, "-O1", repeats=2)
    assert [int(output) for output in outputs] == [2 * 5000 * plugin.INSTRUCTION_NS] * 2
