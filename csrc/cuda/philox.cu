// Counter-based normals: one thread per block of four.
#include "../philox.h"
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

__global__ void normals(PhiloxNormal a, int64_t blocks) {
  const PhiloxKey key = {static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32)};
  const int64_t total = a.n * blocks;
  const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; t < total; t += step) {
    const int64_t i = t / blocks, block = t % blocks;
    float value[4];
    normal_block(static_cast<uint32_t>(block), a.first + static_cast<uint32_t>(i), a.index, a.stage,
                 key, value);
    float* row = a.out + i * a.d;
    for (int k = 0; k < 4 && 4 * block + k < a.d; ++k) row[4 * block + k] = value[k];
  }
}

}  // namespace

const char* run(const PhiloxNormal& a, const Launch& launch) {
  const int64_t blocks = (a.d + 3) / 4;
  int64_t grid = (a.n * blocks + THREADS - 1) / THREADS;
  if (grid > 1 << 20) grid = 1 << 20;
  return run_blocks(launch, grid, THREADS, 0, normals, a, blocks);
}

}  // namespace cuda
}  // namespace deqcert
