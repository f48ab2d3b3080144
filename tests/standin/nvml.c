/*
 * A stand-in for NVIDIA's management library (libnvidia-ml.so.1).
 *
 * It plays the node that the file named by STANDIN_NODE describes: lines "key = value", read again on every
 * initialisation. A key it does not know is refused (initialisation returns 999 and the key is printed), so that a
 * slip in a test cannot silently do nothing.
 *
 *   driver, nvml, cuda_driver                                    of the node
 *   gpu.<i>.name, .uuid, .pci, .memory, .used, .minor            of one GPU
 *   gpu.<i>.compute_capability = <major>.<minor>
 *   gpu.<i>.mig = enabled | disabled | unsupported
 *   gpu.<i>.clock_reasons, .sm_clock                             why the clock is held down (bits), and where (MHz)
 *   gpu.<i>.clock_reasons_later                                  the same bits, from the second question on
 *   gpu.<i>.odd_link                                             the one NVLink of which it says that it has none
 *   gpu.<i>.vbios
 *   gpu.<i>.health.<key> = <number> | unsupported                a key of HEALTH; the GPU of no key is a healthy H100
 *   gpu.<i>.process.<j> = <pid> <bytes> | <pid> unknown          a process that computes on it
 *   gpu.<i>.graphics.<j> = <pid> <bytes> | <pid> unknown         a process that draws on it
 *   count, count_later                                           GPUs that it says it has, at first and from then on
 *   gpu.<i>.mig.<j>.name, .uuid, .memory, .gpu_instance, .compute_instance
 *   fault.<function>, gpu.<i>.fault.<function> = <return code> | hang | crash | noise
 *
 * A fault of one of the three initialisation functions is a fault of all of them: they are one door.
 * Where STANDIN_CALLS names a file, the name of every function called is appended to it.
 *
 * Compiled with OLD_DRIVER it is the library of a driver that lacks what newer ones have: dlsym(3) does not find it.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FUNCTIONS(X) \
    X(nvmlInit) \
    X(nvmlInit_v2) \
    X(nvmlInitWithFlags) \
    X(nvmlShutdown) \
    X(nvmlErrorString) \
    X(nvmlSystemGetDriverVersion) \
    X(nvmlSystemGetNVMLVersion) \
    X(nvmlSystemGetCudaDriverVersion) \
    X(nvmlSystemGetCudaDriverVersion_v2) \
    X(nvmlDeviceGetCount_v2) \
    X(nvmlDeviceGetHandleByIndex_v2) \
    X(nvmlDeviceGetHandleByUUID) \
    X(nvmlDeviceGetIndex) \
    X(nvmlDeviceGetName) \
    X(nvmlDeviceGetUUID) \
    X(nvmlDeviceGetPciInfo_v3) \
    X(nvmlDeviceGetMemoryInfo) \
    X(nvmlDeviceGetMemoryInfo_v2) \
    X(nvmlDeviceGetCudaComputeCapability) \
    X(nvmlDeviceGetMinorNumber) \
    X(nvmlDeviceGetCurrentClocksEventReasons) \
    X(nvmlDeviceGetCurrentClocksThrottleReasons) \
    X(nvmlDeviceGetClockInfo) \
    X(nvmlDeviceGetMaxClockInfo) \
    X(nvmlDeviceGetMemoryBusWidth) \
    X(nvmlDeviceGetTemperature) \
    X(nvmlDeviceGetPowerUsage) \
    X(nvmlDeviceGetMigMode) \
    X(nvmlDeviceGetMaxMigDeviceCount) \
    X(nvmlDeviceGetMigDeviceHandleByIndex) \
    X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) \
    X(nvmlDeviceGetGpuInstanceId) \
    X(nvmlDeviceGetComputeInstanceId) \
    X(nvmlDeviceGetVbiosVersion) \
    X(nvmlDeviceGetEccMode) \
    X(nvmlDeviceGetTotalEccErrors) \
    X(nvmlDeviceGetSramEccErrorStatus) \
    X(nvmlDeviceGetRemappedRows) \
    X(nvmlDeviceGetRetiredPages) \
    X(nvmlDeviceGetRetiredPagesPendingStatus) \
    X(nvmlDeviceGetTemperatureThreshold) \
    X(nvmlDeviceGetMarginTemperature) \
    X(nvmlDeviceGetMaxPcieLinkGeneration) \
    X(nvmlDeviceGetCurrPcieLinkWidth) \
    X(nvmlDeviceGetMaxPcieLinkWidth) \
    X(nvmlDeviceGetPcieReplayCounter) \
    X(nvmlDeviceGetNvLinkState) \
    X(nvmlDeviceGetNvLinkErrorCounter) \
    X(nvmlDeviceGetGpuFabricInfo) \
    X(nvmlDeviceGetGpuFabricInfoV) \
    X(nvmlDeviceGetComputeMode) \
    X(nvmlDeviceGetComputeRunningProcesses_v3) \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3) \
    X(nvmlDeviceGetPersistenceMode) \
    X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetPowerManagementDefaultLimit) \
    X(nvmlDeviceGetApplicationsClock) \
    X(nvmlDeviceGetDefaultApplicationsClock) \
    X(nvmlDeviceValidateInforom) \
    X(nvmlDeviceGetFieldValues)

/* What a GPU says of its health, and what a healthy H100 says. Clocks are in MHz, power in milliwatts. */
#define HEALTH(X) \
    X(ecc_mode, 1) \
    X(ecc_mode_pending, 1) \
    X(ecc_volatile, 0) \
    X(ecc_aggregate, 0) \
    X(sram_threshold_exceeded, 0) \
    X(rows_remapped_correctable, 0) \
    X(rows_remapped_uncorrectable, 0) \
    X(row_remap_pending, 0) \
    X(row_remap_failed, 0) \
    X(pages_retired_single, UNSUPPORTED) \
    X(pages_retired_double, UNSUPPORTED) \
    X(page_retirement_pending, UNSUPPORTED) \
    X(temperature, 61) \
    X(temperature_shutdown, 95) \
    X(temperature_slowdown, 90) \
    X(temperature_operating, 87) \
    X(temperature_margin, 26) \
    X(temperature_slowdown_tlimit, -3) \
    X(temperature_operating_tlimit, 0) \
    X(pcie_generation_max, 5) \
    X(pcie_width, 16) \
    X(pcie_width_max, 16) \
    X(pcie_replays, 0) \
    X(nvlinks, 18) \
    X(nvlinks_up, 0x3ffff) \
    X(nvlink_replays, 0) \
    X(nvlink_recoveries, 0) \
    X(nvlink_crc_errors, 0) \
    X(fabric_state, 3) \
    X(fabric_status, 0) \
    X(fabric_health, 0x1aa) \
    X(compute_mode, 0) \
    X(persistence, 1) \
    X(power_limit, 700000) \
    X(power_limit_default, 700000) \
    X(clock_application, 1980) \
    X(clock_application_default, 1980) \
    X(clock_max, 1980) \
    X(inforom, 0) \
    X(recovery_action, 0) \
    X(mig_pending, MIG_AS_NOW) \
    X(memory_reserved, 0)

