// Counter-based normals, a tile of blocks at a time so that the compiler vectorises over blocks.
#include "../philox.h"

#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

constexpr int TILE = 64;

// Blocks first .. first + TILE - 1 of one row, into out (4 TILE).
void tile(uint32_t first, uint32_t sample, uint32_t index, uint32_t stage, PhiloxKey key,
          float* out) {
  uint32_t u[4][TILE];
  float normal[4][TILE];
  for (int i = 0; i < TILE; ++i) {
    uint32_t c[4] = {first + static_cast<uint32_t>(i), sample, index, stage};
    philox4x32(c, key);
    for (int k = 0; k < 4; ++k) u[k][i] = c[k];
  }
  for (int i = 0; i < TILE; ++i) normal_pair(u[0][i], u[1][i], &normal[0][i], &normal[1][i]);
  for (int i = 0; i < TILE; ++i) normal_pair(u[2][i], u[3][i], &normal[2][i], &normal[3][i]);
  for (int i = 0; i < TILE; ++i) {
    for (int k = 0; k < 4; ++k) out[4 * i + k] = normal[k][i];
  }
}

}  // namespace

const char* run(const PhiloxNormal& a, const Launch& launch) {
  const PhiloxKey key = {static_cast<uint32_t>(a.seed), static_cast<uint32_t>(a.seed >> 32)};
  parallel(a.n, useful_threads(launch.threads, a.n * a.d), [&](int64_t i) {
    float* row = a.out + i * a.d;
    const uint32_t sample = a.first + static_cast<uint32_t>(i);
    for (int64_t low = 0; low < a.d; low += 4 * TILE) {
      const uint32_t block = static_cast<uint32_t>(low / 4);
      if (low + 4 * TILE <= a.d) {
        tile(block, sample, a.index, a.stage, key, row + low);
      } else {
        float last[4 * TILE];
        tile(block, sample, a.index, a.stage, key, last);
        memcpy(row + low, last, (a.d - low) * sizeof(float));
      }
    }
  });
  return nullptr;
}

}  // namespace DEQCERT_ISA
}  // namespace deqcert
