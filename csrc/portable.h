// Functions shared by the CPU and CUDA kernels. They are static, so that a copy compiled for one
// instruction set can never be linked into the code of another.
#pragma once

#ifdef __CUDACC__
#define DEQCERT_SHARED __host__ __device__ static inline
#else
#define DEQCERT_SHARED static inline
#endif
