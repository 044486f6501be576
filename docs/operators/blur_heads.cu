// Blurs heads: each becomes a mosaic of CELLS x CELLS squares of one colour.
//
// A block makes one square of one head in one channel: x of the grid is the square, y the head, z the channel.
// The block adds up the samples of the square in `from`, and writes their mean to `to`, inside the circle of
// the head. `to` begins as a copy of `from`. Where heads overlap, the last one decides, so the result does not
// depend on the order of the blocks. The arithmetic is that of `mosaic` in blur_heads.py: in whole numbers, so
// both give the same bits.

constexpr int HEADS = 32;  // in one launch; CUDA copies the parameters at each launch, at most 4 KB
constexpr int CELLS = 8;

struct Head {  // in px
    int x, y;  // the centre
    int radius;
    int left, top;  // the upper left corner of the mosaic, even
    int cell;       // the side of a square, even
};

struct Channel {
    const unsigned char* from;
    unsigned char* to;
    int from_pitch, to_pitch;  // bytes from one row to the next
    int step;                  // bytes from one sample to the next in its row, in both
    int width, height;         // samples
    int shift;                 // 1 if there is one sample for 2 x 2 px, else 0
};

struct Parameters {
    Channel channels[3];  // R, G, B or Y, U, V
    int count;            // of heads
    Head heads[HEADS];
};

static_assert(sizeof(Parameters) == PARAMETER_BYTES, "Parameters differs from the host's structure");

__device__ inline bool inside(const Head& head, int x, int y) {
    const long long right = x - head.x, down = y - head.y;
    return right * right + down * down <= (long long)head.radius * head.radius;
}

extern "C" __global__ void blur_heads(const __grid_constant__ Parameters params) {
    __shared__ unsigned int sum;
    const Channel& channel = params.channels[blockIdx.z];
    const Head& head = params.heads[blockIdx.y];
    const int cell = head.cell >> channel.shift;
    const int left = (head.left >> channel.shift) + cell * (int)(blockIdx.x % CELLS);
    const int top = (head.top >> channel.shift) + cell * (int)(blockIdx.x / CELLS);
    const int x0 = max(left, 0), x1 = min(left + cell, channel.width);
    const int y0 = max(top, 0), y1 = min(top + cell, channel.height);
    if (x0 >= x1 || y0 >= y1) return;  // the square is outside the frame: all threads return
    if (threadIdx.x == 0 && threadIdx.y == 0) sum = 0;
    __syncthreads();
    unsigned int mine = 0;
    for (int y = y0 + (int)threadIdx.y; y < y1; y += blockDim.y)
        for (int x = x0 + (int)threadIdx.x; x < x1; x += blockDim.x)
            mine += channel.from[(long long)y * channel.from_pitch + (long long)x * channel.step];
    atomicAdd(&sum, mine);
    __syncthreads();
    const unsigned int area = (x1 - x0) * (y1 - y0);
    const unsigned char mean = (sum + area / 2) / area;
    for (int y = y0 + (int)threadIdx.y; y < y1; y += blockDim.y)
        for (int x = x0 + (int)threadIdx.x; x < x1; x += blockDim.x) {
            const int frame_x = x << channel.shift, frame_y = y << channel.shift;
            bool write = inside(head, frame_x, frame_y);
            for (int later = blockIdx.y + 1; later < params.count; ++later)
                write = write && !inside(params.heads[later], frame_x, frame_y);
            if (write) channel.to[(long long)y * channel.to_pitch + (long long)x * channel.step] = mean;
        }
}
