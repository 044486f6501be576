// A CUDA driver for tests, libcuda.so.1: one GPU, an sm_90 with the primary context only.
//
// NVIDIA's bindings for Python and FFmpeg load it in place of NVIDIA's. So the tests cover everything between
// Python and the driver: which context is current, what is allocated, copied and freed, and how kernels are
// launched. Memory of the GPU is memory of the host. Kernels run on the CPU, by the emulator.
//
// As on a GPU, a call on a thread without a current context is an error. What a GPU would silently allow but
// this project must never do (a second context, a copy beyond an allocation, a kernel that is first loaded
// when it is launched) is noted as a fault, too; `stand_in_faults` gives all of them.
//
// What it cannot do: all work has run when its call returns, so the order of streams is not tested here (see
// toy_device.py); there are no events, graphs or textures; and CUDA's runtime does not start on it, since the
// runtime needs tables that NVIDIA does not document. So PyTorch finds no GPU.

#include "cuda_emulator.h"

#define PARAMETER_BYTES CROP_BYTES
namespace crop_source {
#include CROP_SOURCE
}
#undef PARAMETER_BYTES
#define PARAMETER_BYTES NMS_BYTES
namespace nms_source {
#include NMS_SOURCE
}

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>

#include "stand_in.h"

constexpr int INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201,
              NOT_FOUND = 500, PRIMARY_CONTEXT_ACTIVE = 708, NOT_SUPPORTED = 801;

struct Function {
    const char* name;
    void (*run)(void* parameters, Index grid, Index block);
    bool loaded;
};
static Function functions[] = {
    {"crop", [](void* p, Index grid, Index block) { emulate(crop_source::crop, p, grid, block, false); }, false},
    {"nms", [](void* p, Index grid, Index block) { emulate(nms_source::nms, p, grid, block, false); }, false},
};
static char context, module;                     // handles are the addresses of these
static thread_local std::vector<void*> current;  // the stack of contexts of a thread
static thread_local int capture_mode = 0;        // CU_STREAM_CAPTURE_MODE_GLOBAL
static int retained = 0;                         // references to the primary context
static std::mutex mutex;
static std::map<std::string, long> counts;
static std::map<unsigned long long, size_t> memory;  // sizes of allocations by address
static std::string faults;

extern "C" void stand_in_count(const char* what) {
    const std::lock_guard<std::mutex> lock(mutex);
    ++counts[what];
}
extern "C" int stand_in_fault(const char* what, int error) {
    const std::lock_guard<std::mutex> lock(mutex);
    faults += std::string(what) + "\n";
    return error;
}
extern "C" long stand_in_counted(const char* what) {
    const std::lock_guard<std::mutex> lock(mutex);
    return counts[what];
}
extern "C" const char* stand_in_faults() { return faults.c_str(); }
extern "C" int stand_in_depth() { return (int)current.size(); }  // of this thread's stack of contexts
extern "C" int stand_in_capture_mode() { return capture_mode; }
extern "C" long stand_in_bytes() {
    const std::lock_guard<std::mutex> lock(mutex);
    size_t sum = 0;
    for (const auto& [at, size] : memory) sum += size;
    return (long)sum;
}
extern "C" int stand_in_check_context(const char* function) {
    stand_in_count(function);
    if (!current.empty() && current.back() == &context) return 0;
    return stand_in_fault((std::string(function) + ": the primary context is not current").c_str(), INVALID_CONTEXT);
}
extern "C" void stand_in_add_memory(unsigned long long at, size_t size) {
    const std::lock_guard<std::mutex> lock(mutex);
    memory[at] = size;
}
extern "C" int stand_in_remove_memory(unsigned long long at) {
    {
        const std::lock_guard<std::mutex> lock(mutex);
        if (memory.erase(at)) return 0;
    }
    return stand_in_fault("memory is freed that was not allocated", INVALID_VALUE);
}
// Whether `rows` rows of `width` bytes lie in one allocation.
static bool is_allocated(unsigned long long at, size_t width, size_t pitch, size_t rows) {
    const std::lock_guard<std::mutex> lock(mutex);
    auto next = memory.upper_bound(at);
    if (next == memory.begin()) return false;
    const auto& [start, size] = *--next;
    return !rows || at + pitch * (rows - 1) + width <= start + size;
}

