// Residual and state norms in one read of both arrays.
#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_WAY {
namespace {

template <typename T>
void row_norms(const T* z, const T* fz, int64_t size, double* residual, double* norm) {
  *residual = *norm = 0.0;
  for (int64_t chunk = 0; chunk < chunks_of(size); ++chunk) {
    double sums[2];
    norms(z + chunk * CHUNK, fz + chunk * CHUNK, length_of(chunk, size), sums);
    *residual += sums[0];
    *norm += sums[1];
  }
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

const char* residual_norms(const ResidualNorms<bfloat16>& a, const Launch& launch) {
  return run(a, launch);
}

}  // namespace DEQCERT_WAY
}  // namespace deqcert
