// What csrc/cuda uses of CUDA, on a processor: a launch runs its blocks one after the other, every
// thread of a block as a fiber, and says what a GPU would pass over in silence. A barrier or a warp
// operation that not all threads reach, shared memory that is read before it is written, and two
// threads that use a place of it without a barrier between them end the launch with a sentence.
// Blocks, and the warps of a block, run one after the other as far as they come, and they and the
// lanes of a warp in another order at every launch, so that what depends on it comes out otherwise.
// The device is what the environment says (emulator.cpp).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

typedef void* cudaStream_t;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidConfiguration,
  cudaErrorLaunchFailure,
  cudaErrorNoKernelImageForDevice
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxThreadsPerMultiProcessor };
struct cudaFuncAttributes {
  int binaryVersion;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

// Of the thread that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

struct Call {
  void (*run)(const Call&);
  const void* kernel;
  void** args;
};

cudaError_t launch(const Call& call, dim3 grid, dim3 block, size_t shared);
cudaError_t has_code();

// Where the thread that runs is: how many barriers of its block and of its warp it has passed.
struct Place {
  uint64_t block;  // of this process, counted from 1: a place of an earlier block holds nothing
  int thread, barriers, warp_barriers;
};
const Place& here();
[[noreturn]] void fail(const char* what);

// A shuffle takes the value of a lane, which is -1 for who only waits.
enum Wait { RUNS, BARRIER, WARP };
uint64_t wait(Wait what, unsigned mask, int line, uint64_t value, int from);

inline bool unordered(const Place& before, const Place& now) {
  if (before.block != now.block || before.thread == now.thread) return false;
  if (before.barriers != now.barriers) return false;
  return before.thread / 32 != now.thread / 32 || before.warp_barriers == now.warp_barriers;
}

// A place in the memory of a block of threads.
template <typename T>
class Shared {
 public:
  Shared& operator=(const T& value) {
    if (unordered(written_, here()) || unordered(read_, here()) || unordered(last_, here())) {
      fail("two threads use a place of shared memory, one of them to write, without a barrier");
    }
    written_ = here();
    value_ = value;
    return *this;
  }
  Shared& operator=(const Shared& other) { return *this = static_cast<T>(other); }
  operator T() const {
    if (written_.block != here().block) fail("shared memory is read before it is written");
    if (unordered(written_, here())) {
      fail("shared memory is read that another thread writes, without a barrier");
    }
    // The first and the last reader since a barrier: a writer is not both.
    if (read_.block != here().block || read_.barriers != here().barriers) read_ = here();
    last_ = here();
    return value_;
  }

 private:
  T value_ = {};
  Place written_ = {};
  mutable Place read_ = {}, last_ = {};
};

// The dynamic shared memory of this launch.
Shared<double>* dynamic_shared();

template <typename... Params, size_t... I>
void unpack(const Call& call, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(Params...)>(const_cast<void*>(call.kernel))(
      *static_cast<Params*>(call.args[I])...);
}

}  // namespace emulated

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return emulated::has_code();
}

template <typename... Params>
cudaError_t cudaLaunchKernel(void (*kernel)(Params...), dim3 grid, dim3 block, void** args,
                             size_t shared, cudaStream_t) {
  const emulated::Call call = {[](const emulated::Call& c) {
                                 emulated::unpack<Params...>(c,
                                                             std::index_sequence_for<Params...>());
                               },
                               reinterpret_cast<const void*>(kernel), args};
  return emulated::launch(call, grid, block, shared);
}

inline void __syncthreads(int line = __builtin_LINE()) {
  emulated::wait(emulated::BARRIER, 0, line, 0, -1);
}

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, int line = __builtin_LINE()) {
  emulated::wait(emulated::WARP, mask, line, 0, -1);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int line = __builtin_LINE()) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle takes 32 or 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const int lane = static_cast<int>(threadIdx.x % 32);
  bits = emulated::wait(emulated::WARP, mask, line, bits, lane ^ lanes);
  memcpy(&value, &bits, sizeof value);
  return value;
}
