// Residual and state norms in one read of both arrays.
#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_WAY {
namespace {

template <typename T>
void row_norms(const T* z, const T* fz, int64_t size, double* residual, double* norm) {
  alignas(64) T g[CHUNK];
  double residual_sum = 0.0, norm_sum = 0.0;
  for (int64_t low = 0; low < size; low += CHUNK) {
    const int64_t n = size - low < CHUNK ? size - low : CHUNK;
    for (int64_t i = 0; i < n; ++i) g[i] = fz[low + i] - z[low + i];
    residual_sum += dot(g, g, n);
    norm_sum += dot(fz + low, fz + low, n);
  }
  *residual = residual_sum;
  *norm = norm_sum;
}

template <typename T>
const char* run(const ResidualNorms<T>& a, const Launch& launch) {
  parallel(a.rows, useful_threads(launch.threads, a.rows * a.size), [&](int64_t b) {
    row_norms(a.z + b * a.z_stride, a.fz + b * a.fz_stride, a.size, a.residual + b, a.norm + b);
  });
  return nullptr;
}

}  // namespace

const char* residual_norms(const ResidualNorms<float>& a, const Launch& launch) {
  return run(a, launch);
}

const char* residual_norms(const ResidualNorms<double>& a, const Launch& launch) {
  return run(a, launch);
}

}  // namespace DEQCERT_WAY
}  // namespace deqcert
