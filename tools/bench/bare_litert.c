/* A bare LiteRT C-API invoke loop, what the agent's own is compared with: bare_litert LIB MODEL SAMPLES BATCH -> median ns of a call.
 * Types and signatures as in the headers under litert/c/ of LiteRT 2.3. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct { unsigned rank_and_flags; int32_t dimensions[8]; uint32_t strides[8]; } Layout;
typedef struct { int element_type; Layout layout; } RankedType;
typedef struct { int type; int64_t value; } Any;
typedef struct { int tag; Any value; } EnvironmentOption;

static void *library;
static void keep(void *payload) { (void)payload; }
static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void *function(const char *name) {
    void *found = dlsym(library, name);
    if (!found) { fprintf(stderr, "no %s\n", name); exit(2); }
    return found;
}
/* Call a LiteRT function by name; any status but 0 ends the program. */
#define CALL(name, ...) do { int status = ((int (*)())function(name))(__VA_ARGS__); \
    if (status) { fprintf(stderr, "%s: status %d\n", name, status); exit(2); } } while (0)

static void *make_buffer(void *environment, void *model, void *compiled, const char *kind) {
    void *signature, *tensor, *requirements, *buffer;
    char name[96];
    RankedType type;
    CALL("LiteRtGetModelSignature", model, (size_t)0, &signature);
    snprintf(name, sizeof name, "LiteRtGetSignature%sTensorByIndex", kind);
    CALL(name, signature, (size_t)0, &tensor);
    CALL("LiteRtGetRankedTensorType", tensor, &type);
    snprintf(name, sizeof name, "LiteRtGetCompiledModel%sBufferRequirements", kind);
    CALL(name, compiled, (size_t)0, (size_t)0, &requirements);
    CALL("LiteRtCreateManagedTensorBufferFromRequirements", environment, &type, requirements, &buffer);
    return buffer;
}

int main(int count, char **args) {
    if (count != 5 || !(library = dlopen(args[1], RTLD_NOW))) { fprintf(stderr, "usage: bare_litert LIB MODEL SAMPLES BATCH\n"); return 2; }
    int samples = atoi(args[3]), batch = atoi(args[4]);
    void *environment, *model, *options, *opaque, *compiled;
    EnvironmentOption settings[2] = {{24, {2, 1}}, {25, {2, 3}}}; /* CPU only; errors only */
    CALL("LiteRtCreateEnvironment", 2, settings, &environment);
    CALL("LiteRtCreateModelFromFile", environment, args[2], &model);
    CALL("LiteRtCreateOptions", &options);
    CALL("LiteRtSetOptionsHardwareAccelerators", options, 1);
    CALL("LiteRtCreateOpaqueOptions", "xnnpack", (void *)"num_threads = 1\n", keep, &opaque);
    CALL("LiteRtAddOpaqueOptions", options, opaque);
    CALL("LiteRtCreateCompiledModel", environment, model, options, &compiled);
    void *input = make_buffer(environment, model, compiled, "Input"), *output = make_buffer(environment, model, compiled, "Output");
    int (*run)(void *, size_t, size_t, void **, size_t, void **) = function("LiteRtRunCompiledModel");
    double *times = malloc(sizeof *times * samples);
    for (int i = -samples / 4; i < samples; i++) { /* the first quarter again as warm-up */
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (int k = 0; k < batch; k++) if (run(compiled, 0, 1, &input, 1, &output)) return 2;
        clock_gettime(CLOCK_MONOTONIC, &end);
        if (i >= 0) times[i] = ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / batch;
    }
    qsort(times, samples, sizeof *times, compare);
    printf("%.1f\n", times[samples / 2]);
    return 0;
}
