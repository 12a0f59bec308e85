/* A QEMU TCG plug-in: exact counts of the guest's instructions by class, and the exact peak of the guest's own memory.
 *
 *     qemu-aarch64 -plugin libedgekit_counter.so[,memory=on][,reserved=BYTES] program ...
 *
 * The guest asks with system calls that no kernel has (agent/plugin.py, loop.c): QEMU answers ENOSYS, and before it does the
 * plug-in has filled the guest's buffer. `reserved` must repeat QEMU's -R when that is given; a 32-bit guest always has
 * 4 GiB of its own.
 *
 * Plug-in API version 1 (QEMU 4.2 to 8.x; docs/devel/tcg-plugins.rst). Its prototypes stand here because Debian ships no
 * qemu-plugin.h. Only 64-bit Arm instructions are told apart; of any other guest the total alone is counted. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    int smp_vcpus, max_vcpus;
} qemu_info_t;
extern void qemu_plugin_register_vcpu_syscall_ret_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, int64_t));
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int flags, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                                     uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int flags, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

/* The same in agent/plugin.py and loop.c. */
#define MAGIC_COUNTERS 7777
#define MAGIC_MEMORY 7778
#define MAGIC_CLOCK 7779

/* ---- Classes of instructions -------------------------------------------------------------------------------------------
 * By the encoding of A64 (Arm Architecture Reference Manual for A-profile, DDI 0487, chapter C4, "A64 instruction set
 * encoding"; the table each mask comes from is named). Each instruction is in exactly one class, TOTAL apart:
 *   LOAD_STORE       loads and stores of general registers, prefetches, atomics
 *   SIMD_LOAD_STORE  loads and stores of SIMD&FP registers (SVE's too)
 *   FP_FMA           floating-point fused multiply-add: scalar, vector, by element; half precision, BFloat16, complex
 *   INT_MAC          SIMD integer multiply-accumulate and widening multiply, dot product, matrix multiply
 *   SIMD_OTHER       every other instruction on SIMD&FP registers, scalar floating point and SVE included
 *   BRANCH           direct, indirect, conditional branches, calls and returns
 *   ALU              all the rest: general registers (integer MADD too), moves, system instructions */
enum { TOTAL, LOAD_STORE, SIMD_LOAD_STORE, FP_FMA, INT_MAC, SIMD_OTHER, BRANCH, ALU, CLASSES };

struct pattern {
    uint32_t mask, value;
};

static const struct pattern fp_fma[] = {
    {0xFF000000, 0x1F000000}, /* Floating-point data-processing (3 source): FMADD, FMSUB, FNMADD, FNMSUB */
    {0xBF20FC00, 0x0E20CC00}, /* Advanced SIMD three same: FMLA, FMLS */
    {0xBF60FC00, 0x0E400C00}, /* Advanced SIMD three same (FP16): FMLA, FMLS */
    {0xBF60FC00, 0x0E20EC00}, /* Advanced SIMD three same: FMLAL, FMLSL (widening) */
    {0xBF60FC00, 0x2E20CC00}, /* Advanced SIMD three same: FMLAL2, FMLSL2 */
    {0xBF20E400, 0x2E00C400}, /* Advanced SIMD three-register extension: FCMLA */
    {0xBF60FC00, 0x2E40FC00}, /* Advanced SIMD three-register extension: BFDOT, BFMLALB, BFMLALT */
    {0xFFE0FC00, 0x6E40EC00}, /* Advanced SIMD three-register extension: BFMMLA */
    {0x9F00B400, 0x0F001000}, /* Advanced SIMD vector x indexed element: FMLA, FMLS (U=0), FCMLA with even rotation (U=1) */
    {0xBF009400, 0x2F001000}, /* Advanced SIMD vector x indexed element: FCMLA */
    {0xFF00B400, 0x5F001000}, /* Advanced SIMD scalar x indexed element: FMLA, FMLS */
    {0xBFC0B400, 0x0F800000}, /* Advanced SIMD vector x indexed element: FMLAL, FMLSL */
    {0xBFC0B400, 0x2F808000}, /* Advanced SIMD vector x indexed element: FMLAL2, FMLSL2 */
    {0xBF40F400, 0x0F40F000}, /* Advanced SIMD vector x indexed element: BFDOT, BFMLALB, BFMLALT */
};

