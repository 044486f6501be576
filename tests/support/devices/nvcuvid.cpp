// A video decoder for tests, libnvcuvid.so.1, beside the driver of cuda_driver.cpp.
//
// FFmpeg parses the video and asks for its pictures as on a GPU; only the samples are not decoded. Picture n
// of a decoder, in the order of decoding from 0, has these, so that a test can recognise it:
//
//     Y[row][column] = n + 3 row + 5 column,   U[row][column] = n + row,   V[row][column] = 7 n + column   (mod 256)
//
// What it cannot do: it does not look at the bitstream, so damage and references to other pictures change
// nothing, and pictures are ready at once. It decodes 8 bit 4:2:0 of all codecs.

#include <cstdlib>
#include <map>
#include <vector>

#include "stand_in.h"

constexpr int INVALID_VALUE = 1, NOT_SUPPORTED = 801;

// NVIDIA's structures (Video Codec SDK 13.0), up to the last field that is used here.
struct Caps {
    int codec, chroma;
    unsigned bit_depth_minus_8, reserved[3];
    unsigned char supported, decoders;
    unsigned short output_formats;
    unsigned max_width, max_height, max_macroblocks;
    unsigned short min_width, min_height;
};
struct CreateInfo {
    unsigned long width, height, surfaces;
    int codec, chroma;
    unsigned long flags, bit_depth_minus_8, intra_only, max_width, max_height, reserved;
    short display_area[4];
    int output_format, deinterlacing;
    unsigned long target_width, target_height, output_surfaces;
};
struct Picture {
    int width_in_macroblocks, height_in_macroblocks, index;
};

struct Decoder {
    size_t width, height, pitch, output_surfaces;
    std::vector<long> numbers;  // the picture in each surface; -1 for none
    long decoded = 0;
    std::map<unsigned long long, int> mapped;  // surfaces by the address of their mapped memory
};

extern "C" {
int cuvidGetDecoderCaps(Caps* caps) {
    if (const int error = stand_in_check_context(__func__)) return error;
    caps->supported = caps->chroma == 1 && caps->bit_depth_minus_8 == 0;
    caps->decoders = 1;
    caps->output_formats = 1;  // NV12
    caps->max_width = caps->max_height = 8192;
    caps->max_macroblocks = 8192 * 8192 / 256;
    caps->min_width = caps->min_height = 48;
    return 0;
}
int cuvidCreateDecoder(Decoder** to, const CreateInfo* info) {
    if (const int error = stand_in_check_context(__func__)) return error;
    if (info->output_format || info->bit_depth_minus_8 || info->chroma != 1) return NOT_SUPPORTED;
    const size_t width = info->target_width, height = info->target_height;
    *to = new Decoder{width, height, width + 256, info->output_surfaces, std::vector<long>(info->surfaces, -1)};
    return 0;
}
int cuvidDestroyDecoder(Decoder* decoder) {
    if (const int error = stand_in_check_context(__func__)) return error;
    if (!decoder->mapped.empty()) stand_in_fault("a decoder is destroyed while a picture of it is mapped", 0);
    delete decoder;
    return 0;
}
int cuvidDecodePicture(Decoder* decoder, const Picture* picture) {
    if (const int error = stand_in_check_context(__func__)) return error;
    if ((size_t)picture->index >= decoder->numbers.size())
        return stand_in_fault("a picture is decoded to a surface that the decoder does not have", INVALID_VALUE);
    for (const auto& [at, surface] : decoder->mapped)
        if (surface == picture->index) stand_in_fault("a surface is overwritten while it is mapped", 0);
    decoder->numbers[picture->index] = decoder->decoded++;
    return 0;
}
int cuvidMapVideoFrame64(Decoder* decoder, int index, unsigned long long* to, unsigned* pitch, void*) {
    if (const int error = stand_in_check_context(__func__)) return error;
    const long n = decoder->numbers.at(index);
    if (n < 0) return stand_in_fault("a surface is mapped that holds no picture", INVALID_VALUE);
    if (decoder->mapped.size() >= decoder->output_surfaces)
        return stand_in_fault("more pictures are mapped than the decoder was created for", INVALID_VALUE);
    const size_t size = decoder->pitch * (decoder->height + decoder->height / 2);
    auto* memory = (unsigned char*)std::calloc(size, 1);
    for (size_t row = 0; row < decoder->height; ++row)
        for (size_t column = 0; column < decoder->width; ++column)
            memory[row * decoder->pitch + column] = n + 3 * row + 5 * column;
    auto* colours = memory + decoder->height * decoder->pitch;
    for (size_t row = 0; row < decoder->height / 2; ++row)
        for (size_t column = 0; column < decoder->width / 2; ++column) {
            colours[row * decoder->pitch + 2 * column] = n + row;
            colours[row * decoder->pitch + 2 * column + 1] = 7 * n + column;
        }
    *to = (unsigned long long)memory;
    *pitch = decoder->pitch;
    stand_in_add_memory(*to, size);
    decoder->mapped[*to] = index;
    return 0;
}
int cuvidUnmapVideoFrame64(Decoder* decoder, unsigned long long at) {
    if (const int error = stand_in_check_context(__func__)) return error;
    if (!decoder->mapped.erase(at)) return stand_in_fault("memory is unmapped that was not mapped", INVALID_VALUE);
    std::free((void*)at);
    return stand_in_remove_memory(at);
}

// FFmpeg looks these up, but does not call them: it parses videos itself.
#define UNUSED(name) \
    int name() { return stand_in_fault(#name " is not part of the stand-in decoder", NOT_SUPPORTED); }
UNUSED(cuvidGetDecodeStatus) UNUSED(cuvidReconfigureDecoder) UNUSED(cuvidCtxLockCreate) UNUSED(cuvidCtxLockDestroy)
UNUSED(cuvidCtxLock) UNUSED(cuvidCtxUnlock) UNUSED(cuvidCreateVideoSource) UNUSED(cuvidCreateVideoSourceW)
UNUSED(cuvidDestroyVideoSource) UNUSED(cuvidSetVideoSourceState) UNUSED(cuvidGetVideoSourceState)
UNUSED(cuvidGetSourceVideoFormat) UNUSED(cuvidGetSourceAudioFormat) UNUSED(cuvidCreateVideoParser)
UNUSED(cuvidParseVideoData) UNUSED(cuvidDestroyVideoParser)
}
