// The Anderson step in three launches: new inner products, decision, mix. Nothing is read back.
#include "small_system.h"
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

// Elements of a row that one block of threads works on; fixed, so that sums depend on nothing else.
constexpr int64_t CHUNK = 4096;

inline __host__ __device__ int64_t chunks_of(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

// Workspace of a row: its weights, its verdict, the slot that it restarts from, then the partial
// sums of each chunk: window inner products and two norms.
constexpr int EXTRAS = VERDICT + 1;

__host__ __device__ inline int64_t row_doubles(int window, int64_t size) {
  return window + EXTRAS + chunks_of(size) * (window + 2);
}

template <typename T>
__device__ double* weights_of(const AndersonStep<T>& a, int64_t b) {
  return a.workspace + b * row_doubles(a.window, a.size);
}

template <typename T>
__device__ double* partials(const AndersonStep<T>& a, int64_t b, int64_t chunk) {
  return weights_of(a, b) + a.window + EXTRAS + chunk * (a.window + 2);
}

// One block per chunk of a row.
template <typename T>
__global__ void take(AndersonStep<T> a) {
  constexpr int EACH = CHUNK / THREADS;
  __shared__ Shared<double> sums[AndersonStep<T>::MAX_WINDOW + 2][WARPS];
  const int64_t chunks = chunks_of(a.size);
  const int64_t b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  if (has_ended(a.watch, b)) return;
  const int64_t low = chunk * CHUNK + threadIdx.x;
  const int s = anderson_slot(a.count[b], a.window);
  const int filled = anderson_filled(a.count[b], a.window);
  T* f = a.window_f + b * a.window * a.size;
  T* g = a.window_g + b * a.window * a.size;

  T residual[EACH];
  double fz_square = 0.0;
#pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int64_t i = low + e * THREADS;
    residual[e] = 0;
    if (i < a.size) {
      const T value = a.fz[b * a.size + i];
      residual[e] = value - a.z[b * a.size + i];
      fz_square += static_cast<double>(value) * static_cast<double>(value);
      f[s * a.size + i] = value;
      g[s * a.size + i] = residual[e];
    }
  }
  for (int j = 0; j < filled; ++j) {
    const T* other = g + j * a.size;
    double sum = 0.0;
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
      const int64_t i = low + e * THREADS;
      if (i < a.size) {
        const T factor = j == s ? residual[e] : other[i];
        sum += static_cast<double>(residual[e]) * static_cast<double>(factor);
      }
    }
    sum = warp_sum(sum);
    if (lane_of() == 0) {
      sums[j][threadIdx.x / WARP] = sum;
      if (j == s) sums[a.window][threadIdx.x / WARP] = sum;
    }
  }
  fz_square = warp_sum(fz_square);
  if (lane_of() == 0) sums[a.window + 1][threadIdx.x / WARP] = fz_square;
  __syncthreads();
  const int column = threadIdx.x;
  if (column < filled || (column >= a.window && column < a.window + 2)) {
    double total = 0.0;
    for (int w = 0; w < WARPS; ++w) total += sums[column][w];
    partials(a, b, chunk)[column] = total;
  }
}

// One warp per row; shared: sums (window + 2), then the small system.
template <typename T>
__global__ void decide(AndersonStep<T> a) {
  Shared<double>* shared = dynamic_shared();
  const int64_t b = blockIdx.x;
  const int64_t chunks = chunks_of(a.size);
  double* weights = weights_of(a, b);
  double* verdict = weights + a.window;
  if (has_ended(a.watch, b)) {
    if (lane_of() == 0) keep(nothing_to_do(), verdict);
    return;
  }
  const int filled = anderson_filled(a.count[b], a.window);
  for (int j = lane_of(); j < a.window + 2; j += WARP) {
    double total = 0.0;
    if (j < filled || j >= a.window) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += partials(a, b, chunk)[j];
    }
    shared[j] = total;
  }
  __syncwarp();  // the sums are there before other lanes read them
  if (lane_of() == 0) {
    keep(settle(a.watch, b, shared[a.window], shared[a.window + 1]), verdict);
  }
  __syncwarp();  // and the verdict
  if (kept(verdict).target == NOWHERE) return;
  double* gram = a.gram + b * a.window * a.window;
  const int restart =
      warp_decide(gram, a.window, a.count + b, shared, a.constants, shared + a.window + 2, weights);
  if (lane_of() == 0) verdict[VERDICT] = restart;
}

// One block per chunk of a row.
template <typename T>
__global__ void mix(AndersonStep<T> a) {
  const int64_t chunks = chunks_of(a.size);
  const int64_t b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t end = chunk * CHUNK + CHUNK < a.size ? chunk * CHUNK + CHUNK : a.size;
  const double* weights = weights_of(a, b);
  const double* verdict = weights + a.window;
  const Verdict now = kept(verdict);
  const int best = now.target == NOWHERE ? 0 : static_cast<int>(verdict[VERDICT]);
  T* out = a.out + b * a.size;
  T* saved = a.watch.progress ? a.watch.best + b * a.size : out;
  T* to = now.target == BEST ? saved : out;
  T* f = a.window_f + b * a.window * a.size;
  T* g = a.window_g + b * a.window * a.size;
  const double rest = 1.0 - a.constants.damping;
  for (int64_t i = chunk * CHUNK + threadIdx.x; i < end; i += THREADS) {
    if (now.save_before) saved[i] = out[i];
    if (now.save_here) saved[i] = a.z[b * a.size + i];
    if (now.target == NOWHERE) continue;
    double sum = 0.0;
    for (int j = 0; j < a.window; ++j) {
      const double weight = weights[j];
      if (weight == 0.0) continue;  // such a slot may hold anything
      double value = f[j * a.size + i];
      if (rest != 0.0) value -= rest * static_cast<double>(g[j * a.size + i]);
      sum += weight * value;
    }
    to[i] = static_cast<T>(sum);
    if (best > 0) {
      f[i] = f[best * a.size + i];
      g[i] = g[best * a.size + i];
    }
  }
}

template <typename T>
const char* compute(const AndersonStep<T>& a, const Launch& launch) {
  const int64_t blocks = a.rows * chunks_of(a.size);
  const size_t shared = (a.window + 2 + small_scratch(a.window)) * sizeof(double);
  const char* fault = run_blocks(launch, blocks, THREADS, 0, take<T>, a);
  if (!fault) fault = run_blocks(launch, a.rows, WARP, shared, decide<T>, a);
  if (!fault) fault = run_blocks(launch, blocks, THREADS, 0, mix<T>, a);
  return fault;
}

}  // namespace

int64_t anderson_workspace(int window, int64_t size) { return row_doubles(window, size); }

DEQCERT_DEFINE(AndersonStep)

}  // namespace cuda
}  // namespace deqcert
