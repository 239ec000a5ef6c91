// The Picard step in one launch: one block of threads per row.
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int WIDE = 1024;

template <typename T>
__global__ void __launch_bounds__(WIDE) picard(PicardStep<T> a) {
  __shared__ Shared<double> sums[2][32];
  __shared__ Shared<Verdict> settled;
  const int64_t b = blockIdx.x;
  if (has_ended(a.watch, b)) return;
  const T* z = a.z + b * a.size;
  const T* fz = a.fz + b * a.size;
  T* out = a.out + b * a.size;
  T* best = a.watch.progress ? a.watch.best + b * a.size : out;
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
  const Verdict now = settled;
  T* to = now.target == BEST ? best : out;
  for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
    const T from = z[i];
    if (now.save_before) best[i] = out[i];
    if (now.save_here) best[i] = from;
    if (now.target == NOWHERE) continue;
    if (a.constants.damping == 1.0) {
      to[i] = fz[i];
    } else {
      const double start = from;
      to[i] = static_cast<T>(start + a.constants.damping * (static_cast<double>(fz[i]) - start));
    }
  }
}

template <typename T>
const char* compute(const PicardStep<T>& a, const Launch& launch) {
  return run_blocks(launch, a.rows, WIDE, 0, picard<T>, a);
}

}  // namespace

int64_t picard_workspace(int, int64_t) { return 1; }

DEQCERT_DEFINE(PicardStep)

}  // namespace cuda
}  // namespace deqcert