static const struct pattern int_mac[] = {
    {0x9F20FC00, 0x0E209400}, /* Advanced SIMD three same: MLA, MLS */
    {0x9F20CC00, 0x0E208000}, /* Advanced SIMD three different: S/UMLAL, S/UMLSL, SQDMLAL, SQDMLSL and their "2" forms */
    {0x9F20EC00, 0x0E20C000}, /* Advanced SIMD three different: S/UMULL, SQDMULL */
    {0xDF20CC00, 0x5E208000}, /* Advanced SIMD scalar three different: SQDMLAL, SQDMLSL */
    {0xFF20FC00, 0x5E20D000}, /* Advanced SIMD scalar three different: SQDMULL */
    {0xAF20F400, 0x2E008400}, /* Advanced SIMD three-register extension, also scalar: SQRDMLAH, SQRDMLSH */
    {0x9FE0FC00, 0x0E809400}, /* Advanced SIMD three-register extension: SDOT, UDOT */
    {0xBFE0FC00, 0x0E809C00}, /* Advanced SIMD three-register extension: USDOT */
    {0xDFE0FC00, 0x4E80A400}, /* Advanced SIMD three-register extension: SMMLA, UMMLA */
    {0xFFE0FC00, 0x4E80AC00}, /* Advanced SIMD three-register extension: USMMLA */
    {0xBF00B400, 0x2F000000}, /* Advanced SIMD vector x indexed element: MLA, MLS */
    {0x9F00B400, 0x0F002000}, /* Advanced SIMD vector x indexed element: S/UMLAL, S/UMLSL */
    {0xAF00B400, 0x0F003000}, /* Advanced SIMD vector x indexed element, also scalar: SQDMLAL, SQDMLSL */
    {0x9F00F400, 0x0F00A000}, /* Advanced SIMD vector x indexed element: S/UMULL */
    {0xAF00F400, 0x0F00B000}, /* Advanced SIMD vector x indexed element, also scalar: SQDMULL */
    {0xAF00D400, 0x2F00D000}, /* Advanced SIMD vector x indexed element, also scalar: SQRDMLAH, SQRDMLSH */
    {0x9FC0F400, 0x0F80E000}, /* Advanced SIMD vector x indexed element: SDOT, UDOT */
    {0xBF40F400, 0x0F00F000}, /* Advanced SIMD vector x indexed element: SUDOT, USDOT */
};

static const struct pattern branch[] = {
    {0x7C000000, 0x14000000}, /* Unconditional branch (immediate): B, BL */
    {0xFE000000, 0x54000000}, /* Conditional branch (immediate): B.cond */
    {0x7C000000, 0x34000000}, /* Compare and branch, Test and branch: CBZ, CBNZ, TBZ, TBNZ */
    {0xFE000000, 0xD6000000}, /* Unconditional branch (register): BR, BLR, RET */
};

#define MATCHES(table, word) matches(table, sizeof table / sizeof *table, word)

static bool matches(const struct pattern *table, size_t size, uint32_t word) {
    for (size_t i = 0; i < size; i++)
        if ((word & table[i].mask) == table[i].value) return true;
    return false;
}

static int class_of(uint32_t word) {
    switch (word >> 25 & 15) { /* op0 of the main encoding table */
    case 4: case 6: case 12: case 14: /* x1x0: loads and stores; bit 26 is V in all of them */
        return word >> 26 & 1 ? SIMD_LOAD_STORE : LOAD_STORE;
    case 10: case 11: /* 101x: branches, exception generating and system instructions */
        return MATCHES(branch, word) ? BRANCH : ALU;
    case 7: case 15: /* x111: data processing, scalar floating point and Advanced SIMD */
        return MATCHES(fp_fma, word) ? FP_FMA : MATCHES(int_mac, word) ? INT_MAC : SIMD_OTHER;
    case 2: /* 0010: SVE; its memory instructions have bit 31 set */
        return word >> 31 ? SIMD_LOAD_STORE : SIMD_OTHER;
    default:
        return ALU;
    }
}

/* ---- Counting ----------------------------------------------------------------------------------------------------------
 * One row of counters for each virtual CPU (a thread of the guest has one), a cache line each, so that threads neither race
 * nor disturb one another. Rows are shared only beyond MAX_CPUS threads at once. */
#define MAX_CPUS 1024

static uint64_t counters[MAX_CPUS][CLASSES] __attribute__((aligned(64)));
static bool arm64, arm32;
static uint64_t guest_base; /* what QEMU adds to a guest address; 0 for a 64-bit guest unless -R reserves its space */

