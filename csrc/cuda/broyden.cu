// Broyden's step: the factors of H are applied one after the other, and each needs a sum that the
// one before has left. One launch with a block of threads per row, or, where a row is spread over
// several, a launch for each factor that the window may hold and four around them.
#include "../broyden.h"
#include "spread.h"
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

// What is decided about a row: where from, how many directions it has, how far the last was
// stepped.
enum Decided { MOVE, HELD, LENGTH, MERIT, DECIDED };

// One row. n directions are held, and slot n is where w = -H g grows into the next one. A warp
// works on the same elements all the time, so that only sums have to be waited for.
template <typename T>
struct Row {
  const BroydenStep<T>& a;
  int64_t b, pieces;
  const T *z, *fz;
  T* out;
  double *squares, *lengths;
  double *verdict, *decided;
  double* sums;  // (pieces, 2): norms of the evaluation, then the square of the new direction
  double* dots;  // (2, pieces): <d_j, w> for an even j and for an odd one

  static __host__ __device__ int64_t doubles(int64_t size) {
    return VERDICT + DECIDED + 4 * pieces_of(size);
  }

  __device__ Row(const BroydenStep<T>& step, int64_t row)
      : a(step),
        b(row),
        pieces(pieces_of(a.size)),
        z(a.z + b * a.size),
        fz(a.fz + b * a.size),
        out(a.out + b * a.size),
        squares(a.squares + b * a.window),
        lengths(a.lengths + b * a.window),
        verdict(a.workspace + b * doubles(a.size)),
        decided(verdict + VERDICT),
        sums(decided + DECIDED),
        dots(sums + 2 * pieces) {}

  __device__ T* d(int slot) const { return a.directions + (b * a.window + slot) * a.size; }
  __device__ double* dots_of(int j) const { return dots + j % 2 * pieces; }
  __device__ int held() const { return static_cast<int>(decided[HELD]); }
  __device__ BroydenMove how() const {
    return static_cast<BroydenMove>(static_cast<int>(decided[MOVE]));
  }

  // Norms of the evaluation; g goes to slot n, with <d_0, g>, where H may be applied to it.
  __device__ void begin(const Share& s) const {
    const int n = broyden_count(a.count[b], a.window);
    const bool applies = n > 0 && n < a.window;
    T* w = d(n);  // used only where it applies
    const T* first = d(0);
    for (int64_t p = s.warp; p < pieces; p += s.warps) {
      double norm[2] = {0.0, 0.0}, dot[1] = {0.0};
      for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
        const T value = fz[i];
        const T g = value - z[i];
        norm[0] += static_cast<double>(g) * static_cast<double>(g);
        norm[1] += static_cast<double>(value) * static_cast<double>(value);
        if (applies) {
          w[i] = g;
          dot[0] += static_cast<double>(g) * static_cast<double>(first[i]);
        }
      }
      keep_sums(norm, sums + 2 * p);
      keep_sums(dot, dots_of(0) + p);
    }
  }

  // By one warp.
  __device__ void decide() const {
    const double merit = total(sums, pieces, 2), fz_square = total(sums + 1, pieces, 2);
    if (lane_of() != 0) return;
    const Verdict now = settle(a.watch, b, merit, fz_square);
    keep(now, verdict);
    if (now.target == NOWHERE) return;
    const int n = broyden_count(a.count[b], a.window);
    const double length = n > 0 ? lengths[n - 1] : 0.0;
    const BroydenMove move =
        broyden_move(n, a.window, a.constants.line_search, length, merit, a.merit[b]);
    decided[MOVE] = move;
    decided[HELD] = n;
    decided[LENGTH] = length;
    decided[MERIT] = merit;
  }

  // Whether w waits for the factor of d_j.
  __device__ bool waits_for(int j) const {
    return kept(verdict).target != NOWHERE && how() == NEWTON && j + 1 < held();
  }

  // w += factor (d_{j+1} - (1 - length_j) d_j), with <d_{j+1}, w>.
  __device__ void apply(int j, const Share& s) const {
    T* w = d(held());
    const T* present = d(j);
    const T* next = d(j + 1);
    const double factor = total(dots_of(j), pieces, 1) / squares[j];
    const double back = factor * (1.0 - lengths[j]);
    for (int64_t p = s.warp; p < pieces; p += s.warps) {
      double dot[1] = {0.0};
      for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
        const double direction = next[i];
        double value = static_cast<double>(w[i]) + factor * direction;
        if (back != 0.0) value -= back * static_cast<double>(present[i]);
        w[i] = static_cast<T>(value);
        dot[0] += value * direction;
      }
      keep_sums(dot, dots_of(j + 1) + p);
    }
  }

  // The update of the last step, where it has a pivot and a place.
  __device__ bool updates(double* keep, double* turn) const {
    if (how() != NEWTON) return false;
    const int newest = held() - 1;
    const double dot = total(dots_of(newest), pieces, 1);
    return broyden_update(squares[newest], dot, decided[LENGTH], keep, turn);
  }

  // How much of the last direction is taken back, where its step is shortened.
  __device__ double less() const { return how() == BACK ? decided[LENGTH] : 0.5 * decided[LENGTH]; }

  // Saves what the verdict says, then the next state and its direction, with its square.
  __device__ void finish(const Share& s) const {
    const Verdict now = kept(verdict);
    T* best = a.watch.progress ? a.watch.best + b * a.size : out;
    if (now.save_before || now.save_here) {
      for (int64_t p = s.warp; p < pieces; p += s.warps) {
        for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
          best[i] = now.save_here ? z[i] : out[i];
        }
      }
    }
    if (now.target == NOWHERE) return;
    T* to = now.target == BEST ? best : out;
    const int n = held();
    const T* last = d(n > 0 ? n - 1 : 0);
    if (how() == SHORTEN || how() == BACK) {
      const Real<T> shorter = static_cast<Real<T>>(less());
      for (int64_t p = s.warp; p < pieces; p += s.warps) {
        for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
          to[i] = z[i] - shorter * last[i];
        }
      }
      return;
    }
    double keep = 0.0, turn = 0.0;
    const bool has_pivot = updates(&keep, &turn);
    T* w = d(has_pivot ? n : 0);
    for (int64_t p = s.warp; p < pieces; p += s.warps) {
      double square[1] = {0.0};
      for (int64_t i = p * PIECE + lane_of(); i < end_of(p, a.size); i += WARP) {
        if (has_pivot) {
          double value = keep * static_cast<double>(w[i]);
          if (turn != 0.0) value -= turn * static_cast<double>(last[i]);
          const T direction = static_cast<T>(value);
          w[i] = direction;
          to[i] = z[i] + direction;
          square[0] += static_cast<double>(direction) * static_cast<double>(direction);
        } else {
          const T value = fz[i];
          w[i] = value - z[i];
          to[i] = value;
        }
      }
      keep_sums(square, sums + 2 * p);
    }
  }

  // By one warp: the numbers that the row keeps.
  __device__ void close() const {
    if (kept(verdict).target == NOWHERE) return;
    const int n = held();
    if (how() == SHORTEN || how() == BACK) {
      if (lane_of() != 0) return;
      lengths[n - 1] = decided[LENGTH] - less();
      a.count[b] = how() == BACK ? 0 : n;
      return;
    }
    double keep, turn;
    const bool has_pivot = updates(&keep, &turn);
    const double square = total(sums, pieces, 2);
    if (lane_of() != 0) return;
    const int slot = has_pivot ? n : 0;
    squares[slot] = has_pivot ? square : decided[MERIT];
    lengths[slot] = 1.0;
    a.count[b] = slot + 1;
    a.merit[b] = decided[MERIT];
  }
};

