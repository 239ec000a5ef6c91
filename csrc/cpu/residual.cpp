// Residual and state norms in one read of both arrays.
#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_ISA {
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
const char* compute(const ResidualNorms<T>& a, const Launch& launch) {
  parallel(a.rows, useful_threads(launch.threads, a.rows * a.size), [&](int64_t b) {
    row_norms(a.z + b * a.size, a.fz + b * a.size, a.size, a.residual + b, a.norm + b);
  });
  return nullptr;
}

}  // namespace

int64_t residual_workspace(int, int64_t) { return 0; }

DEQCERT_DEFINE(ResidualNorms)

}  // namespace DEQCERT_ISA
}  // namespace deqcert
