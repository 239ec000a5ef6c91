// Squared norms of a residual and of a new state, piece by piece.
#pragma once

#include "spread.h"

namespace deqcert {
namespace cuda {
namespace {

// To (pieces, 2) sums.
template <typename T>
__device__ void piece_norms(const T* z, const T* fz, int64_t size, const Share& s, double* sums) {
  for (int64_t p = s.warp; p < pieces_of(size); p += s.warps) {
    double norm[2] = {0.0, 0.0};
    for (int64_t i = p * PIECE + lane_of(); i < end_of(p, size); i += WARP) {
      const T value = fz[i];
      const double g = static_cast<double>(static_cast<T>(value - z[i]));
      norm[0] += g * g;
      norm[1] += static_cast<double>(value) * static_cast<double>(value);
    }
    keep_sums(norm, sums + 2 * p);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