static void on_execute(unsigned cpu, void *data) {
    const uint64_t *in_block = data;
    uint64_t *row = counters[cpu % MAX_CPUS];
    for (int i = 0; i < CLASSES; i++) row[i] += in_block[i];
}

/* ---- Threads -----------------------------------------------------------------------------------------------------------
 * How often a thread looks whether another is done, and which of them gets how much of the work, depends on the host's
 * schedule and says nothing of the model. So (docs/decisions/011-counts-of-several-threads.md):
 * - one thread of the guest runs at a time, the one that has the turn; it goes on until it waits: in a system call, or with
 *   YIELD, the hint in the loops in which all runtimes wait;
 * - a thread that says YIELD stands still for a while, and what it executed since its last YIELD is taken off again when that is
 *   no more than ROUND instructions: one round of such a loop (10 in pthreadpool, 193 in ONNX Runtime 1.32).
 * A thread that cannot have the turn for PATIENCE goes on without, lest one that waits in some other way hold up all. */
#define YIELD_NS 50000
#define ROUND 256
#define PATIENCE_S 10
#define YIELD_PATIENCE_NS 20000000 /* short: QEMU waits for threads in the guest's code when it needs them all to stand still */

static uint64_t at_yield[MAX_CPUS][CLASSES] __attribute__((aligned(64)));
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static __thread bool has_turn;

static void take_turn(time_t s, long ns) {
    struct timespec until;
    if (has_turn) return;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += ns;
    until.tv_sec += s + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    has_turn = !pthread_mutex_timedlock(&turn, &until);
}

static void give_turn(void) {
    if (has_turn) pthread_mutex_unlock(&turn);
    has_turn = false;
}

/* In the one thread of a forked guest. */
static void on_fork(void) {
    turn = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    has_turn = false;
}

static void on_yield(unsigned cpu, void *data) {
    (void)data;
    uint64_t *row = counters[cpu % MAX_CPUS], *last = at_yield[cpu % MAX_CPUS];
    bool waited = row[TOTAL] - last[TOTAL] <= ROUND;
    memcpy(waited ? row : last, waited ? last : row, CLASSES * sizeof *row);
    give_turn();
    nanosleep(&(struct timespec){.tv_nsec = YIELD_NS}, NULL);
    take_turn(0, YIELD_PATIENCE_NS);
}

/* Whether it is the hint YIELD: of A64, A32 or, in 2 bytes, T32. */
static bool is_yield(uint32_t word, size_t size) {
    return arm64 ? word == 0xD503203F : arm32 && word == (size == 4 ? 0xE320F001 : 0xBF10);
}

/* ---- Instructions as time ------------------------------------------------------------------------------------------------
 * When it is asked for, the guest's clocks tell the instructions executed so far, a microsecond for each: so the runtimes' own
 * profilers, some of which are no finer, tell the instructions of each operator. QEMU up to 8.1 has no vDSO for a 64-bit Arm
 * guest: every reading of a clock is a system call. */
#define CLOCK_GETTIME 113

static bool clock_on;
static __thread uint64_t asked_clock; /* where this thread's clock_gettime puts its answer */

static void tell_instructions(void) {
    uint64_t total = 0, *time = (uint64_t *)(uintptr_t)(asked_clock + guest_base);
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) total += counters[cpu][TOTAL];
    time[0] = total / 1000000, time[1] = total % 1000000 * 1000;
}

/* Whether a thread may wait in this system call; of a 32-bit guest each may. The others are memory, clocks, waking others. */
static bool waits(int64_t number, uint64_t a2) {
    switch (arm64 ? number : 0) {
    case 98: { /* futex */
        int what = a2 & FUTEX_CMD_MASK;
        bool wakes = what == FUTEX_WAKE || what == FUTEX_WAKE_BITSET || what == FUTEX_WAKE_OP;
        return !wakes && what != FUTEX_REQUEUE && what != FUTEX_CMP_REQUEUE;
    }
    case CLOCK_GETTIME: case 214: case 215: case 216: case 222: case 226: case 233: /* brk to madvise */
    case MAGIC_COUNTERS: case MAGIC_MEMORY: case MAGIC_CLOCK:
        return false;
    default:
        return true;
    }
}