enum function {
#define X(name) ID_##name,
    FUNCTIONS(X)
#undef X
    FUNCTION_COUNT
};

static const char *const function_names[] = {
#define X(name) #name,
    FUNCTIONS(X)
#undef X
};

/* nvmlReturn_t */
enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

/* Faults that are not return codes. */
enum { HANG = -1, CRASH = -2, NOISE = -3 };

enum { MAX_GPUS = 32, MAX_SLICES = 7, MAX_PROCESSES = 8, TEXT = 96 };

/* Of every GPU: an H100's. MHz, bits, milliwatts. */
enum { MAX_SM_CLOCK = 1980, MEMORY_CLOCK = 2619, BUS_WIDTH = 5120, POWER = 640000 };

/* No number that a driver could give, negative ones included. */
#define UNSUPPORTED (1ull << 63 | 1)
#define MIG_AS_NOW (1ull << 63 | 2)

enum health {
#define X(key, healthy) HEALTH_##key,
    HEALTH(X)
#undef X
    HEALTH_COUNT
};

static const char *const health_keys[] = {
#define X(key, healthy) #key,
    HEALTH(X)
#undef X
};

static const unsigned long long healthy[] = {
#define X(key, healthy) healthy,
    HEALTH(X)
#undef X
};

struct process {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};

enum { MIG_UNSUPPORTED, MIG_DISABLED, MIG_ENABLED };

/* What a description of a device must say. */
enum {
    SAID_NAME = 1,
    SAID_UUID = 2,
    SAID_MEMORY = 4,
    SAID_PCI = 8,
    SAID_CAPABILITY = 16,
    SAID_GPU_INSTANCE = 32,
    SAID_COMPUTE_INSTANCE = 64
};

/* A GPU, or a MIG slice of one (then parent is set). nvmlDevice_t points to one. */
struct device {
    unsigned mentioned, said;
    struct device *parent;
    unsigned index;
    char name[TEXT], uuid[TEXT], pci[TEXT];
    unsigned long long memory, used, clock_reasons, clock_reasons_later;
    unsigned reasons_asked, odd_link;
    unsigned sm_clock;
    unsigned major, minor, minor_number;
    int mig;
    unsigned gpu_instance, compute_instance;
    unsigned slice_count;
    struct device *slices;
    char vbios[TEXT];
    unsigned long long health[HEALTH_COUNT];
    struct processes {
        unsigned count;
        struct process list[MAX_PROCESSES];
    } computing, drawing;
    int faults[FUNCTION_COUNT];
};

static struct {
    char driver[TEXT], nvml[TEXT];
    unsigned long long cuda_driver;
    unsigned gpu_count;
    unsigned says_count, says_count_later, counted;
    struct device gpus[MAX_GPUS];
    struct device slices[MAX_GPUS][MAX_SLICES];
    int faults[FUNCTION_COUNT];
} node;

static unsigned users; /* initialisations not yet shut down */

/* ---- reading the node ---------------------------------------------------------------------------------------- */

static int number(const char *text, unsigned long long *result)
{
    char *end;
    if (!isdigit((unsigned char)*text))
        return 0;
    errno = 0;
    *result = strtoull(text, &end, 10);
    return *end == '\0' && errno == 0;
}

/* One that may be below zero: then it is that of its two's complement. */
static int any_number(const char *text, unsigned long long *result)
{
    int is_negative = *text == '-';
    if (!number(text + is_negative, result))
        return 0;
    if (is_negative)
        *result = 0 - *result;
    return 1;
}

static int small(const char *text, unsigned *result)
{
    unsigned long long value;
    if (!number(text, &value) || value > 0x7fffffff)
        return 0;
    *result = (unsigned)value;
    return 1;
}

static int words(const char *text, char result[TEXT])
{
    if (*text == '\0' || strlen(text) >= TEXT)
        return 0;
    strcpy(result, text);
    return 1;
}

/* "<number>.rest": the number, which must be below the limit, and what follows the dot; NULL where it is not so. */
static const char *numbered(const char *text, unsigned limit, unsigned *result)
{
    char *end;
    unsigned long value;
    if (!isdigit((unsigned char)*text))
        return NULL;
    value = strtoul(text, &end, 10);
    if (*end != '.' || value >= limit)
        return NULL;
    *result = (unsigned)value;
    return end + 1;
}

