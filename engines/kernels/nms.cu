// Greedy non-maximum suppression, exact: a box is dropped if a better box of its class that is kept overlaps
// it.
//
// A block processes one image, a thread one box. The boxes are visited best first. Each box that is still
// kept costs one round, in which all weaker boxes are compared with it at once. The numbers are those of
// OpenCV's NMSBoxesBatched (float64 areas, float32 overlap), the reference on the host
// (engines/images/boxes.py).

constexpr int BOXES = 1024;  // of an image at most; a block has at most as many threads
constexpr int WORDS = BOXES / 32;

struct Parameters {
    const float* boxes;   // (B, count, 4) x0 y0 x1 y1
    const float* scores;  // (B, count), best first; rows with a score of 0 or less are padding
    const int* classes;   // (B, count)
    unsigned char* kept;  // (B, count), 1 or 0
    int count;            // boxes of an image, at most BOXES
    float max_iou;        // a box is dropped if it overlaps a kept one by more
};

static_assert(sizeof(Parameters) == PARAMETER_BYTES, "Parameters differs from the host's structure");

struct Box {
    float x, y, width, height;
};

// The length that two intervals have in common, given their starts and lengths; 0 or less if they are apart.
__device__ inline double common(double a, double a_length, double b, double b_length) {
    return a < b ? fmin(a_length - (b - a), b_length) : fmin(b_length - (a - b), a_length);
}

__device__ inline float overlap(const Box& a, const Box& b) {
    const double both = (double)a.width * a.height + (double)b.width * b.height;
    if (both <= 2.220446049250313e-16) return 1.0f;  // as in OpenCV, two boxes without area overlap fully
    const double wide = common(a.x, a.width, b.x, b.width), high = common(a.y, a.height, b.y, b.height);
    const double shared = wide > 0 && high > 0 ? wide * high : 0;
    return 1.0f - (float)(1.0 - shared / (both - shared));
}

extern "C" __global__ void __launch_bounds__(BOXES) nms(const __grid_constant__ Parameters params) {
    __shared__ Box boxes[BOXES];
    __shared__ int classes[BOXES];
    __shared__ unsigned int kept[WORDS];  // one bit for each box
    const int mine = threadIdx.x;
    const long long row = (long long)blockIdx.x * params.count + mine;
    const bool real = mine < params.count && params.scores[row] > 0;
    Box box = {0, 0, 0, 0};
    if (mine < WORDS) kept[mine] = 0;
    __syncthreads();
    if (real) {
        const float* corners = params.boxes + 4 * row;
        box = {corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]};
        boxes[mine] = box;
        classes[mine] = params.classes[row];
        atomicOr(&kept[mine / 32], 1u << (mine % 32));
    }
    __syncthreads();
    bool mine_kept = real;
    for (int word = 0; word < (params.count + 31) / 32; ++word) {
        // One __syncthreads a round is enough, since a round clears only bits behind the box it is about. A
        // fast thread may already be in the next round, but then it clears only bits behind the next box: a
        // slow thread still finds the same next box.
        unsigned int ahead = ~0u;
        while (const unsigned int left = *(volatile unsigned int*)&kept[word] & ahead) {
            const int bit = __ffs(left) - 1, best = 32 * word + bit;
            ahead = bit == 31 ? 0 : ~0u << (bit + 1);
            if (mine_kept && mine > best && classes[mine] == classes[best] &&
                overlap(box, boxes[best]) > params.max_iou) {
                mine_kept = false;
                atomicAnd(&kept[mine / 32], ~(1u << (mine % 32)));
            }
            __syncthreads();
        }
    }
    if (mine < params.count) params.kept[row] = mine_kept;
}
