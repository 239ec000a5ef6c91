#include "dispatch.h"

namespace deqcert {
namespace {

#define DEQCERT_KERNELS_OF(way, T) \
  Kernels<T> { way::residual_norms, way::anderson_step, way::picard_step, way::broyden_step }

#define DEQCERT_WAY_TABLE(way)                                                    \
  {                                                                               \
    #way, way::picard_workspace, way::anderson_workspace, way::broyden_workspace, \
        way::philox_normal, {                                                     \
      DEQCERT_KERNELS_OF(way, float), DEQCERT_KERNELS_OF(way, double),            \
          DEQCERT_KERNELS_OF(way, bfloat16)                                       \
    }                                                                             \
  }

const Way PORTABLE = DEQCERT_WAY_TABLE(portable);
#ifdef DEQCERT_X86
const Way AVX2 = DEQCERT_WAY_TABLE(avx2);
const Way AVX512 = DEQCERT_WAY_TABLE(avx512);
#endif
#ifdef DEQCERT_CUDA
const Way CUDA = DEQCERT_WAY_TABLE(cuda);
#endif

}  // namespace

int cpu_ways(const Way** ways) {
  int n = 0;
#ifdef DEQCERT_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    ways[n++] = &AVX512;
  }
  if (__builtin_cpu_supports("avx2")) ways[n++] = &AVX2;
#endif
  ways[n++] = &PORTABLE;
  return n;
}

const Way* cuda_way() {
#ifdef DEQCERT_CUDA
  return &CUDA;
#else
  return nullptr;
#endif
}

}  // namespace deqcert
