// A row under watch on the GPU, and the whole-block sums that its judgement needs.
#pragma once

#include "../watch.h"
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

// Where the next state of a row goes.
enum Target { NOWHERE, OUT, BEST };

struct Settled {
  bool save_before, save_here;
  Target target;
};

template <typename T>
__device__ bool has_ended(const Watch<T>& watch, int64_t b) {
  return watch.progress && watch.progress[b * WATCH_COLUMNS + STATUS] >= 0.0;
}

// One thread a row.
template <typename T>
__device__ Settled settle(const Watch<T>& watch, int64_t b, double square, double image) {
  if (!watch.progress) return {false, false, OUT};
  const Verdict v = judge(watch.progress + b * WATCH_COLUMNS, watch.rule, square, image);
  return {v.save_before, v.save_here, v.last ? BEST : v.step ? OUT : NOWHERE};
}

// Sums N values over a block of THREADS threads or fewer; every thread gets the totals.
template <int N>
__device__ void block_sums(double (&value)[N], double (*shared)[32]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  __syncthreads();  // the last totals have been read
  for (int k = 0; k < N; ++k) {
    const double sum = warp_sum(value[k]);
    if (lane == 0) shared[k][warp] = sum;
  }
  __syncthreads();
  for (int k = 0; k < N; ++k) {
    double total = 0.0;
    for (int w = 0; w < warps; ++w) total += shared[k][w];
    value[k] = total;
  }
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