static void on_return(plugin_id id, unsigned cpu, int64_t number, int64_t result) {
    (void)id, (void)cpu, (void)result;
    if (clock_on && number == CLOCK_GETTIME) tell_instructions();
    take_turn(PATIENCE_S, 0);
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    /* QEMU may execute a block for as long as the process lives, so its figures are never freed. */
    uint64_t *in_block = calloc(CLASSES, sizeof *in_block);
    size_t count = qemu_plugin_tb_n_insns(block);
    in_block[TOTAL] = count;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint32_t word = 0;
        size_t size = qemu_plugin_insn_size(insn);
        if (size <= sizeof word) memcpy(&word, qemu_plugin_insn_data(insn), size);
        if (arm64) in_block[class_of(word)]++;
        if (is_yield(word, size)) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_yield, 0, NULL);
        if (i == 0) guest_base = (uint64_t)(uintptr_t)qemu_plugin_insn_haddr(insn) - qemu_plugin_insn_vaddr(insn);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_execute, 0, in_block);
}

/* ---- The guest's memory ------------------------------------------------------------------------------------------------
 * A process can only lose resident pages in a system call that unmaps or drops them (swapping apart). So the peak is exact
 * when the resident size is taken just before each of these, and when it is asked for; nothing is sampled by time.
 *
 * QEMU puts the guest of a 64-bit host below 2^40: the program at 0x5500000000, its mappings from 0x4000000000 up
 * (linux-user/elfload.c, mmap.c), or into a reserved space of its own (-R). QEMU's own code, heap and translation buffers
 * lie far above. Figures come from the host's /proc/self/smaps, which QEMU fakes for the guest but not for a plug-in. */
#define GUEST_TOP (UINT64_C(1) << 40)

static bool memory_on;
static uint64_t reserved; /* bytes of -R, or 0 */
static uint64_t break_now; /* the guest's program break, as last asked for */
static struct {
    uint64_t now, peak;
} resident, anonymous, proportional;
static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;

/* The number at `text` in this base; *end is set behind its last digit. */
static uint64_t number(const char *text, int base, const char **end) {
    uint64_t value = 0;
    for (;; text++) {
        int digit = *text >= '0' && *text <= '9' ? *text - '0' : *text >= 'a' && *text <= 'f' ? *text - 'a' + 10 : 99;
        if (digit >= base) break;
        value = value * base + digit;
    }
    *end = text;
    return value;
}

/* The value of an smaps line such as "Rss:       24 kB" in bytes. */
static uint64_t kilobytes(const char *text) {
    const char *end;
    while (*text == ' ') text++;
    return number(text, 10, &end) * 1024;
}

