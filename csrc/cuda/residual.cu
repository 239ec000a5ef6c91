// Residual and state norms: one block of threads per row.
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

template <typename T>
__global__ void norms(ResidualNorms<T> a) {
  __shared__ Shared<double> sums[2][32];
  const int64_t b = blockIdx.x;
  const T* z = a.z + b * a.size;
  const T* fz = a.fz + b * a.size;
  double norm[2] = {0.0, 0.0};
  for (int64_t i = threadIdx.x; i < a.size; i += THREADS) {
    const T value = fz[i];
    const double g = static_cast<double>(static_cast<T>(value - z[i]));
    norm[0] += g * g;
    norm[1] += static_cast<double>(value) * static_cast<double>(value);
  }
  block_sums(norm, sums);
  if (threadIdx.x == 0) {
    a.residual[b] = norm[0];
    a.norm[b] = norm[1];
  }
}

template <typename T>
const char* compute(const ResidualNorms<T>& a, const Launch& launch) {
  return run_blocks(launch, a.rows, THREADS, 0, norms<T>, a);
}

}  // namespace

DEQCERT_DEFINE(ResidualNorms)

}  // namespace cuda
}  // namespace deqcert
