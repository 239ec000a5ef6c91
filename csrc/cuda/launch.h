// What every CUDA kernel here needs: the caller's device for the time of a launch, the error of a
// launch as a sentence, and sums of a block of threads in a fixed order (no atomics).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../kernels.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

// Elements of a row that one block of threads works on; fixed, so that sums depend on nothing else.
constexpr int64_t CHUNK = 4096;

inline __host__ __device__ int64_t chunks_of(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

// Makes a device current and puts the previous one back.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess && before_ != device) {
      error_ = cudaSetDevice(device);
      moved_ = error_ == cudaSuccess;
    }
  }
  ~OnDevice() {
    if (moved_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool moved_ = false;
  cudaError_t error_;
};

inline const char* say(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Blocks are numbered along x alone, which holds up to 2^31 - 1 of them.
inline cudaError_t check_grid(int64_t blocks) {
  return blocks > 0x7FFFFFFF ? cudaErrorInvalidConfiguration : cudaSuccess;
}

// Runs a kernel with one block of threads per row.
template <typename Args>
const char* by_rows(void (*kernel)(Args), int threads, const Args& a, const Launch& launch) {
  const OnDevice on(launch.device);
  if (on.error() != cudaSuccess) return say(on.error());
  if (check_grid(a.rows) != cudaSuccess) return say(check_grid(a.rows));
  kernel<<<static_cast<unsigned>(a.rows), threads, 0, static_cast<cudaStream_t>(launch.stream)>>>(
      a);
  return say(cudaGetLastError());
}

__device__ inline double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, step);
  return value;
}

// Sums N values over a block of threads; every thread gets the totals.
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
