// Sums over a row in an order that its length alone decides, so that neither the blocks and threads
// that share the row nor the rows beside it change a bit (no atomics). A warp sums a piece of the
// row, first each lane every 32nd element, then the lanes two by two; the sums of the pieces lie in
// the row's workspace and are summed the same way, by whichever warp wants the total. Between the
// two there is a barrier of the only block of the row, or the end of a launch.
#pragma once

#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int64_t PIECE = 512;

inline __host__ __device__ int64_t pieces_of(int64_t size) { return (size + PIECE - 1) / PIECE; }

// One past the last element of a piece.
__device__ inline int64_t end_of(int64_t piece, int64_t size) {
  return piece * PIECE + PIECE < size ? piece * PIECE + PIECE : size;
}

__device__ inline int lane_of() { return static_cast<int>(threadIdx.x % WARP); }

// Every lane gets the sum, of the same bits.
__device__ inline double warp_sum(double value) {
  for (int step = WARP / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  }
  return value;
}

// Puts the sums that the lanes have of a piece where the total will look for them.
template <int N>
__device__ void keep_sums(const double (&of_lane)[N], double* where) {
  for (int k = 0; k < N; ++k) {
    const double sum = warp_sum(of_lane[k]);
    if (lane_of() == 0) where[k] = sum;
  }
}

// The total over all pieces, whose sums are so many doubles apart; every lane gets it.
__device__ inline double total(const double* sums, int64_t pieces, int apart) {
  double sum = 0.0;
  for (int64_t p = lane_of(); p < pieces; p += WARP) sum += sums[p * apart];
  return warp_sum(sum);
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