static const char *after(const char *text, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

static int is(const char *text, const char *other)
{
    return strcmp(text, other) == 0;
}

/* The functions from the first one on are those that can fail here: those of the list's end concern one device. */
static int read_fault(int *faults, int first, const char *function, const char *value)
{
    unsigned code = 0;
    int fault, id;
    if (is(value, "hang"))
        fault = HANG;
    else if (is(value, "crash"))
        fault = CRASH;
    else if (is(value, "noise"))
        fault = NOISE;
    else if (small(value, &code) && code > 0)
        fault = (int)code;
    else
        return 0;
    for (id = first; id < FUNCTION_COUNT; id++)
        if (is(function, function_names[id]))
            break;
    if (id == FUNCTION_COUNT || (id == ID_nvmlErrorString && fault > 0)) /* it returns words, not a code */
        return 0;
    if (id <= ID_nvmlInitWithFlags)
        faults[ID_nvmlInit] = faults[ID_nvmlInit_v2] = faults[ID_nvmlInitWithFlags] = fault;
    else
        faults[id] = fault;
    return 1;
}

/* Keys that a GPU and a slice share; -1 where the key is not one of them. */
static int read_device(struct device *device, const char *key, const char *value)
{
    if (is(key, "name")) {
        device->said |= SAID_NAME;
        return words(value, device->name);
    }
    if (is(key, "uuid")) {
        device->said |= SAID_UUID;
        return words(value, device->uuid);
    }
    if (is(key, "memory")) {
        device->said |= SAID_MEMORY;
        return number(value, &device->memory);
    }
    return -1;
}

static int read_slice(struct device *slice, const char *key, const char *value)
{
    int common = read_device(slice, key, value);
    if (common >= 0)
        return common;
    if (is(key, "gpu_instance")) {
        slice->said |= SAID_GPU_INSTANCE;
        return small(value, &slice->gpu_instance);
    }
    if (is(key, "compute_instance")) {
        slice->said |= SAID_COMPUTE_INSTANCE;
        return small(value, &slice->compute_instance);
    }
    return 0;
}

static int read_health(struct device *gpu, const char *key, const char *value)
{
    unsigned i;
    for (i = 0; i < HEALTH_COUNT; i++) {
        if (!is(key, health_keys[i]))
            continue;
        if (!is(value, "unsupported"))
            return any_number(value, &gpu->health[i]);
        gpu->health[i] = UNSUPPORTED;
        return 1;
    }
    return 0;
}

static int read_process(struct processes *processes, const char *value)
{
    struct process *process = &processes->list[processes->count];
    char end;
    if (processes->count == MAX_PROCESSES)
        return 0;
    processes->count++;
    process->gpu_instance = process->compute_instance = ~0u;
    process->memory = ~0ull; /* NVML's word for a number that it does not have */
    if (sscanf(value, "%u unknow%c", &process->pid, &end) == 2)
        return end == 'n';
    return sscanf(value, "%u %llu%c", &process->pid, &process->memory, &end) == 2;
}

static int read_gpu(struct device *gpu, struct device *slices, const char *key, const char *value)
{
    const char *rest;
    unsigned j;
    char end;
    int common = read_device(gpu, key, value);
    gpu->mentioned = 1;
    if (common >= 0)
        return common;
    if (is(key, "pci")) {
        unsigned domain, bus, device, function;
        gpu->said |= SAID_PCI;
        return words(value, gpu->pci)
            && sscanf(value, "%8x:%2x:%2x.%1x%c", &domain, &bus, &device, &function, &end) == 4;
    }
    if (is(key, "compute_capability")) {
        gpu->said |= SAID_CAPABILITY;
        return sscanf(value, "%u.%u%c", &gpu->major, &gpu->minor, &end) == 2;
    }
    if (is(key, "used"))
        return number(value, &gpu->used);
    if (is(key, "minor"))
        return small(value, &gpu->minor_number);
    if (is(key, "clock_reasons"))
        return number(value, &gpu->clock_reasons);
    if (is(key, "clock_reasons_later"))
        return number(value, &gpu->clock_reasons_later);
    if (is(key, "odd_link"))
        return small(value, &gpu->odd_link);
    if (is(key, "sm_clock"))
        return small(value, &gpu->sm_clock);
    if (is(key, "mig")) {
        gpu->mig = is(value, "enabled") ? MIG_ENABLED : is(value, "disabled") ? MIG_DISABLED : MIG_UNSUPPORTED;
        return gpu->mig != MIG_UNSUPPORTED || is(value, "unsupported");
    }
    if (is(key, "vbios"))
        return words(value, gpu->vbios);
    if ((rest = after(key, "health.")))
        return read_health(gpu, rest, value);
    if (after(key, "process."))
        return read_process(&gpu->computing, value);
    if (after(key, "graphics."))
        return read_process(&gpu->drawing, value);
    if ((rest = after(key, "mig.")) && (rest = numbered(rest, MAX_SLICES, &j)))
        return read_slice(&slices[j], rest, value);
    if ((rest = after(key, "fault.")))
        return read_fault(gpu->faults, ID_nvmlDeviceGetHandleByIndex_v2, rest, value);
    return 0;
}

static int read_line(const char *key, const char *value)
{
    const char *rest;
    unsigned i;
    if (is(key, "driver"))
        return words(value, node.driver);
    if (is(key, "nvml"))
        return words(value, node.nvml);
    if (is(key, "cuda_driver"))
        return number(value, &node.cuda_driver);
    if (is(key, "count"))
        return sscanf(value, "%u", &node.says_count) == 1;
    if (is(key, "count_later"))
        return sscanf(value, "%u", &node.says_count_later) == 1;
    if ((rest = after(key, "fault.")))
        return read_fault(node.faults, 0, rest, value);
    if ((rest = after(key, "gpu.")) && (rest = numbered(rest, MAX_GPUS, &i)))
        return read_gpu(&node.gpus[i], node.slices[i], rest, value);
    return 0;
}

static char *trimmed(char *text)
{
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

static int refuse(const char *path, const char *what, const char *detail)
{
    dprintf(2, "stand-in driver: %s: %s: %s\n", path ? path : "STANDIN_NODE", what, detail);
    return UNKNOWN;
}

static int read_node(void)
{
    const unsigned of_gpu = SAID_NAME | SAID_UUID | SAID_MEMORY | SAID_PCI | SAID_CAPABILITY;
    const unsigned of_slice = SAID_NAME | SAID_UUID | SAID_MEMORY | SAID_GPU_INSTANCE | SAID_COMPUTE_INSTANCE;
    const char *path = getenv("STANDIN_NODE");
    char line[512];
    unsigned i, j;
    FILE *file = path ? fopen(path, "re") : NULL;

    if (!file)
        return refuse(path, "cannot be read", strerror(path ? errno : ENOENT));
    memset(&node, 0, sizeof node);
    for (i = 0; i < MAX_GPUS; i++) {
        node.gpus[i].minor_number = i;
        node.gpus[i].sm_clock = MAX_SM_CLOCK;
        node.gpus[i].clock_reasons_later = ~0ull;
        node.gpus[i].odd_link = ~0u;
        memcpy(node.gpus[i].health, healthy, sizeof healthy);
        strcpy(node.gpus[i].vbios, "96.00.99.00.01");
    }
    while (fgets(line, sizeof line, file)) {
        char *key = trimmed(line), *equals = strchr(key, '='), *value;
        if (*key == '\0')
            continue;
        if (!equals) {
            fclose(file);
            return refuse(path, "not 'key = value'", key);
        }
        *equals = '\0';
        key = trimmed(key);
        value = trimmed(equals + 1);
        if (!read_line(key, value)) {
            fclose(file);
            dprintf(2, "stand-in driver: %s: unknown key or value: %s = %s\n", path, key, value);
            return UNKNOWN;
        }
    }
    fclose(file);
    if (!*node.driver || !*node.nvml || !node.cuda_driver)
        return refuse(path, "incomplete", "driver, nvml and cuda_driver are needed");
    for (i = 0; i < MAX_GPUS; i++) {
        struct device *gpu = &node.gpus[i];
        gpu->index = i;
        gpu->slices = node.slices[i];
        for (j = 0; j < MAX_SLICES; j++) {
            struct device *slice = &gpu->slices[j];
            slice->index = j;
            slice->parent = gpu;
            if (!slice->said)
                continue;
            if (slice->said != of_slice || gpu->slice_count != j || gpu->mig != MIG_ENABLED)
                return refuse(path, "incomplete", "a MIG slice lacks keys, a neighbour or MIG mode");
            gpu->slice_count = j + 1;
        }
        if (!gpu->mentioned)
            continue;
        if (gpu->said != of_gpu || node.gpu_count != i || gpu->used > gpu->memory)
            return refuse(path, "incomplete", "a GPU lacks keys or a neighbour, or uses more memory than it has");
        node.gpu_count = i + 1;
    }
    return OK;
}

/* ---- every call ---------------------------------------------------------------------------------------------- */

static int suffer(const int *faults, enum function id)
{
    const struct rlimit no_core = {0, 0};
    switch (faults[id]) {
    case HANG:
        for (;;)
            pause();
    case CRASH:
        setrlimit(RLIMIT_CORE, &no_core);
        for (;;)
            raise(SIGSEGV);
    case NOISE:
        dprintf(1, "stand-in driver: %s says this on stdout\n", function_names[id]);
        dprintf(2, "stand-in driver: %s says this on stderr\n", function_names[id]);
        return OK;
    default:
        return faults[id];
    }
}

static void note(enum function id)
{
    const char *path = getenv("STANDIN_CALLS");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (file >= 0) {
        dprintf(file, "%s\n", function_names[id]);
        close(file);
    }
}

static int called(enum function id)
{
    note(id);
    return users ? suffer(node.faults, id) : UNINITIALIZED;
}

static int known(const struct device *device)
{
    unsigned i;
    for (i = 0; i < node.gpu_count; i++) {
        const struct device *gpu = &node.gpus[i];
        if (device == gpu || (device >= gpu->slices && device < gpu->slices + gpu->slice_count))
            return 1;
    }
    return 0;
}

static int called_on(enum function id, const struct device *device)
{
    int code = called(id);
    if (code)
        return code;
    if (!known(device))
        return INVALID_ARGUMENT;
    return suffer((device->parent ? device->parent : device)->faults, id);
}

/* Leaves the calling function where the call cannot go on. */
#define CALLED(name) do { int code_ = called(ID_##name); if (code_) return code_; } while (0)
#define CALLED_ON(name, device) do { int code_ = called_on(ID_##name, device); if (code_) return code_; } while (0)
#define NEEDS(condition, code) do { if (!(condition)) return code; } while (0)

static int give_words(const char *value, char *buffer, unsigned length)
{
    NEEDS(buffer, INVALID_ARGUMENT);
    NEEDS(strlen(value) < length, INSUFFICIENT_SIZE);
    strcpy(buffer, value);
    return OK;
}

static int give_number(unsigned value, unsigned *result)
{
    NEEDS(result, INVALID_ARGUMENT);
    *result = value;
    return OK;
}

/* A slice says nothing of the health of its GPU. */
static int give_large(const struct device *device, enum health key, unsigned long long *result)
{
    NEEDS(result, INVALID_ARGUMENT);
    NEEDS(!device->parent && device->health[key] != UNSUPPORTED, NOT_SUPPORTED);
    *result = device->health[key];
    return OK;
}

static int give_health(const struct device *device, enum health key, unsigned *result)
{
    unsigned long long value;
    int code;
    NEEDS(result, INVALID_ARGUMENT);
    code = give_large(device, key, &value);
    if (!code)
        *result = (unsigned)value;
    return code;
}

static int give_device(struct device *value, struct device **result)
{
    NEEDS(result, INVALID_ARGUMENT);
    *result = value;
    return OK;
}

/* ---- the library --------------------------------------------------------------------------------------------- */

static int initialise(enum function id)
{
    int code;
    note(id);
    code = read_node();
    if (!code)
        code = suffer(node.faults, id);
    if (!code)
        users++;
    return code;
}

int nvmlInit(void)
{
    return initialise(ID_nvmlInit);
}

int nvmlInit_v2(void)
{
    return initialise(ID_nvmlInit_v2);
}

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return initialise(ID_nvmlInitWithFlags);
}

int nvmlShutdown(void)
{
    CALLED(nvmlShutdown);
    users--;
    return OK;
}

const char *nvmlErrorString(int code)
{
    static const char *const words_of[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires reset", "The operating system has blocked the request.",
        "Driver/library version mismatch", "In use by another client", "Insufficient Memory", "No data",
        "vGPU ECC not supported", "Insufficient resources", "Frequency not supported", "Argument version mismatch",
        "Deprecated", "Not ready", "GPU not found", "Invalid state", "Reset type not supported",
    };
    note(ID_nvmlErrorString);
    suffer(node.faults, ID_nvmlErrorString);
    if (code >= 0 && code < (int)(sizeof words_of / sizeof *words_of))
        return words_of[code];
    return "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    CALLED(nvmlSystemGetDriverVersion);
    return give_words(node.driver, version, length);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    CALLED(nvmlSystemGetNVMLVersion);
    return give_words(node.nvml, version, length);
}

int nvmlSystemGetCudaDriverVersion(int *version)
{
    CALLED(nvmlSystemGetCudaDriverVersion);
    return give_number((unsigned)node.cuda_driver, (unsigned *)version);
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    CALLED(nvmlSystemGetCudaDriverVersion_v2);
    return give_number((unsigned)node.cuda_driver, (unsigned *)version);
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    unsigned said = node.counted++ ? node.says_count_later : node.says_count;
    CALLED(nvmlDeviceGetCount_v2);
    return give_number(said ? said : node.gpu_count, count);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    int code;
    CALLED(nvmlDeviceGetHandleByIndex_v2);
    NEEDS(index < node.gpu_count, INVALID_ARGUMENT);
    code = suffer(node.gpus[index].faults, ID_nvmlDeviceGetHandleByIndex_v2);
    return code ? code : give_device(&node.gpus[index], device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    unsigned i, j;
    CALLED(nvmlDeviceGetHandleByUUID);
    NEEDS(uuid, INVALID_ARGUMENT);
    for (i = 0; i < node.gpu_count; i++) {
        struct device *gpu = &node.gpus[i], *found = is(uuid, gpu->uuid) ? gpu : NULL;
        for (j = 0; j < gpu->slice_count; j++)
            if (is(uuid, gpu->slices[j].uuid))
                found = &gpu->slices[j];
        if (found) {
            int code = suffer(gpu->faults, ID_nvmlDeviceGetHandleByUUID);
            return code ? code : give_device(found, device);
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(struct device *device, unsigned *index)
{
    CALLED_ON(nvmlDeviceGetIndex, device);
    return give_number(device->index, index);
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length)
{
    CALLED_ON(nvmlDeviceGetName, device);
    return give_words(device->name, name, length);
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length)
{
    CALLED_ON(nvmlDeviceGetUUID, device);
    return give_words(device->uuid, uuid, length);
}

struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char address[32];
};

int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci_info *info)
{
    unsigned function;
    CALLED_ON(nvmlDeviceGetPciInfo_v3, device);
    NEEDS(info, INVALID_ARGUMENT);
    NEEDS(!device->parent, NOT_SUPPORTED);
    memset(info, 0, sizeof *info);
    sscanf(device->pci, "%8x:%2x:%2x.%1x", &info->domain, &info->bus, &info->device, &function);
    info->device_id = 0x10de; /* the vendor, NVIDIA; which product it is stays open */
    snprintf(info->address, sizeof info->address, "%08X:%02X:%02X.%X", info->domain & 0xffffffff, info->bus & 0xff,
             info->device & 0xff, function & 0xf);
    snprintf(info->legacy, sizeof info->legacy, "%04X:%02X:%02X.%X", info->domain & 0xffff, info->bus & 0xff,
             info->device & 0xff, function & 0xf);
    return OK;
}

struct memory {
    unsigned long long total, free, used;
};

int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    CALLED_ON(nvmlDeviceGetMemoryInfo, device);
    NEEDS(memory, INVALID_ARGUMENT);
    memory->total = device->memory;
    memory->used = device->used + (device->parent ? 0 : device->health[HEALTH_memory_reserved]);
    memory->free = memory->total - memory->used;
    return OK;
}

#ifndef OLD_DRIVER
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory_v2 *memory)
{
    CALLED_ON(nvmlDeviceGetMemoryInfo_v2, device);
    NEEDS(memory, INVALID_ARGUMENT);
    NEEDS(memory->version == (sizeof *memory | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    memory->total = device->memory;
    memory->reserved = device->parent ? 0 : device->health[HEALTH_memory_reserved];
    memory->used = device->used;
    memory->free = device->memory - device->used - memory->reserved;
    return OK;
}
#endif

int nvmlDeviceGetCudaComputeCapability(struct device *device, int *major, int *minor)
{
    const struct device *gpu;
    CALLED_ON(nvmlDeviceGetCudaComputeCapability, device);
    NEEDS(major && minor, INVALID_ARGUMENT);
    gpu = device->parent ? device->parent : device;
    *major = (int)gpu->major;
    *minor = (int)gpu->minor;
    return OK;
}

int nvmlDeviceGetMinorNumber(struct device *device, unsigned *minor)
{
    CALLED_ON(nvmlDeviceGetMinorNumber, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    return give_number(device->minor_number, minor);
}

static int give_reasons(struct device *device, unsigned long long *reasons)
{
    NEEDS(reasons, INVALID_ARGUMENT);
    NEEDS(!device->parent, NOT_SUPPORTED);
    *reasons = device->reasons_asked++ && device->clock_reasons_later != ~0ull ? device->clock_reasons_later
                                                                               : device->clock_reasons;
    return OK;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(struct device *device, unsigned long long *reasons)
{
    CALLED_ON(nvmlDeviceGetCurrentClocksEventReasons, device);
    return give_reasons(device, reasons);
}
#endif

int nvmlDeviceGetCurrentClocksThrottleReasons(struct device *device, unsigned long long *reasons)
{
    CALLED_ON(nvmlDeviceGetCurrentClocksThrottleReasons, device);
    return give_reasons(device, reasons);
}

enum { CLOCK_SM = 1, CLOCK_MEMORY = 2 };

int nvmlDeviceGetClockInfo(struct device *device, int clock, unsigned *mhz)
{
    CALLED_ON(nvmlDeviceGetClockInfo, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    NEEDS(clock == CLOCK_SM || clock == CLOCK_MEMORY, INVALID_ARGUMENT);
    return give_number(clock == CLOCK_SM ? device->sm_clock : MEMORY_CLOCK, mhz);
}

int nvmlDeviceGetMaxClockInfo(struct device *device, int clock, unsigned *mhz)
{
    CALLED_ON(nvmlDeviceGetMaxClockInfo, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    NEEDS(clock == CLOCK_SM || clock == CLOCK_MEMORY, INVALID_ARGUMENT);
    if (clock == CLOCK_SM)
        return give_health(device, HEALTH_clock_max, mhz);
    return give_number(MEMORY_CLOCK, mhz);
}

int nvmlDeviceGetMemoryBusWidth(struct device *device, unsigned *bits)
{
    CALLED_ON(nvmlDeviceGetMemoryBusWidth, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    return give_number(BUS_WIDTH, bits);
}

int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *degrees)
{
    CALLED_ON(nvmlDeviceGetTemperature, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    NEEDS(sensor == 0, INVALID_ARGUMENT); /* NVML_TEMPERATURE_GPU */
    return give_health(device, HEALTH_temperature, degrees);
}

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts)
{
    CALLED_ON(nvmlDeviceGetPowerUsage, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    return give_number(POWER, milliwatts);
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *current, unsigned *pending)
{
    CALLED_ON(nvmlDeviceGetMigMode, device);
    NEEDS(current && pending, INVALID_ARGUMENT);
    NEEDS(!device->parent && device->mig != MIG_UNSUPPORTED, NOT_SUPPORTED);
    *current = device->mig == MIG_ENABLED;
    *pending = device->health[HEALTH_mig_pending] == MIG_AS_NOW ? *current : (unsigned)device->health[HEALTH_mig_pending];
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count)
{
    CALLED_ON(nvmlDeviceGetMaxMigDeviceCount, device);
    NEEDS(!device->parent, INVALID_ARGUMENT);
    return give_number(device->mig == MIG_ENABLED ? MAX_SLICES : 0, count);
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **slice)
{
    CALLED_ON(nvmlDeviceGetMigDeviceHandleByIndex, device);
    NEEDS(!device->parent && index < MAX_SLICES, INVALID_ARGUMENT);
    NEEDS(device->mig != MIG_UNSUPPORTED, NOT_SUPPORTED);
    NEEDS(index < device->slice_count, NOT_FOUND);
    return give_device(&device->slices[index], slice);
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct device *slice, struct device **device)
{
    CALLED_ON(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, slice);
    NEEDS(slice->parent, INVALID_ARGUMENT);
    return give_device(slice->parent, device);
}

int nvmlDeviceGetGpuInstanceId(struct device *device, unsigned *id)
{
    CALLED_ON(nvmlDeviceGetGpuInstanceId, device);
    NEEDS(device->parent, NOT_SUPPORTED);
    return give_number(device->gpu_instance, id);
}

int nvmlDeviceGetComputeInstanceId(struct device *device, unsigned *id)
{
    CALLED_ON(nvmlDeviceGetComputeInstanceId, device);
    NEEDS(device->parent, NOT_SUPPORTED);
    return give_number(device->compute_instance, id);
}

/* ---- health -------------------------------------------------------------------------------------------------- */

int nvmlDeviceGetVbiosVersion(struct device *device, char *version, unsigned length)
{
    CALLED_ON(nvmlDeviceGetVbiosVersion, device);
    NEEDS(!device->parent, NOT_SUPPORTED);
    return give_words(device->vbios, version, length);
}

int nvmlDeviceGetEccMode(struct device *device, unsigned *current, unsigned *pending)
{
    int code;
    CALLED_ON(nvmlDeviceGetEccMode, device);
    code = give_health(device, HEALTH_ecc_mode, current);
    return code ? code : give_health(device, HEALTH_ecc_mode_pending, pending);
}

enum { ECC_UNCORRECTED = 1, ECC_VOLATILE = 0, ECC_AGGREGATE = 1 };

int nvmlDeviceGetTotalEccErrors(struct device *device, int kind, int counter, unsigned long long *count)
{
    CALLED_ON(nvmlDeviceGetTotalEccErrors, device);
    NEEDS(kind == ECC_UNCORRECTED, INVALID_ARGUMENT);
    NEEDS(counter == ECC_VOLATILE || counter == ECC_AGGREGATE, INVALID_ARGUMENT);
    return give_large(device, counter == ECC_VOLATILE ? HEALTH_ecc_volatile : HEALTH_ecc_aggregate, count);
}

int nvmlDeviceGetRemappedRows(struct device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed)
{
    int code;
    CALLED_ON(nvmlDeviceGetRemappedRows, device);
    code = give_health(device, HEALTH_rows_remapped_correctable, corrected);
    code = code ? code : give_health(device, HEALTH_rows_remapped_uncorrectable, uncorrected);
    code = code ? code : give_health(device, HEALTH_row_remap_pending, pending);
    return code ? code : give_health(device, HEALTH_row_remap_failed, failed);
}

int nvmlDeviceGetRetiredPages(struct device *device, int cause, unsigned *count, unsigned long long *addresses)
{
    unsigned pages, i;
    int code;
    CALLED_ON(nvmlDeviceGetRetiredPages, device);
    NEEDS(count && (cause == 0 || cause == 1), INVALID_ARGUMENT);
    code = give_health(device, cause ? HEALTH_pages_retired_double : HEALTH_pages_retired_single, &pages);
    NEEDS(!code, code);
    if (*count < pages) {
        *count = pages;
        return INSUFFICIENT_SIZE;
    }
    *count = pages;
    for (i = 0; addresses && i < pages; i++)
        addresses[i] = 0x10000ull * (i + 1);
    return OK;
}

int nvmlDeviceGetRetiredPagesPendingStatus(struct device *device, unsigned *pending)
{
    CALLED_ON(nvmlDeviceGetRetiredPagesPendingStatus, device);
    return give_health(device, HEALTH_page_retirement_pending, pending);
}

int nvmlDeviceGetTemperatureThreshold(struct device *device, int kind, unsigned *degrees)
{
    static const enum health keys[] = {
        HEALTH_temperature_shutdown, HEALTH_temperature_slowdown, HEALTH_COUNT, HEALTH_temperature_operating,
    };
    CALLED_ON(nvmlDeviceGetTemperatureThreshold, device);
    NEEDS(kind == 0 || kind == 1 || kind == 3, NOT_SUPPORTED);
    return give_health(device, keys[kind], degrees);
}

int nvmlDeviceGetMaxPcieLinkGeneration(struct device *device, unsigned *generation)
{
    CALLED_ON(nvmlDeviceGetMaxPcieLinkGeneration, device);
    return give_health(device, HEALTH_pcie_generation_max, generation);
}

int nvmlDeviceGetCurrPcieLinkWidth(struct device *device, unsigned *width)
{
    CALLED_ON(nvmlDeviceGetCurrPcieLinkWidth, device);
    return give_health(device, HEALTH_pcie_width, width);
}

int nvmlDeviceGetMaxPcieLinkWidth(struct device *device, unsigned *width)
{
    CALLED_ON(nvmlDeviceGetMaxPcieLinkWidth, device);
    return give_health(device, HEALTH_pcie_width_max, width);
}

int nvmlDeviceGetPcieReplayCounter(struct device *device, unsigned *replays)
{
    CALLED_ON(nvmlDeviceGetPcieReplayCounter, device);
    return give_health(device, HEALTH_pcie_replays, replays);
}

/* A link that the GPU has not is an argument that is not valid, as on a B200 from link 18 on. */
static int find_link(const struct device *device, unsigned link)
{
    unsigned links;
    int code = give_health(device, HEALTH_nvlinks, &links);
    NEEDS(!code, code);
    NEEDS(link != device->odd_link, NOT_SUPPORTED);
    return link < links ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceGetNvLinkState(struct device *device, unsigned link, unsigned *active)
{
    int code;
    CALLED_ON(nvmlDeviceGetNvLinkState, device);
    code = find_link(device, link);
    return code ? code : give_number(device->health[HEALTH_nvlinks_up] >> link & 1, active);
}

/* All of a GPU's errors are those of its link 0. */
int nvmlDeviceGetNvLinkErrorCounter(struct device *device, unsigned link, int counter, unsigned long long *count)
{
    static const enum health keys[] = {
        HEALTH_nvlink_replays, HEALTH_nvlink_recoveries, HEALTH_nvlink_crc_errors,
    };
    int code;
    CALLED_ON(nvmlDeviceGetNvLinkErrorCounter, device);
    NEEDS(counter >= 0 && counter < 3, INVALID_ARGUMENT);
    code = find_link(device, link);
    code = code ? code : give_large(device, keys[counter], count);
    if (!code && link)
        *count = 0;
    return code;
}

struct fabric_info {
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned state;
};

struct fabric_info_v2 {
    unsigned version;
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned state;
    unsigned health;
};

int nvmlDeviceGetGpuFabricInfo(struct device *device, struct fabric_info *info)
{
    int code;
    CALLED_ON(nvmlDeviceGetGpuFabricInfo, device);
    NEEDS(info, INVALID_ARGUMENT);
    memset(info, 0, sizeof *info);
    code = give_health(device, HEALTH_fabric_state, &info->state);
    return code ? code : give_health(device, HEALTH_fabric_status, (unsigned *)&info->status);
}

int nvmlDeviceGetComputeMode(struct device *device, unsigned *mode)
{
    CALLED_ON(nvmlDeviceGetComputeMode, device);
    return give_health(device, HEALTH_compute_mode, mode);
}

int nvmlDeviceGetPersistenceMode(struct device *device, unsigned *mode)
{
    CALLED_ON(nvmlDeviceGetPersistenceMode, device);
    return give_health(device, HEALTH_persistence, mode);
}

int nvmlDeviceGetPowerManagementLimit(struct device *device, unsigned *milliwatts)
{
    CALLED_ON(nvmlDeviceGetPowerManagementLimit, device);
    return give_health(device, HEALTH_power_limit, milliwatts);
}

int nvmlDeviceGetPowerManagementDefaultLimit(struct device *device, unsigned *milliwatts)
{
    CALLED_ON(nvmlDeviceGetPowerManagementDefaultLimit, device);
    return give_health(device, HEALTH_power_limit_default, milliwatts);
}

static int give_clock(const struct device *device, int clock, enum health key, unsigned *mhz)
{
    NEEDS(clock == CLOCK_SM || clock == CLOCK_MEMORY, INVALID_ARGUMENT);
    return clock == CLOCK_SM ? give_health(device, key, mhz) : give_number(MEMORY_CLOCK, mhz);
}

int nvmlDeviceGetApplicationsClock(struct device *device, int clock, unsigned *mhz)
{
    CALLED_ON(nvmlDeviceGetApplicationsClock, device);
    return give_clock(device, clock, HEALTH_clock_application, mhz);
}

int nvmlDeviceGetDefaultApplicationsClock(struct device *device, int clock, unsigned *mhz)
{
    CALLED_ON(nvmlDeviceGetDefaultApplicationsClock, device);
    return give_clock(device, clock, HEALTH_clock_application_default, mhz);
}

/* Its return code is what it has to say. */
int nvmlDeviceValidateInforom(struct device *device)
{
    unsigned code;
    int refused;
    CALLED_ON(nvmlDeviceValidateInforom, device);
    refused = give_health(device, HEALTH_inforom, &code);
    return refused ? refused : (int)code;
}

enum { FIELD_SLOWDOWN_TLIMIT = 194, FIELD_OPERATING_TLIMIT = 196, FIELD_RECOVERY_ACTION = 230 };
enum { VALUE_UNSIGNED_INT = 1, VALUE_SIGNED_INT = 5 };

struct field_value {
    unsigned field, scope;
    long long timestamp, latency;
    int type, code;
    union {
        unsigned number;
        unsigned long long large;
    } value;
};

#ifndef OLD_DRIVER
static int give_field(const struct device *device, struct field_value *value)
{
    value->type = VALUE_SIGNED_INT;
    if (value->field == FIELD_SLOWDOWN_TLIMIT)
        return give_health(device, HEALTH_temperature_slowdown_tlimit, &value->value.number);
    if (value->field == FIELD_OPERATING_TLIMIT)
        return give_health(device, HEALTH_temperature_operating_tlimit, &value->value.number);
    value->type = VALUE_UNSIGNED_INT;
    NEEDS(value->field == FIELD_RECOVERY_ACTION, NOT_SUPPORTED);
    return give_health(device, HEALTH_recovery_action, &value->value.number);
}
#endif

int nvmlDeviceGetFieldValues(struct device *device, int count, struct field_value *values)
{
    int i;
    CALLED_ON(nvmlDeviceGetFieldValues, device);
    NEEDS(values && count > 0, INVALID_ARGUMENT);
    for (i = 0; i < count; i++)
#ifdef OLD_DRIVER
        values[i].code = INVALID_ARGUMENT;
#else
        values[i].code = give_field(device, &values[i]);
#endif
    return OK;
}

#ifndef OLD_DRIVER
struct sram_status {
    unsigned version;
    unsigned long long counts[11];
    unsigned threshold_exceeded;
};

int nvmlDeviceGetSramEccErrorStatus(struct device *device, struct sram_status *status)
{
    CALLED_ON(nvmlDeviceGetSramEccErrorStatus, device);
    NEEDS(status, INVALID_ARGUMENT);
    NEEDS(status->version == (sizeof *status | 1u << 24), ARGUMENT_VERSION_MISMATCH);
    memset(status->counts, 0, sizeof status->counts);
    return give_health(device, HEALTH_sram_threshold_exceeded, &status->threshold_exceeded);
}

struct margin {
    unsigned version;
    int degrees;
};

int nvmlDeviceGetMarginTemperature(struct device *device, struct margin *margin)
{
    CALLED_ON(nvmlDeviceGetMarginTemperature, device);
    NEEDS(margin, INVALID_ARGUMENT);
    NEEDS(margin->version == (sizeof *margin | 1u << 24), ARGUMENT_VERSION_MISMATCH);
    return give_health(device, HEALTH_temperature_margin, (unsigned *)&margin->degrees);
}

int nvmlDeviceGetGpuFabricInfoV(struct device *device, struct fabric_info_v2 *info)
{
    int code;
    CALLED_ON(nvmlDeviceGetGpuFabricInfoV, device);
    NEEDS(info, INVALID_ARGUMENT);
    NEEDS(info->version == (sizeof *info | 2u << 24), ARGUMENT_VERSION_MISMATCH);
    memset(info->cluster, 0, sizeof info->cluster);
    info->clique = 0;
    code = give_health(device, HEALTH_fabric_state, &info->state);
    code = code ? code : give_health(device, HEALTH_fabric_status, (unsigned *)&info->status);
    return code ? code : give_health(device, HEALTH_fabric_health, &info->health);
}

static int give_processes(const struct device *device, const struct processes *found, unsigned *count,
                          struct process *list)
{
    unsigned room;
    NEEDS(count, INVALID_ARGUMENT);
    NEEDS(!device->parent, NOT_SUPPORTED);
    room = *count;
    *count = found->count;
    NEEDS(room >= found->count, INSUFFICIENT_SIZE);
    if (list)
        memcpy(list, found->list, found->count * sizeof *list);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count, struct process *processes)
{
    CALLED_ON(nvmlDeviceGetComputeRunningProcesses_v3, device);
    return give_processes(device, &device->computing, count, processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *device, unsigned *count, struct process *processes)
{
    CALLED_ON(nvmlDeviceGetGraphicsRunningProcesses_v3, device);
    return give_processes(device, &device->drawing, count, processes);
}
#endif
