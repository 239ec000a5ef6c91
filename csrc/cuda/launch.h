// What every CUDA kernel here needs: a launch on the caller's device and its error as a sentence,
// and memory that the threads of a block share.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../kernels.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int WARP = 32;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;

#ifdef DEQCERT_EMULATED
using emulated::dynamic_shared;
using emulated::Shared;
#else
// What shared memory holds; where the kernels are emulated, what watches over it, too.
template <typename T>
using Shared = T;

// The shared memory whose size the launch gives.
__device__ inline Shared<double>* dynamic_shared() {
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

}  // namespace
}  // namespace cuda
}  // namespace deqcert