#define NEEDS_CONTEXT                                          \
    if (const int error = stand_in_check_context(__func__)) \
    return error

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? 0 : INVALID_DEVICE;
}
int cuDeviceGetAttribute(int* value, int which, int) {
    // 14: the alignment of textures; 75 and 76: the two numbers of the compute capability.
    *value = which == 14 ? 512 : which == 75 ? 9 : 0;
    return 0;
}
// NVRTC and CUDA's runtime ask for tables of functions that NVIDIA does not document. NVRTC goes on if a table
// is as short as this one; the runtime, whose first table has the identifier 6bd5fb6c…, needs its functions.
int cuGetExportTable(const void** to, const unsigned char* id) {
    static const size_t bytes = sizeof bytes;
    *to = &bytes;
    return id[0] == 0x6b ? NOT_FOUND : 0;
}
int cuGetErrorName(int, const char** name) { return *name = "an error of the stand-in driver", 0; }
int cuGetErrorString(int, const char** text) { return *text = "an error of the stand-in driver", 0; }

int cuDevicePrimaryCtxRetain(void** to, int) {
    stand_in_count(__func__);
    ++retained;
    *to = &context;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    stand_in_count("cuDevicePrimaryCtxRelease");
    return retained-- > 0 ? 0 : INVALID_CONTEXT;
}
int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    *flags = 0;  // as PyTorch makes the context; FFmpeg refuses it with `primary_ctx`
    *active = retained > 0;
    return 0;
}
int cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return retained ? PRIMARY_CONTEXT_ACTIVE : 0; }
int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) { return cuDevicePrimaryCtxSetFlags_v2(device, flags); }
int cuCtxCreate_v2(void**, unsigned, int) { return stand_in_fault("a second context is created", NOT_SUPPORTED); }
int cuCtxDestroy_v2(void*) { return stand_in_fault("the primary context is destroyed", INVALID_CONTEXT); }
int cuCtxGetCurrent(void** to) { return *to = current.empty() ? nullptr : current.back(), 0; }
int cuCtxPushCurrent_v2(void* given) {
    if (given != &context) return stand_in_fault("another context than the primary is pushed", INVALID_CONTEXT);
    current.push_back(given);
    return 0;
}
int cuCtxPopCurrent_v2(void** to) {
    if (current.empty()) return stand_in_fault("a context is popped, but none is current", INVALID_CONTEXT);
    if (to) *to = current.back();
    current.pop_back();
    return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) { return std::swap(*mode, capture_mode), 0; }

int cuMemAlloc_v2(unsigned long long* to, size_t size) {
    NEEDS_CONTEXT;
    *to = (unsigned long long)std::aligned_alloc(512, (size + 511) / 512 * 512);
    stand_in_add_memory(*to, size);
    return 0;
}
int cuMemFree_v2(unsigned long long at) {
    NEEDS_CONTEXT;
    if (const int error = stand_in_remove_memory(at)) return error;
    std::free((void*)at);
    return 0;
}
struct Copy2D {  // CUDA_MEMCPY2D: each side is host memory (type 1) or the GPU's (2)
    struct Side {
        size_t x, y;
        int type;
        char* host;
        unsigned long long device;
        void* array;
        size_t pitch;
    } from, to;
    size_t width, rows;
};
int cuMemcpy2DAsync_v2(const Copy2D* copy, void* stream) {
    NEEDS_CONTEXT;
    if (stream) return stand_in_fault("FFmpeg copies on another stream than the legacy default stream", INVALID_VALUE);
    char* places[2];
    for (const auto* side : {&copy->from, &copy->to}) {
        char* start = side->type == 2 ? (char*)side->device : side->host;
        char*& place = places[side == &copy->to] = start + side->y * side->pitch + side->x;
        if (side->type == 2 && !is_allocated((unsigned long long)place, copy->width, side->pitch, copy->rows))
            return stand_in_fault("a copy reaches beyond an allocation", INVALID_VALUE);
    }
    for (size_t row = 0; row < copy->rows; ++row)
        std::memcpy(places[1] + row * copy->to.pitch, places[0] + row * copy->from.pitch, copy->width);
    return 0;
}
int cuMemcpy2D_v2(const Copy2D* copy) { return cuMemcpy2DAsync_v2(copy, nullptr); }
int cuStreamSynchronize(void*) { NEEDS_CONTEXT; return 0; }

