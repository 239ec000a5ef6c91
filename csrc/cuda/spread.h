// How many blocks of threads share a row. One is enough where there are rows to fill the device;
// where there are few and they are long, it would leave most multiprocessors idle, so that a row is
// spread over several, and a step is as many launches as it has sums to wait for.
#pragma once

#include "sums.h"

namespace deqcert {
namespace cuda {
namespace {

// The most threads of a block that has a row to itself.
constexpr int WIDE = 1024;

// A row is spread where at least so many blocks get a share of it, which asks for more than 28672
// elements. A guess, measured on no card: a launch more costs a few microseconds, in which one
// block reads some hundred kilobytes.
constexpr int64_t WORTH_SPREADING = 8;

inline int64_t blocks_per_row(const Launch& launch, int64_t rows, int64_t size) {
  int processors = 0, threads = 0;
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, launch.device);
  cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, launch.device);
  const int64_t room = static_cast<int64_t>(processors) * threads / THREADS / rows;
  const int64_t work = (pieces_of(size) + WARPS - 1) / WARPS;  // a piece for each warp
  const int64_t blocks = room < work ? room : work;
  return blocks < WORTH_SPREADING ? 1 : blocks;
}

// Threads of a block that has a row to itself: no warp without a piece.
inline int threads_of(int64_t size) {
  const int64_t threads = pieces_of(size) * WARP;
  return static_cast<int>(threads < WIDE ? threads : WIDE);
}

// What a thread's warp has of a row: every so many pieces one, from its own number on.
struct Share {
  int64_t row, warp, warps;
};

__device__ inline Share share_of(int64_t blocks) {
  const int64_t each = blockDim.x / WARP;
  return {blockIdx.x / blocks, blockIdx.x % blocks * each + threadIdx.x / WARP, blocks * each};
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
