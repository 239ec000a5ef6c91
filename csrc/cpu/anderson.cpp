// The Anderson step: one pass over the residual window for the new row of the Gram matrix, a small
// solve, one pass over the state window for the mix.
#include "../anderson.h"

#include "parallel.h"
#include "simd.h"
#include "watched.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

// What a row keeps between its passes, in the workspace.
template <typename T>
struct Row {
  const AndersonStep<T>& a;
  int64_t b;
  // partial: (chunks, window + 2), inner products and the two squared norms of a chunk
  double *weights, *restart, *target, *scratch, *partial;
  bool stream;

  static int64_t doubles(int window, int64_t size) {
    return window + 2 + anderson_scratch(window) + chunks_of(size) * (window + 2);
  }

  Row(const AndersonStep<T>& step, int64_t row, bool past_cache)
      : a(step), b(row), stream(past_cache) {
    weights = a.workspace + b * doubles(a.window, a.size);
    restart = weights + a.window;
    target = restart + 1;
    scratch = target + 1;
    partial = scratch + anderson_scratch(a.window);
  }

  T* f(int slot) const { return a.window_f + (b * a.window + slot) * a.size; }
  T* g(int slot) const { return a.window_g + (b * a.window + slot) * a.size; }

  // Stores a chunk of the new state and residual, and its share of the new inner products.
  void take(int64_t chunk) const {
    if (has_ended(a.watch, b)) return;
    const int64_t low = chunk * CHUNK, n = length_of(chunk, a.size);
    const int s = anderson_slot(a.count[b], a.window);
    const int filled = anderson_filled(a.count[b], a.window);
    const T* z = a.z + b * a.size + low;
    const T* fz = a.fz + b * a.size + low;
    alignas(64) double residual[CHUNK];
    double* sums = partial + chunk * (a.window + 2);
    split(z, fz, n, f(s) + low, g(s) + low, residual, sums + a.window);
    sums[s] = sums[a.window];
    for (int j = 0; j < filled; ++j) {
      if (j != s) sums[j] = dot(residual, g(j) + low, n);
    }
    if (stream) finish_past_cache();
  }

  void decide() const {
    *target = NOWHERE;
    if (has_ended(a.watch, b)) return;
    double* dots = partial;  // the first chunk's sums become the row's
    for (int64_t chunk = 1; chunk < chunks_of(a.size); ++chunk) {
      const double* sums = partial + chunk * (a.window + 2);
      for (int j = 0; j < a.window + 2; ++j) dots[j] += sums[j];
    }
    *target = settle(a.watch, b, a.size, a.z + b * a.size, a.out + b * a.size, dots[a.window],
                     dots[a.window + 1]);
    if (*target == NOWHERE) return;
    double* gram = a.gram + b * a.window * a.window;
    *restart = anderson_decide(gram, a.window, a.count + b, dots, a.constants, scratch, weights);
  }

  void mix(int64_t chunk) const {
    if (*target == NOWHERE) return;
    const int64_t low = chunk * CHUNK, n = length_of(chunk, a.size);
    const T *from_f[AndersonStep<T>::MAX_WINDOW], *from_g[AndersonStep<T>::MAX_WINDOW];
    double weight[AndersonStep<T>::MAX_WINDOW];
    int terms = 0;
    // A slot of weight zero may hold anything and must not be touched by 0 * NaN.
    for (int j = 0; j < a.window; ++j) {
      if (weights[j] == 0.0) continue;
      from_f[terms] = f(j) + low;
      from_g[terms] = g(j) + low;
      weight[terms++] = weights[j];
    }
    T* out = (*target == BEST ? a.watch.best + b * a.size : a.out + b * a.size);
    if (a.constants.damping == 1.0) {
      blend<false>(terms, weight, from_f, from_g, n, out + low);
    } else {
      blend<true>(terms, weight, from_f, from_g, n, out + low);
    }
    if (*restart > 0.0) {
      const int best = static_cast<int>(*restart);
      memcpy(f(0) + low, f(best) + low, n * sizeof(T));
      memcpy(g(0) + low, g(best) + low, n * sizeof(T));
    }
  }

