// The Picard step in one launch: one block of threads a row.
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int WIDE = 1024;

template <typename T>
__global__ void __launch_bounds__(WIDE) picard(PicardStep<T> a) {
  __shared__ double sums[2][32];
  __shared__ Settled settled;
  const int64_t b = blockIdx.x;
  if (has_ended(a.watch, b)) return;
  const T* z = a.z + b * a.z_stride;
  const T* fz = a.fz + b * a.fz_stride;
  T* out = a.out + b * a.out_stride;
  T* best = a.watch.progress ? a.watch.best + b * a.watch.best_stride : out;
  double norm[2] = {0.0, 0.0};
  if (a.watch.progress) {
    for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
      const T value = fz[i];
      const double g = static_cast<double>(static_cast<T>(value - z[i]));
      norm[0] += g * g;
      norm[1] += static_cast<double>(value) * static_cast<double>(value);
    }
    block_sums(norm, sums);
  }
  if (threadIdx.x == 0) settled = settle(a.watch, b, norm[0], norm[1]);
  __syncthreads();
  const Settled now = settled;
  T* to = now.target == BEST ? best : out;
  for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
    const T from = z[i];
    if (now.save_before) best[i] = out[i];
    if (now.save_here) best[i] = from;
    if (now.target == NOWHERE) continue;
    if (a.damping == 1.0) {
      to[i] = fz[i];
    } else {
      const double start = from;
      to[i] = static_cast<T>(start + a.damping * (static_cast<double>(fz[i]) - start));
    }
  }
}

template <typename T>
const char* run(const PicardStep<T>& a, const Launch& launch) {
  const OnDevice on(launch.device);
  if (on.error() != cudaSuccess) return say(on.error());
  if (check_grid(a.rows) != cudaSuccess) return say(check_grid(a.rows));
  picard<T>
      <<<static_cast<unsigned>(a.rows), WIDE, 0, static_cast<cudaStream_t>(launch.stream)>>>(a);
  return say(cudaGetLastError());
}

}  // namespace

int64_t picard_workspace(int64_t) { return 1; }

const char* picard_step(const PicardStep<float>& a, const Launch& launch) { return run(a, launch); }

const char* picard_step(const PicardStep<double>& a, const Launch& launch) {
  return run(a, launch);
}

const char* picard_step(const PicardStep<bfloat16>& a, const Launch& launch) {
  return run(a, launch);
}

}  // namespace cuda
}  // namespace deqcert
