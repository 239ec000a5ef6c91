// Exact noise on a grid: one thread per block of four elements.
#include "../grid.h"
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

__global__ void grid_points(PhiloxGrid a, int64_t blocks) {
  const PhiloxKey key = {static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32)};
  const int64_t total = a.n * blocks;
  const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; t < total; t += step) {
    const int64_t i = t / blocks, block = t % blocks;
    const uint32_t sample = a.first + static_cast<uint32_t>(i);
    uint32_t c[4] = {static_cast<uint32_t>(block), sample, a.index, a.stage};
    philox4x32(c, key);
    float* row = a.out + i * a.d;
    for (int k = 0; k < 4; ++k) {
      const int64_t e = 4 * block + k;
      if (e >= a.d) break;
      const int32_t draw = static_cast<int32_t>(c[k] ^ 0x80000000u);
      const GridBucket bucket = a.table.buckets[grid_bucket(draw, a.table.mantissa)];
      int32_t found = bucket.below + (bucket.upper < draw);
      for (int s = 1; s < a.table.steps; ++s) found += a.table.upper[found] < draw;
      if (a.table.upper[found] == draw) {
        found = grid_tie(a.table, draw, found, e, sample, a.index, a.stage, key);
      }
      row[e] = grid_value(a.table, a.x[e] + a.lowest, found);
    }
  }
}

}  // namespace

const char* run(const PhiloxGrid& a, const Launch& launch) {
  const int64_t blocks = (a.d + 3) / 4;
  int64_t grid = (a.n * blocks + THREADS - 1) / THREADS;
  if (grid > 1 << 20) grid = 1 << 20;
  return run_blocks(launch, grid, THREADS, 0, grid_points, a, blocks);
}

}  // namespace cuda
}  // namespace deqcert