int cuModuleLoadData(void** to, const void* image) {
    NEEDS_CONTEXT;
    *to = &module;
    return std::memcmp(image, "\x7f" "ELF", 4) == 0 ? 0 : INVALID_IMAGE;
}
int cuModuleGetFunction(void** to, void* from, const char* name) {
    NEEDS_CONTEXT;
    for (auto& function : functions)
        if (from == &module && std::string(name) == function.name) return *to = &function, 0;
    return NOT_FOUND;
}
int cuFuncLoad(Function* function) {
    NEEDS_CONTEXT;
    function->loaded = true;
    return 0;
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** parameters, void** extra) {
    NEEDS_CONTEXT;
    if (shared || stream || !parameters || extra) return INVALID_VALUE;
    if (!function->loaded) stand_in_fault("a kernel is loaded only when it is launched", 0);
    static std::mutex emulator;  // it runs one kernel at a time
    const std::lock_guard<std::mutex> lock(emulator);
    function->run(parameters[0], {gx, gy, gz}, {bx, by, bz});
    return 0;
}

// FFmpeg looks these up, but does not call them in this project.
#define UNUSED(name) \
    int name() { return stand_in_fault(#name " is not part of the stand-in driver", NOT_SUPPORTED); }
UNUSED(cuDeviceGetName) UNUSED(cuDeviceComputeCapability) UNUSED(cuCtxSetLimit) UNUSED(cuCtxGetDevice)
UNUSED(cuMemAllocPitch_v2) UNUSED(cuMemAllocManaged) UNUSED(cuMemsetD8Async) UNUSED(cuMemcpy) UNUSED(cuMemcpyAsync)
UNUSED(cuMemcpyHtoD_v2) UNUSED(cuMemcpyHtoDAsync_v2) UNUSED(cuMemcpyDtoH_v2) UNUSED(cuMemcpyDtoHAsync_v2)
UNUSED(cuMemcpyDtoD_v2) UNUSED(cuMemcpyDtoDAsync_v2) UNUSED(cuDevicePrimaryCtxReset) UNUSED(cuStreamCreate)
UNUSED(cuStreamQuery) UNUSED(cuStreamDestroy_v2) UNUSED(cuStreamAddCallback) UNUSED(cuStreamWaitEvent)
UNUSED(cuEventCreate) UNUSED(cuEventDestroy_v2) UNUSED(cuEventSynchronize) UNUSED(cuEventQuery)
UNUSED(cuEventRecord) UNUSED(cuLinkCreate) UNUSED(cuLinkAddData) UNUSED(cuLinkComplete) UNUSED(cuLinkDestroy)
UNUSED(cuModuleUnload) UNUSED(cuModuleGetGlobal) UNUSED(cuTexObjectCreate) UNUSED(cuTexObjectDestroy)
UNUSED(cuGLGetDevices_v2) UNUSED(cuGraphicsGLRegisterImage) UNUSED(cuGraphicsUnregisterResource)
UNUSED(cuGraphicsMapResources) UNUSED(cuGraphicsUnmapResources) UNUSED(cuGraphicsSubResourceGetMappedArray)
UNUSED(cuGraphicsResourceGetMappedPointer_v2) UNUSED(cuArrayCreate_v2) UNUSED(cuArray3DCreate_v2)
UNUSED(cuArrayDestroy)

int cuGetProcAddress_v2(const char* name, void** to, int, unsigned long long, int* status) {
    static void* const self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *to = dlsym(self, (std::string(name) + "_v2").c_str());
    if (!*to) *to = dlsym(self, name);
    if (status) *status = *to == nullptr;
    return *to ? 0 : NOT_FOUND;
}
}
