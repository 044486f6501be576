// Greedy non-maximum suppression, exact: what a better box of the same class that is kept overlaps, goes.
//
// One block has one image, one thread one box. The boxes are taken best first; only those that are still kept
// cost a round in which all weaker ones are compared with it at once. The numbers are those of OpenCV's
// NMSBoxesBatched (float64 areas, float32 overlap), the reference on the host (engines/images/boxes.py).

constexpr int BOXES = 1024;  // of an image; a block has as many threads
constexpr int WORDS = BOXES / 32;

struct Work {
    const float* boxes;    // (B, count, 4) x0 y0 x1 y1
    const float* scores;   // (B, count), best first; rows with 0 and less are padding
    const int* classes;    // (B, count)
    unsigned char* kept;   // (B, count), 1 or 0
    int count;             // at most BOXES
    float max_iou;         // a box goes if it overlaps a kept one by more
};

static_assert(sizeof(Work) == PARAMETER_BYTES, "Work is not what the host fills in");

struct Box {
    float x, y, width, height;
};

// How far the larger of two starts is inside of both lengths; 0 and less is apart.
__device__ inline double common(double a, double a_length, double b, double b_length) {
    return a < b ? fmin(a_length - (b - a), b_length) : fmin(b_length - (a - b), a_length);
}

__device__ inline float overlap(const Box& a, const Box& b) {
    const double both = (double)a.width * a.height + (double)b.width * b.height;
    if (both <= 2.220446049250313e-16) return 1.0f;  // two of no size are the same, says OpenCV
    const double wide = common(a.x, a.width, b.x, b.width), high = common(a.y, a.height, b.y, b.height);
    const double shared = wide > 0 && high > 0 ? wide * high : 0;
    return 1.0f - (float)(1.0 - shared / (both - shared));
}

extern "C" __global__ void __launch_bounds__(BOXES) nms(const __grid_constant__ Work work) {
    __shared__ Box boxes[BOXES];
    __shared__ int classes[BOXES];
    __shared__ unsigned int kept[WORDS];  // a bit a box
    const int mine = threadIdx.x;
    const long long row = (long long)blockIdx.x * work.count + mine;
    const bool real = mine < work.count && work.scores[row] > 0;
    Box box = {0, 0, 0, 0};
    if (mine < WORDS) kept[mine] = 0;
    __syncthreads();
    if (real) {
        const float* corners = work.boxes + 4 * row;
        box = {corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]};
        boxes[mine] = box;
        classes[mine] = work.classes[row];
        atomicOr(&kept[mine / 32], 1u << (mine % 32));
    }
    __syncthreads();
    bool mine_kept = real;
    for (int word = 0; word < (work.count + 31) / 32; ++word) {
        // Within a round bits change only behind the box it is about, so all threads find the same next box,
        // even one that has not been waited for since it looked for this.
        unsigned int ahead = ~0u;
        while (const unsigned int left = *(volatile unsigned int*)&kept[word] & ahead) {
            const int bit = __ffs(left) - 1, best = 32 * word + bit;
            ahead = bit == 31 ? 0 : ~0u << (bit + 1);
            if (mine_kept && mine > best && classes[mine] == classes[best] &&
                overlap(box, boxes[best]) > work.max_iou) {
                mine_kept = false;
                atomicAnd(&kept[mine / 32], ~(1u << (mine % 32)));
            }
            __syncthreads();
        }
    }
    if (mine < work.count) work.kept[row] = mine_kept;
}
