// Crops of frames, as a model takes them: sampled, converted to RGB, normalised and written, in one pass.
//
// One thread makes one pixel of one crop: x and y of the grid are the pixel's, z is the number of the crop.
// The result, 8 bit roundings included, is that of the reference on the host (engines/estimators/crops.py and
// engines/images/yuv.py). The order of operations is that of engines/kernels/crop.py, which fills in
// `Parameters` and also does the same with PyTorch. This file is compiled without fused multiply-adds, so
// both give the same bits.

constexpr int CROPS = 32;     // in one launch; CUDA copies the parameters at each launch, at most 4 KB
constexpr int SURFACES = 16;  // in one launch, for the same reason

#ifdef __CUDACC__  // the tests' emulator has its own version
// The bits of a float32 as float16, rounded to nearest even; NVRTC comes without cuda_fp16.h.
__device__ inline unsigned short half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct Surface {  // a frame of three channels: R, G, B or Y, U, V
    const unsigned char* channels[3];  // the first sample of each channel
    int pitches[3];                    // bytes from one row to the next
    int steps[3];                      // bytes from one sample to the next in its row
    int width, height;                 // px
    int subsampled;                    // whether U and V have one sample for 2 x 2 px (4:2:0)
    float pads[3];                     // the value of each channel outside the frame
    float matrix[12];                  // (3, 4): RGB in 0..255 = matrix * (channels, 1)
};

struct Crop {
    float inverse[6];  // (2, 3): from px of the crop to px of the frame
    int surface;       // the index of its frame in `surfaces`
    // Whether U and V take the nearest sample, without interpolation: in crops that shrink the frame much.
    int nearest_chroma;
};

struct Parameters {
    void* out;
    long long strides[4];     // in elements: crop, channel, row, column
    int width, height;        // of a crop, px
    int float16;              // whether `out` is float16; float32 otherwise
    int bgr;                  // whether the first channel of `out` is blue; red otherwise
    int repeat_edge;          // whether the frame's edge continues outside it; `pads` otherwise
    float scale[3], bias[3];  // by channel of `out`: normalised = value * scale + bias
    Crop crops[CROPS];
    Surface surfaces[SURFACES];
};

static_assert(sizeof(Parameters) == PARAMETER_BYTES, "Parameters differs from the host's structure");
static_assert(sizeof(Parameters) <= 4096, "a kernel takes at most 4 KB of parameters");

__device__ inline float sample(const Surface& from, const Parameters& params, int channel, int x, int y,
                               int width, int height) {
    if (params.repeat_edge) {
        x = min(max(x, 0), width - 1);
        y = min(max(y, 0), height - 1);
    } else if (x < 0 || y < 0 || x >= width || y >= height) {
        return from.pads[channel];
    }
    const long long at = (long long)y * from.pitches[channel] + (long long)x * from.steps[channel];
    return from.channels[channel][at];
}

// The value of a channel at a point of its plane: the nearest sample, or interpolated and rounded to 8 bit.
__device__ inline float interpolate(const Surface& from, const Parameters& params, int channel, float x,
                                    float y, bool nearest) {
    const int shift = channel > 0 && from.subsampled;
    const int width = (from.width + shift) >> shift, height = (from.height + shift) >> shift;
    // Points far outside are all padding or edge; without the clamp their indices might overflow. NaN becomes
    // -2.
    x = fminf(fmaxf(x, -2.0f), width + 1.0f);
    y = fminf(fmaxf(y, -2.0f), height + 1.0f);
    if (nearest) return sample(from, params, channel, (int)rintf(x), (int)rintf(y), width, height);
    const float left = floorf(x), top = floorf(y);
    const float right_part = x - left, lower_part = y - top;
    const int column = (int)left, row = (int)top;
    const float a = sample(from, params, channel, column, row, width, height);
    const float b = sample(from, params, channel, column + 1, row, width, height);
    const float c = sample(from, params, channel, column, row + 1, width, height);
    const float d = sample(from, params, channel, column + 1, row + 1, width, height);
    const float upper = a + right_part * (b - a);
    const float lower = c + right_part * (d - c);
    return rintf(upper + lower_part * (lower - upper));
}

extern "C" __global__ void __launch_bounds__(256) crop(const __grid_constant__ Parameters params) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= params.width || y >= params.height) return;
    const Crop& crop = params.crops[blockIdx.z];
    const Surface& from = params.surfaces[crop.surface];
    const float* inverse = crop.inverse;
    const float frame_x = inverse[0] * x + inverse[1] * y + inverse[2];
    const float frame_y = inverse[3] * x + inverse[4] * y + inverse[5];
    // A subsampled chroma sample lies in the middle of 2 x 2 px, so its index is (x + 0.5) / 2 - 0.5.
    const float chroma_x = from.subsampled ? frame_x * 0.5f - 0.25f : frame_x;
    const float chroma_y = from.subsampled ? frame_y * 0.5f - 0.25f : frame_y;
    const bool nearest = from.subsampled && crop.nearest_chroma;
    const float first = interpolate(from, params, 0, frame_x, frame_y, false);
    const float second = interpolate(from, params, 1, chroma_x, chroma_y, nearest);
    const float third = interpolate(from, params, 2, chroma_x, chroma_y, nearest);
    const long long start = blockIdx.z * params.strides[0] + y * params.strides[2] + x * params.strides[3];
    for (int i = 0; i < 3; ++i) {  // red, green, blue
        const float* weights = from.matrix + 4 * i;
        const float exact = weights[0] * first + weights[1] * second + weights[2] * third + weights[3];
        const float value = rintf(fminf(fmaxf(exact, 0.0f), 255.0f));
        const int channel = params.bgr ? 2 - i : i;
        const float normalised = value * params.scale[channel] + params.bias[channel];
        const long long at = start + channel * params.strides[1];
        if (params.float16) {
            ((unsigned short*)params.out)[at] = half_bits(normalised);
        } else {
            ((float*)params.out)[at] = normalised;
        }
    }
}
