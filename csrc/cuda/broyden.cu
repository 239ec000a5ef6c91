// Broyden's step in one launch: one block of threads per row applies the factors of H one after the
// other. A thread always works on the same elements, so that only the sums need a barrier.
#include "../broyden.h"
#include "watched.h"

namespace deqcert {
namespace cuda {
namespace {

constexpr int WIDE = 1024;

template <typename T>
__global__ void __launch_bounds__(WIDE) broyden(BroydenStep<T> a) {
  __shared__ Shared<double> sums[3][32];
  __shared__ Shared<Verdict> settled;
  const int64_t b = blockIdx.x;
  if (has_ended(a.watch, b)) return;
  const T* z = a.z + b * a.size;
  const T* fz = a.fz + b * a.size;
  T* out = a.out + b * a.size;
  T* best = a.watch.progress ? a.watch.best + b * a.size : out;
  T* directions = a.directions + b * a.window * a.size;
  double* squares = a.squares + b * a.window;
  double* lengths = a.lengths + b * a.window;
  const int n = broyden_count(a.count[b], a.window);
  const bool applies = n > 0 && n < a.window;
  T* w = directions + static_cast<int64_t>(n) * a.size;  // used only where it applies

  double norm[3] = {0.0, 0.0, 0.0};
  for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
    const T value = fz[i];
    const T g = value - z[i];
    norm[0] += static_cast<double>(g) * static_cast<double>(g);
    norm[1] += static_cast<double>(value) * static_cast<double>(value);
    if (applies) {
      w[i] = g;
      norm[2] += static_cast<double>(g) * static_cast<double>(directions[i]);
    }
  }
  block_sums(norm, sums);
  if (threadIdx.x == 0) settled = settle(a.watch, b, norm[0], norm[1]);
  __syncthreads();
  const Verdict now = settled;
  for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
    if (now.save_before) best[i] = out[i];
    if (now.save_here) best[i] = z[i];
  }
  if (now.target == NOWHERE) return;
  if (now.target == BEST) out = best;

  const double merit = norm[0], length = n > 0 ? lengths[n - 1] : 0.0;
  const BroydenMove move =
      broyden_move(n, a.window, a.constants.line_search, length, merit, a.merit[b]);
  const T* last = directions + static_cast<int64_t>(n > 0 ? n - 1 : 0) * a.size;
  __syncthreads();  // everybody has read the row's numbers before one thread changes them
  if (move == SHORTEN || move == BACK) {
    const double less = move == BACK ? length : 0.5 * length;
    const Real<T> shorter = static_cast<Real<T>>(less);
    for (int64_t i = threadIdx.x; i < a.size; i += WIDE) out[i] = z[i] - shorter * last[i];
    if (threadIdx.x == 0) {
      lengths[n - 1] = length - less;
      a.count[b] = move == BACK ? 0 : n;
    }
    return;
  }
  double keep = 0.0, turn = 0.0;
  bool updates = false;
  if (move == NEWTON) {
    double dot[1] = {norm[2]};
    for (int j = 0; j + 1 < n; ++j) {
      const T* present = directions + static_cast<int64_t>(j) * a.size;
      const T* next = present + a.size;
      const double factor = dot[0] / squares[j];
      const double back = factor * (1.0 - lengths[j]);
      dot[0] = 0.0;
      for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
        const double direction = next[i];
        double value = static_cast<double>(w[i]) + factor * direction;
        if (back != 0.0) value -= back * static_cast<double>(present[i]);
        w[i] = static_cast<T>(value);
        dot[0] += value * direction;
      }
      block_sums(dot, sums);
    }
    updates = broyden_update(squares[n - 1], dot[0], length, &keep, &turn);
  }
  double square[1] = {0.0};
  for (int64_t i = threadIdx.x; i < a.size; i += WIDE) {
    if (updates) {
      double value = keep * static_cast<double>(w[i]);
      if (turn != 0.0) value -= turn * static_cast<double>(last[i]);
      const T direction = static_cast<T>(value);
      w[i] = direction;
      out[i] = z[i] + direction;
      square[0] += static_cast<double>(direction) * static_cast<double>(direction);
    } else {
      const T value = fz[i];
      directions[i] = value - z[i];
      out[i] = value;
    }
  }
  block_sums(square, sums);
  if (threadIdx.x == 0) {
    const int slot = updates ? n : 0;
    squares[slot] = updates ? square[0] : merit;
    lengths[slot] = 1.0;
    a.count[b] = slot + 1;
    a.merit[b] = merit;
  }
}

template <typename T>
const char* compute(const BroydenStep<T>& a, const Launch& launch) {
  return run_blocks(launch, a.rows, WIDE, 0, broyden<T>, a);
}

}  // namespace

int64_t broyden_workspace(int, int64_t) { return 1; }

DEQCERT_DEFINE(BroydenStep)

}  // namespace cuda
}  // namespace deqcert
