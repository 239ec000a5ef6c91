// Functions shared by the CPU and CUDA kernels. They are static, and members are never compiled on
// their own, so that a copy for one instruction set can never be linked into the code of another.
#pragma once

#ifdef __CUDACC__
#define DEQCERT_SHARED __host__ __device__ static inline
#define DEQCERT_SHARED_MEMBER __host__ __device__ __forceinline__
#else
#define DEQCERT_SHARED static inline
#define DEQCERT_SHARED_MEMBER inline __attribute__((always_inline))
#endif

namespace deqcert {

DEQCERT_SHARED bool is_finite(double x) { return x - x == 0.0; }

}  // namespace deqcert
