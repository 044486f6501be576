// A CUDA driver for tests: it has one device, an sm_90, that runs the kernel KERNEL on the CPU, with the
// emulator.
//
// NVIDIA's bindings for Python load it as libcuda.so.1 and look up its functions by name. So the tests cover
// everything between Python and the driver. As on a GPU, a launch on a thread without a current context is an
// error, and so is a launch without parameters.

#include "cuda_emulator.h"
#include KERNEL_SOURCE

#include <map>
#include <string>

constexpr int INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500;
static char context, module, function;          // handles are the addresses of these
static thread_local std::vector<void*> current; // the stack of contexts of a thread

static int init(unsigned) { return 0; }
static int get_device(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? 0 : INVALID_DEVICE;
}
static int retain(void** to, int) {
    *to = &context;
    return 0;
}
static int attribute(int* value, int which, int) {  // 75 and 76 are the two numbers of the compute capability
    *value = which == 75 ? 9 : 0;
    return 0;
}
static int push(void* given) {
    current.push_back(given);
    return given == &context ? 0 : INVALID_CONTEXT;
}
static int pop(void** to) {
    if (current.empty()) return INVALID_CONTEXT;
    *to = current.back();
    current.pop_back();
    return 0;
}
static int load(void** to, const void* image) {
    *to = &module;
    if (current.empty()) return INVALID_CONTEXT;
    return std::memcmp(image, "\x7f" "ELF", 4) == 0 ? 0 : INVALID_IMAGE;
}
static int get_function(void** to, void* from, const char* name) {
    *to = &function;
    return from == &module && std::string(name) == KERNEL_NAME ? 0 : NOT_FOUND;
}
static int launch(void* kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                  unsigned shared, void* stream, void** parameters, void** extra) {
    if (current.empty()) return INVALID_CONTEXT;
    if (kernel != &function || shared || stream || !parameters || extra) return INVALID_VALUE;
    emulate(KERNEL, parameters[0], {gx, gy, gz}, {bx, by, bz}, false);
    return 0;
}

extern "C" int cuGetProcAddress_v2(const char* name, void** to, int, unsigned long long, int* status) {
    static const std::map<std::string, void*> functions = {
        {"cuGetProcAddress", (void*)cuGetProcAddress_v2}, {"cuInit", (void*)init},
        {"cuDeviceGet", (void*)get_device}, {"cuDevicePrimaryCtxRetain", (void*)retain},
        {"cuDeviceGetAttribute", (void*)attribute}, {"cuCtxPushCurrent", (void*)push},
        {"cuCtxPopCurrent", (void*)pop}, {"cuModuleLoadData", (void*)load},
        {"cuModuleGetFunction", (void*)get_function}, {"cuLaunchKernel", (void*)launch},
    };
    const auto found = functions.find(name);
    *to = found == functions.end() ? nullptr : found->second;
    if (status) *status = *to == nullptr;
    return *to ? 0 : NOT_FOUND;
}