  // Copies fz and fz - z into the windows, the difference in float64 to the scratch, and sums the
  // squares of both.
  void split(const T* z, const T* fz, int64_t n, T* to_f, T* to_g, double* residual,
             double* sums) const {
    if (stream && streamable(to_f) && streamable(to_g)) {
      split_as<true>(z, fz, n, to_f, to_g, residual, sums);
    } else {
      split_as<false>(z, fz, n, to_f, to_g, residual, sums);
    }
  }

  template <bool Stream>
  void split_as(const T* z, const T* fz, int64_t n, T* to_f, T* to_g, double* residual,
                double* sums) const {
    Doubles square[REGISTERS] = {}, fz_square[REGISTERS] = {};
    int64_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES) {
      for (int r = 0; r < REGISTERS; ++r) {
        const int64_t at = i + r * WIDTH;
        const Own<T> value = load_own(fz + at);
        const Own<T> difference = rounded<T>(value - load_own(z + at));
        put<Stream>(to_f + at, value);
        put<Stream>(to_g + at, difference);
        const Doubles wide = __builtin_convertvector(difference, Doubles);
        const Doubles wide_f = __builtin_convertvector(value, Doubles);
        store(residual + at, wide);
        square[r] += wide * wide;
        fz_square[r] += wide_f * wide_f;
      }
    }
    double lanes[2][SUM_LANES];
    for (int r = 0; r < REGISTERS; ++r) {
      store(lanes[0] + r * WIDTH, square[r]);
      store(lanes[1] + r * WIDTH, fz_square[r]);
    }
    for (int l = 0; i + l < n; ++l) {
      const T value = fz[i + l];
      const T difference = value - z[i + l];
      to_f[i + l] = value;
      to_g[i + l] = difference;
      residual[i + l] = static_cast<double>(difference);
      lanes[0][l] += residual[i + l] * residual[i + l];
      lanes[1][l] += static_cast<double>(value) * static_cast<double>(value);
    }
    sums[0] = combine(lanes[0]);
    sums[1] = combine(lanes[1]);
  }

  // out_i = sum_t weight_t (f_t,i - (1 - damping) g_t,i), in float64, rounded once.
  template <bool Damped>
  void blend(int terms, const double* weight, const T* const* from_f, const T* const* from_g,
             int64_t n, T* out) const {
    const double rest = 1.0 - a.constants.damping;
    int64_t i = 0;
    for (; i + SUM_LANES <= n; i += SUM_LANES) {
      Doubles sum[REGISTERS] = {};
      for (int t = 0; t < terms; ++t) {
        for (int r = 0; r < REGISTERS; ++r) {
          Doubles value = load(from_f[t] + i + r * WIDTH);
          if (Damped) value -= rest * load(from_g[t] + i + r * WIDTH);
          sum[r] += weight[t] * value;
        }
      }
      for (int r = 0; r < REGISTERS; ++r) store(out + i + r * WIDTH, sum[r]);
    }
    for (; i < n; ++i) {
      double sum = 0.0;
      for (int t = 0; t < terms; ++t) {
        double value = from_f[t][i];
        if (Damped) value -= rest * static_cast<double>(from_g[t][i]);
        sum += weight[t] * value;
      }
      out[i] = static_cast<T>(sum);
    }
  }
};

template <typename T>
const char* compute(const AndersonStep<T>& a, const Launch& launch) {
  const int64_t bytes = 2 * a.rows * a.window * a.size * static_cast<int64_t>(sizeof(T));
  const bool stream = past_cache(bytes);
  by_rows_or_chunks(
      a.rows, chunks_of(a.size), useful_threads(launch.threads, a.rows * a.size),
      [&](int64_t b) { return Row<T>(a, b, stream); },
      [](const Row<T>& row, int64_t c) { row.take(c); }, [](const Row<T>& row) { row.decide(); },
      [](const Row<T>& row, int64_t c) { row.mix(c); });
  return nullptr;
}

}  // namespace

int64_t anderson_workspace(int window, int64_t size) { return Row<double>::doubles(window, size); }

DEQCERT_DEFINE(AndersonStep)

}  // namespace DEQCERT_ISA
}  // namespace deqcert
