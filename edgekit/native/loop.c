/* The timing loop: calls a runtime's C function again and again and notes how long each batch took.
 * It also asks the QEMU plug-in insn_counter.c for its counts, where the program runs under one.
 * Plain C, no dependency but libc; the agent loads it with ctypes. */
#define _GNU_SOURCE
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A system call that no kernel has, so a real one answers ENOSYS; the plug-in sees it pass. The same in insn_counter.c. */
#define MAGIC_COUNTERS 7777

#define CLASSES 8

typedef uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Instructions executed so far by class (see insn_counter.c); zeros when no plug-in answers. */
static void ask_counters(uint64_t out[CLASSES]) {
    memset(out, 0, CLASSES * sizeof *out);
    syscall(MAGIC_COUNTERS, out);
}

/* Does nothing: timed and counted by the agent to learn what the loop itself costs. */
uint64_t edgekit_nothing(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    return 0;
}

/* Takes `samples` samples of `batch` calls fn(a[0], ..., a[7]) each; samples_ns[i] gets the nanoseconds of the i-th batch.
 * When `counts` is not NULL, counts[8 * i ..] gets the instructions by class between just before and just after the batch
 * (the two clock readings included); all zero without a plug-in.
 * A call fails when its result has a bit of `mask` set: 0xffffffff for a function that returns an int, ~0 for a pointer.
 * Returns 0, or at once the first failing result & mask. */
uint64_t edgekit_loop(void *fn, const uint64_t a[8], uint64_t mask, uint64_t samples, uint64_t batch, uint64_t *samples_ns,
                      uint64_t *counts) {
    function run = (function)fn;
    uint64_t before[CLASSES], after[CLASSES];
    for (uint64_t i = 0; i < samples; i++) {
        uint64_t failed = 0;
        if (counts) ask_counters(before);
        uint64_t begin = now_ns();
        for (uint64_t k = 0; k < batch && !failed; k++) failed = run(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]) & mask;
        samples_ns[i] = now_ns() - begin;
        if (failed) return failed;
        if (counts) {
            ask_counters(after);
            for (int c = 0; c < CLASSES; c++) counts[CLASSES * i + c] = after[c] - before[c];
        }
    }
    return 0;
}
