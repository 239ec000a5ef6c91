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

__device__ inline double warp_sum(double value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, step);
  return value;
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
