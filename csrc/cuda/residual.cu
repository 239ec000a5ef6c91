// Residual and state norms: one block of threads a row.
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

template <typename T>
__global__ void norms(ResidualNorms<T> a) {
  __shared__ double sums[2][WARPS];
  const int64_t b = blockIdx.x;
  const T* z = a.z + b * a.z_stride;
  const T* fz = a.fz + b * a.fz_stride;
  double residual = 0.0, norm = 0.0;
  for (int64_t i = threadIdx.x; i < a.size; i += THREADS) {
    const T value = fz[i];
    const double difference = static_cast<double>(static_cast<T>(value - z[i]));
    residual += difference * difference;
    norm += static_cast<double>(value) * static_cast<double>(value);
  }
  residual = warp_sum(residual);
  norm = warp_sum(norm);
  if (threadIdx.x % 32 == 0) {
    sums[0][threadIdx.x / 32] = residual;
    sums[1][threadIdx.x / 32] = norm;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    double total = 0.0;
    for (int w = 0; w < WARPS; ++w) total += sums[threadIdx.x][w];
    (threadIdx.x == 0 ? a.residual : a.norm)[b] = total;
  }
}

template <typename T>
const char* run(const ResidualNorms<T>& a, const Launch& launch) {
  const OnDevice on(launch.device);
  if (on.error() != cudaSuccess) return say(on.error());
  if (check_grid(a.rows) != cudaSuccess) return say(check_grid(a.rows));
  norms<T>
      <<<static_cast<unsigned>(a.rows), THREADS, 0, static_cast<cudaStream_t>(launch.stream)>>>(a);
  return say(cudaGetLastError());
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

}  // namespace cuda
}  // namespace deqcert
