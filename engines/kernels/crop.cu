// Crops of frames, as a model wants them: sampled, turned into RGB, normalised, and written, in one pass.
//
// One thread makes one pixel of one crop: x and y of the grid are the crop's, z is the crop. The numbers are
// those of the reference on the host, engines/estimators/crops.py and engines/images/yuv.py, roundings to 8 bit included; the
// order of operations is that of engines/kernels/crop.py, which fills in `Work` and does the same with PyTorch.
// It is compiled without contractions to fused multiply-adds, so that both give the same bits.

constexpr int CROPS = 32;     // in one launch; parameters of a kernel are copied with it, at most 4 KB
constexpr int SURFACES = 16;  // likewise

#ifdef __CUDACC__  // elsewhere it is the emulator of the tests that provides this
// float32 to the bits of a float16, to nearest even; NVRTC comes without cuda_fp16.h.
__device__ inline unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct Surface {  // a frame of three channels: RGB, or brightness and two of colour
    const unsigned char* channels[3];  // the first sample of each
    int pitches[3];                    // bytes from a row to the next
    int steps[3];                      // bytes from a sample to the next of its row
    int width, height;                 // px
    int halved;                        // whether channels 1 and 2 have one sample for 2 x 2 px (4:2:0)
    float pads[3];                     // the value of each channel around the frame
    float matrix[12];                  // (3, 4): RGB in 0..255 = matrix * (channels, 1)
};

struct Crop {
    float inverse[6];  // (2, 3): from px of the crop to px of the frame
    int surface;       // its index
    int sparse;        // whether halved channels are not blended: the crop shrinks the frame
};

struct Work {
    void* out;
    long long strides[4];  // in elements: crop, channel, row, column
    int width, height;     // of a crop
    int half;              // whether `out` is float16, else float32
    int bgr;               // whether its first channel is blue
    int edge;              // whether the frame's edge is repeated around it, else `pads` lie there
    float scale[3], bias[3];  // by channel of `out`: normalised = value * scale + bias
    Crop crops[CROPS];
    Surface surfaces[SURFACES];
};

static_assert(sizeof(Work) == PARAMETER_BYTES, "Work is not what the host fills in");
static_assert(sizeof(Work) <= 4096, "more than a kernel's parameters may take");

__device__ inline float sample(const Surface& from, const Work& work, int channel, int x, int y, int width,
                               int height) {
    if (work.edge) {
        x = min(max(x, 0), width - 1);
        y = min(max(y, 0), height - 1);
    } else if (x < 0 || y < 0 || x >= width || y >= height) {
        return from.pads[channel];
    }
    const long long at = (long long)y * from.pitches[channel] + (long long)x * from.steps[channel];
    return from.channels[channel][at];
}

// The channel at a point of its plane, rounded to 8 bit.
__device__ inline float taken(const Surface& from, const Work& work, int channel, float x, float y,
                              bool nearest) {
    const int colour = channel > 0 && from.halved;
    const int width = (from.width + colour) >> colour, height = (from.height + colour) >> colour;
    // Far outside all points are alike, and their indices might not fit an int. NaN becomes -2.
    x = fminf(fmaxf(x, -2.0f), width + 1.0f);
    y = fminf(fmaxf(y, -2.0f), height + 1.0f);
    if (nearest) return sample(from, work, channel, (int)rintf(x), (int)rintf(y), width, height);
    const float left = floorf(x), top = floorf(y);
    const float right_part = x - left, lower_part = y - top;
    const int column = (int)left, row = (int)top;
    const float a = sample(from, work, channel, column, row, width, height);
    const float b = sample(from, work, channel, column + 1, row, width, height);
    const float c = sample(from, work, channel, column, row + 1, width, height);
    const float d = sample(from, work, channel, column + 1, row + 1, width, height);
    const float upper = a + right_part * (b - a);
    const float lower = c + right_part * (d - c);
    return rintf(upper + lower_part * (lower - upper));
}

extern "C" __global__ void __launch_bounds__(256) crop(const __grid_constant__ Work work) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= work.width || y >= work.height) return;
    const Crop& crop = work.crops[blockIdx.z];
    const Surface& from = work.surfaces[crop.surface];
    const float* inverse = crop.inverse;
    const float at_x = inverse[0] * x + inverse[1] * y + inverse[2];
    const float at_y = inverse[3] * x + inverse[4] * y + inverse[5];
    // A sample of halved colour lies in the middle of 2 x 2 px, so its index is (x + 0.5) / 2 - 0.5.
    const float colour_x = from.halved ? at_x * 0.5f - 0.25f : at_x;
    const float colour_y = from.halved ? at_y * 0.5f - 0.25f : at_y;
    const bool nearest = from.halved && crop.sparse;
    const float first = taken(from, work, 0, at_x, at_y, false);
    const float second = taken(from, work, 1, colour_x, colour_y, nearest);
    const float third = taken(from, work, 2, colour_x, colour_y, nearest);
    const long long start = blockIdx.z * work.strides[0] + y * work.strides[2] + x * work.strides[3];
    for (int i = 0; i < 3; ++i) {  // red, green, blue
        const float* weights = from.matrix + 4 * i;
        const float exact = weights[0] * first + weights[1] * second + weights[2] * third + weights[3];
        const float value = rintf(fminf(fmaxf(exact, 0.0f), 255.0f));
        const int channel = work.bgr ? 2 - i : i;
        const float normalised = value * work.scale[channel] + work.bias[channel];
        const long long at = start + channel * work.strides[1];
        if (work.half) {
            ((unsigned short*)work.out)[at] = half_bits(normalised);
        } else {
            ((float*)work.out)[at] = normalised;
        }
    }
}
