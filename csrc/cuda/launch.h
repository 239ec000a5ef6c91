// What every CUDA kernel here needs: a launch on the caller's device and its error as a sentence,
// and sums of a block of threads in a fixed order (no atomics).
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

#ifdef DEQCERT_EMULATED
using emulated::dynamic_shared;
using emulated::Shared;
#else
// What shared memory holds; where the kernels are emulated, what watches over it, too.
template <typename T>
using Shared = T;

// The shared memory whose size the launch gives.
__device__ inline double* dynamic_shared() {
  extern __shared__ double memory[];
  return memory;
}
#endif

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

template <typename T>
struct Given {
  typedef T type;
};

// Launches a kernel; shared is the size of its dynamic shared memory. Blocks are numbered along x
// alone, which holds up to 2^31 - 1 of them.
template <typename... Params>
const char* run_blocks(const Launch& launch, int64_t blocks, int threads, size_t shared,
                       void (*kernel)(Params...), typename Given<Params>::type... params) {
  const OnDevice on(launch.device);
  if (on.error() != cudaSuccess) return say(on.error());
  if (blocks > 0x7FFFFFFF) return say(cudaErrorInvalidConfiguration);
  void* args[] = {&params...};
  cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)),
                   dim3(static_cast<unsigned>(threads)), args, shared,
                   static_cast<cudaStream_t>(launch.stream));
  return say(cudaGetLastError());  // and the next launch does not report it again
}

__device__ inline double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, step);
  return value;
}

// Sums N values over a block of threads; every thread gets the totals.
template <int N>
__device__ void block_sums(double (&value)[N], Shared<double> (*shared)[32]) {
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
