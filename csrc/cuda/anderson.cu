// The Anderson step in three launches: new inner products, decision, mix. Nothing is read back.
#include "../anderson_math.h"
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

// Workspace: for each row its weights and the slot that it restarts from, then the partial sums.
__host__ __device__ inline int64_t row_doubles(int window) { return window + 1; }

template <typename T>
__device__ double* partials(const AndersonStep<T>& a, int64_t b, int64_t chunk) {
  return a.workspace + a.rows * row_doubles(a.window) + (b * chunks_of(a.size) + chunk) * a.window;
}

// One block a chunk of a row.
template <typename T>
__global__ void take(AndersonStep<T> a) {
  constexpr int EACH = CHUNK / THREADS;
  __shared__ double sums[MAX_WINDOW][WARPS];
  const int64_t chunks = chunks_of(a.size);
  const int64_t b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t low = chunk * CHUNK + threadIdx.x;
  const int s = anderson_slot(a.count[b], a.window);
  const int filled = anderson_filled(a.count[b], a.window);
  T* f = a.window_f + b * a.window_stride;
  T* g = a.window_g + b * a.window_stride;

  T residual[EACH];
#pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int64_t i = low + e * THREADS;
    residual[e] = 0;
    if (i < a.size) {
      const T value = a.fz[b * a.fz_stride + i];
      residual[e] = value - a.z[b * a.z_stride + i];
      f[s * a.slot_stride + i] = value;
      g[s * a.slot_stride + i] = residual[e];
    }
  }
  for (int j = 0; j < filled; ++j) {
    const T* other = g + j * a.slot_stride;
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
    if (threadIdx.x % 32 == 0) sums[j][threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (threadIdx.x < filled) {
    double total = 0.0;
    for (int w = 0; w < WARPS; ++w) total += sums[threadIdx.x][w];
    partials(a, b, chunk)[threadIdx.x] = total;
  }
}

// One warp a row; shared: dots (window), then the scratch of the solve.
template <typename T>
__global__ void decide(AndersonStep<T> a) {
  extern __shared__ double shared[];
  const int64_t b = blockIdx.x;
  const int64_t chunks = chunks_of(a.size);
  const int filled = anderson_filled(a.count[b], a.window);
  for (int j = threadIdx.x; j < filled; j += 32) {
    double total = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += partials(a, b, chunk)[j];
    shared[j] = total;
  }
  __syncwarp();
  if (threadIdx.x == 0) {
    const AndersonRule rule = {a.ridge, a.growth, a.max_weight};
    double* weights = a.workspace + b * row_doubles(a.window);
    double* gram = a.gram + b * a.window * a.window;
    weights[a.window] =
        anderson_decide(gram, a.window, a.count + b, shared, rule, shared + a.window, weights);
  }
}

// One block a chunk of a row.
template <typename T>
__global__ void mix(AndersonStep<T> a) {
  const int64_t chunks = chunks_of(a.size);
  const int64_t b = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
  const int64_t end = chunk * CHUNK + CHUNK < a.size ? chunk * CHUNK + CHUNK : a.size;
  const double* weights = a.workspace + b * row_doubles(a.window);
  const int best = static_cast<int>(weights[a.window]);
  T* f = a.window_f + b * a.window_stride;
  T* g = a.window_g + b * a.window_stride;
  const double rest = 1.0 - a.damping;
  for (int64_t i = chunk * CHUNK + threadIdx.x; i < end; i += THREADS) {
    double sum = 0.0;
    for (int j = 0; j < a.window; ++j) {
      const double weight = weights[j];
      if (weight == 0.0) continue;  // such a slot may hold anything
      double value = f[j * a.slot_stride + i];
      if (rest != 0.0) value -= rest * static_cast<double>(g[j * a.slot_stride + i]);
      sum += weight * value;
    }
    a.out[b * a.out_stride + i] = static_cast<T>(sum);
    if (best > 0) {
      f[i] = f[best * a.slot_stride + i];
      g[i] = g[best * a.slot_stride + i];
    }
  }
}

template <typename T>
const char* run(const AndersonStep<T>& a, const Launch& launch) {
  const OnDevice on(launch.device);
  if (on.error() != cudaSuccess) return say(on.error());
  const int64_t blocks = a.rows * chunks_of(a.size);
  if (check_grid(blocks) != cudaSuccess) return say(check_grid(blocks));
  const cudaStream_t stream = static_cast<cudaStream_t>(launch.stream);
  const unsigned rows = static_cast<unsigned>(a.rows), grid = static_cast<unsigned>(blocks);
  const size_t shared = (a.window + anderson_scratch(a.window)) * sizeof(double);
  take<T><<<grid, THREADS, 0, stream>>>(a);
  cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return say(error);
  decide<T><<<rows, 32, shared, stream>>>(a);
  error = cudaGetLastError();
  if (error != cudaSuccess) return say(error);
  mix<T><<<grid, THREADS, 0, stream>>>(a);
  return say(cudaGetLastError());
}

}  // namespace

int64_t anderson_workspace(int64_t rows, int window, int64_t size) {
  return rows * (row_doubles(window) + chunks_of(size) * window);
}

const char* anderson_step(const AndersonStep<float>& a, const Launch& launch) {
  return run(a, launch);
}

const char* anderson_step(const AndersonStep<double>& a, const Launch& launch) {
  return run(a, launch);
}

}  // namespace cuda
}  // namespace deqcert
