// The Picard step: norms, decision, next state. One launch with a block of threads per row, or,
// where a row is spread over several, a launch for each of the three.
#include "norms.h"
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

// Workspace of a row: its verdict, then two sums of each piece. A row that nobody watches has no
// use for either.
inline __host__ __device__ int64_t row_doubles(int64_t size) {
  return VERDICT + 2 * pieces_of(size);
}

template <typename T>
__device__ double* verdict_of(const PicardStep<T>& a, int64_t b) {
  return a.workspace + b * row_doubles(a.size);
}

template <typename T>
__device__ void take(const PicardStep<T>& a, const Share& s) {
  const int64_t first = s.row * a.size;
  piece_norms(a.z + first, a.fz + first, a.size, s, verdict_of(a, s.row) + VERDICT);
}

// By one warp.
template <typename T>
__device__ void decide(const PicardStep<T>& a, int64_t b) {
  double* verdict = verdict_of(a, b);
  const double* sums = verdict + VERDICT;
  const double g_square = total(sums, pieces_of(a.size), 2);
  const double fz_square = total(sums + 1, pieces_of(a.size), 2);
  if (lane_of() == 0) keep(settle(a.watch, b, g_square, fz_square), verdict);
}

template <typename T>
__device__ void move(const PicardStep<T>& a, const Share& s) {
  const Verdict now = a.watch.progress ? kept(verdict_of(a, s.row)) : Verdict{false, false, OUT};
  const T* z = a.z + s.row * a.size;
  const T* fz = a.fz + s.row * a.size;
  T* out = a.out + s.row * a.size;
  T* best = a.watch.progress ? a.watch.best + s.row * a.size : out;
  T* to = now.target == BEST ? best : out;
  for (int64_t p = s.warp; p < pieces_of(a.size); p += s.warps) {
    for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
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
}

template <typename T>
__global__ void __launch_bounds__(WIDE) picard(PicardStep<T> a) {
  const Share s = share_of(1);
  if (has_ended(a.watch, s.row)) return;
  if (a.watch.progress) {
    take(a, s);
    __syncthreads();  // all sums are there before one warp adds them up
    if (s.warp == 0) decide(a, s.row);
    __syncthreads();  // the verdict is there before anybody acts on it
  }
  move(a, s);
}

template <typename T>
__global__ void spread_take(PicardStep<T> a, int64_t blocks) {
  const Share s = share_of(blocks);
  if (!has_ended(a.watch, s.row)) take(a, s);
}

template <typename T>
__global__ void spread_decide(PicardStep<T> a) {
  const int64_t b = blockIdx.x;
  if (!has_ended(a.watch, b)) {
    decide(a, b);
  } else if (lane_of() == 0) {
    keep(nothing_to_do(), verdict_of(a, b));
  }
}

template <typename T>
__global__ void spread_move(PicardStep<T> a, int64_t blocks) {
  move(a, share_of(blocks));
}

template <typename T>
const char* compute(const PicardStep<T>& a, const Launch& launch) {
  const int64_t blocks = blocks_per_row(launch, a.rows, a.size), all = a.rows * blocks;
  if (blocks == 1) return run_blocks(launch, a.rows, threads_of(a.size), 0, picard<T>, a);
  const char* fault = nullptr;
  if (a.watch.progress) {
    fault = run_blocks(launch, all, THREADS, 0, spread_take<T>, a, blocks);
    if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_decide<T>, a);
  }
  if (!fault) fault = run_blocks(launch, all, THREADS, 0, spread_move<T>, a, blocks);
  return fault;
}

}  // namespace

int64_t picard_workspace(int, int64_t size) { return row_doubles(size); }

DEQCERT_DEFINE(PicardStep)

}  // namespace cuda
}  // namespace deqcert