template <typename T>
__global__ void __launch_bounds__(WIDE) broyden(BroydenStep<T> a) {
  const Share s = share_of(1);
  if (has_ended(a.watch, s.row)) return;
  const Row<T> row(a, s.row);
  row.begin(s);
  __syncthreads();  // all sums are there before one warp adds them up
  if (s.warp == 0) row.decide();
  __syncthreads();  // what is decided is there before anybody acts on it
  for (int j = 0; row.waits_for(j); ++j) {
    row.apply(j, s);
    __syncthreads();  // and the sums that the next factor needs
  }
  row.finish(s);
  __syncthreads();  // everybody has read the row's numbers before they change
  if (s.warp == 0) row.close();
}

template <typename T>
__global__ void spread_begin(BroydenStep<T> a, int64_t blocks) {
  const Share s = share_of(blocks);
  if (!has_ended(a.watch, s.row)) Row<T>(a, s.row).begin(s);
}

template <typename T>
__global__ void spread_decide(BroydenStep<T> a) {
  const int64_t b = blockIdx.x;
  const Row<T> row(a, b);
  if (!has_ended(a.watch, b)) {
    row.decide();
  } else if (lane_of() == 0) {
    keep(nothing_to_do(), row.verdict);
  }
}

template <typename T>
__global__ void spread_apply(BroydenStep<T> a, int64_t blocks, int j) {
  const Share s = share_of(blocks);
  const Row<T> row(a, s.row);
  if (row.waits_for(j)) row.apply(j, s);
}

template <typename T>
__global__ void spread_finish(BroydenStep<T> a, int64_t blocks) {
  const Share s = share_of(blocks);
  Row<T>(a, s.row).finish(s);
}

template <typename T>
__global__ void spread_close(BroydenStep<T> a) {
  Row<T>(a, blockIdx.x).close();
}

template <typename T>
const char* compute(const BroydenStep<T>& a, const Launch& launch) {
  const int64_t blocks = blocks_per_row(launch, a.rows, a.size), all = a.rows * blocks;
  if (blocks == 1) return run_blocks(launch, a.rows, threads_of(a.size), 0, broyden<T>, a);
  const char* fault = run_blocks(launch, all, THREADS, 0, spread_begin<T>, a, blocks);
  if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_decide<T>, a);
  // A window that is full has no place for a direction, so that H is not applied.
  for (int j = 0; j + 2 < a.window && !fault; ++j) {
    fault = run_blocks(launch, all, THREADS, 0, spread_apply<T>, a, blocks, j);
  }
  if (!fault) fault = run_blocks(launch, all, THREADS, 0, spread_finish<T>, a, blocks);
  if (!fault) fault = run_blocks(launch, a.rows, WARP, 0, spread_close<T>, a);
  return fault;
}

}  // namespace

int64_t broyden_workspace(int, int64_t size) { return Row<double>::doubles(size); }

DEQCERT_DEFINE(BroydenStep)

}  // namespace cuda
}  // namespace deqcert