/* Take one line of smaps: either the head of a mapping ("4000800000-4000824000 r--p ...") or one of its figures. */
static void read_line(const char *line, bool *inside) {
    if ((*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f')) {
        const char *end;
        uint64_t start = number(line, 16, &end);
        *inside = reserved ? start - guest_base < reserved : start < GUEST_TOP;
    } else if (*inside && !strncmp(line, "Rss:", 4)) {
        resident.now += kilobytes(line + 4);
    } else if (*inside && !strncmp(line, "Anonymous:", 10)) {
        anonymous.now += kilobytes(line + 10);
    } else if (*inside && !strncmp(line, "Pss:", 4)) {
        proportional.now += kilobytes(line + 4);
    }
}

/* Add up the guest's mappings and keep the highest figures. The caller holds memory_lock. */
static void look(void) {
    static char buffer[1 << 16];
    size_t filled = 0;
    bool inside = false;
    int file = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    resident.now = anonymous.now = proportional.now = 0;
    for (;;) {
        ssize_t got = read(file, buffer + filled, sizeof buffer - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        filled += got;
        char *line = buffer, *end;
        while ((end = memchr(line, '\n', buffer + filled - line))) {
            *end = 0;
            read_line(line, &inside);
            line = end + 1;
        }
        filled = buffer + filled - line;
        memmove(buffer, line, filled);
    }
    close(file);
    if (resident.now > resident.peak) resident.peak = resident.now;
    if (anonymous.now > anonymous.peak) anonymous.peak = anonymous.now;
    if (proportional.now > proportional.peak) proportional.peak = proportional.now;
}

enum call { CALL_OTHER, CALL_BRK, CALL_MUNMAP, CALL_MREMAP, CALL_MMAP, CALL_MADVISE };

/* Which of the system calls that shape memory this is: 64-bit Arm has the generic table (asm-generic/unistd.h), 32-bit Arm one
 * of its own (arch/arm/tools/syscall.tbl; its mmap is mmap2). */
static enum call call_of(int64_t number) {
    switch (number) {
    case 214: return arm64 ? CALL_BRK : CALL_OTHER;
    case 215: return arm64 ? CALL_MUNMAP : CALL_OTHER;
    case 216: return arm64 ? CALL_MREMAP : CALL_OTHER;
    case 222: return arm64 ? CALL_MMAP : CALL_OTHER;
    case 233: return arm64 ? CALL_MADVISE : CALL_OTHER;
    case 45: return arm32 ? CALL_BRK : CALL_OTHER;
    case 91: return arm32 ? CALL_MUNMAP : CALL_OTHER;
    case 163: return arm32 ? CALL_MREMAP : CALL_OTHER;
    case 192: return arm32 ? CALL_MMAP : CALL_OTHER;
    case 220: return arm32 ? CALL_MADVISE : CALL_OTHER;
    default: return CALL_OTHER;
    }
}

#define MAP_FIXED_FLAG 0x10
#define MADV_DONTNEED_ADVICE 4

/* Whether this system call may take resident pages away. */
static bool shrinks(int64_t number, uint64_t a1, uint64_t a3, uint64_t a4) {
    switch (call_of(number)) {
    case CALL_BRK: {
        bool lower = a1 && a1 < break_now;
        if (a1) break_now = a1;
        return lower;
    }
    case CALL_MMAP:
        return a4 & MAP_FIXED_FLAG;
    case CALL_MADVISE:
        return a3 >= MADV_DONTNEED_ADVICE; /* and all later advice: FREE, REMOVE, PAGEOUT ...; the harmless ones are rare */
    case CALL_MUNMAP: case CALL_MREMAP:
        return true;
    default:
        return false;
    }
}

/* ---- Answering ------------------------------------------------------------------------------------------------------- */

/* Where a guest's buffer lies for us; QEMU sign-extends the arguments of a 32-bit guest. */
static uint64_t *buffer_at(uint64_t address) {
    return (uint64_t *)(uintptr_t)((arm64 ? address : (uint32_t)address) + guest_base);
}

static void answer_counters(uint64_t address) {
    uint64_t *out = buffer_at(address);
    memset(out, 0, CLASSES * sizeof *out);
    for (int cpu = 0; cpu < MAX_CPUS; cpu++)
        for (int i = 0; i < CLASSES; i++) out[i] += counters[cpu][i];
}

static void answer_memory(uint64_t address, bool reset) {
    uint64_t *out = buffer_at(address);
    pthread_mutex_lock(&memory_lock);
    look();
    out[0] = resident.now, out[1] = resident.peak, out[2] = anonymous.now, out[3] = anonymous.peak;
    out[4] = proportional.now, out[5] = proportional.peak;
    if (reset) resident.peak = resident.now, anonymous.peak = anonymous.now, proportional.peak = proportional.now;
    pthread_mutex_unlock(&memory_lock);
}

static void on_syscall(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                       uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == MAGIC_COUNTERS) {
        answer_counters(a1);
    } else if (memory_on && number == MAGIC_MEMORY) {
        answer_memory(a1, a2 != 0);
    } else if (memory_on && shrinks(number, a1, a3, a4)) {
        pthread_mutex_lock(&memory_lock);
        look();
        pthread_mutex_unlock(&memory_lock);
    }
    if (number == MAGIC_CLOCK) clock_on = arm64 && a1;
    if (number == CLOCK_GETTIME) asked_clock = a2;
    if (waits(number, a2)) give_turn();
}

EXPORT int qemu_plugin_install(plugin_id id, const qemu_info_t *info, int argc, char **argv) {
    const char *end;
    arm64 = !strcmp(info->target_name, "aarch64");
    arm32 = !strcmp(info->target_name, "arm");
    if (arm32) reserved = UINT64_C(1) << 32;
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "memory=on")) {
            memory_on = true;
        } else if (!strncmp(argv[i], "reserved=", 9)) {
            reserved = number(argv[i] + 9, 10, &end);
        } else {
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    if (!info->system_emulation) {
        qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
        qemu_plugin_register_vcpu_syscall_ret_cb(id, on_return);
        pthread_atfork(NULL, NULL, on_fork);
    }
    return 0;
}
