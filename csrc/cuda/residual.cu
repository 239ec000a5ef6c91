// Residual and state norms: one block of threads per row, or several and a second launch.
#include "norms.h"

namespace deqcert {
namespace cuda {
namespace {

template <typename T>
__device__ double* sums_of(const ResidualNorms<T>& a, int64_t b) {
  return a.workspace + b * 2 * pieces_of(a.size);
}

template <typename T>
__device__ void take(const ResidualNorms<T>& a, const Share& s) {
  const int64_t first = s.row * a.size;
  piece_norms(a.z + first, a.fz + first, a.size, s, sums_of(a, s.row));
}

// By one warp.
template <typename T>
__device__ void tell(const ResidualNorms<T>& a, int64_t b) {
  const double residual = total(sums_of(a, b), pieces_of(a.size), 2);
  const double norm = total(sums_of(a, b) + 1, pieces_of(a.size), 2);
  if (lane_of() == 0) {
    a.residual[b] = residual;
    a.norm[b] = norm;
  }
}

template <typename T>
__global__ void __launch_bounds__(WIDE) norms(ResidualNorms<T> a) {
  const Share s = share_of(1);
  take(a, s);
  __syncthreads();  // all sums are there before one warp adds them up
  if (s.warp == 0) tell(a, s.row);
}

template <typename T>
__global__ void spread_take(ResidualNorms<T> a, int64_t blocks) {
  take(a, share_of(blocks));
}

template <typename T>
__global__ void spread_tell(ResidualNorms<T> a) {
  tell(a, blockIdx.x);
}

template <typename T>
const char* compute(const ResidualNorms<T>& a, const Launch& launch) {
  const int64_t blocks = blocks_per_row(launch, a.rows, a.size);
  if (blocks == 1) return run_blocks(launch, a.rows, threads_of(a.size), 0, norms<T>, a);
  const char* fault = run_blocks(launch, a.rows * blocks, THREADS, 0, spread_take<T>, a, blocks);
  if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_tell<T>, a);
  return fault;
}

}  // namespace

int64_t residual_workspace(int, int64_t size) { return 2 * pieces_of(size); }

DEQCERT_DEFINE(ResidualNorms)

}  // namespace cuda
}  // namespace deqcert
