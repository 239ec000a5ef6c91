// Exact noise on a grid, a tile of elements at a time so that the compiler vectorises over
// elements.
#include "../grid.h"

#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

constexpr int TILE = 64;  // blocks of four elements

// Elements 4 first .. 4 (first + TILE) - 1 of one row.
void tile(const PhiloxGrid& a, uint32_t first, uint32_t sample, PhiloxKey key, const int32_t* x,
          float* __restrict out) {
  uint32_t u[4][TILE];
  for (int i = 0; i < TILE; ++i) {
    uint32_t c[4] = {first + static_cast<uint32_t>(i), sample, a.index, a.stage};
    philox4x32(c, key);
    for (int k = 0; k < 4; ++k) u[k][i] = c[k] ^ 0x80000000u;
  }
  int32_t draw[4 * TILE], found[4 * TILE];
  for (int i = 0; i < TILE; ++i) {
    for (int k = 0; k < 4; ++k) draw[4 * i + k] = static_cast<int32_t>(u[k][i]);
  }
  const GridTable table = a.table;
  for (int e = 0; e < 4 * TILE; ++e) found[e] = grid_bucket(draw[e], table.mantissa);
  int32_t ties = 0;
  for (int e = 0; e < 4 * TILE; ++e) {
    const GridBucket bucket = table.buckets[found[e]];
    ties |= bucket.upper == draw[e];
    found[e] = bucket.below + (bucket.upper < draw[e]);
  }
  for (int step = 1; step < table.steps; ++step) {
    for (int e = 0; e < 4 * TILE; ++e) {
      const int32_t upper = table.upper[found[e]];
      ties |= upper == draw[e];
      found[e] += upper < draw[e];
    }
  }
  if (ties) {
    for (int e = 0; e < 4 * TILE; ++e) {
      if (table.upper[found[e]] != draw[e]) continue;
      found[e] = grid_tie(table, draw[e], found[e], 4 * static_cast<int64_t>(first) + e, sample,
                          a.index, a.stage, key);
    }
  }
  for (int e = 0; e < 4 * TILE; ++e) out[e] = grid_value(table, x[e] + a.lowest, found[e]);
}

}  // namespace

const char* run(const PhiloxGrid& a, const Launch& launch) {
  const PhiloxKey key = {static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32)};
  parallel(a.n, useful_threads(launch.threads, a.n * a.d), [&](int64_t i) {
    float* row = a.out + i * a.d;
    const uint32_t sample = a.first + static_cast<uint32_t>(i);
    for (int64_t low = 0; low < a.d; low += 4 * TILE) {
      const uint32_t block = static_cast<uint32_t>(low / 4);
      if (low + 4 * TILE <= a.d) {
        tile(a, block, sample, key, a.x + low, row + low);
      } else {
        int32_t x[4 * TILE] = {0};
        float last[4 * TILE];
        memcpy(x, a.x + low, (a.d - low) * sizeof(int32_t));
        tile(a, block, sample, key, x, last);
        memcpy(row + low, last, (a.d - low) * sizeof(float));
      }
    }
  });
  return nullptr;
}

}  // namespace DEQCERT_ISA
}  // namespace deqcert
