// The Anderson step: one pass over the residual window for the new row of the Gram matrix, a small
// solve, one pass over the state window for the mix.
#include "../anderson_math.h"
#include "parallel.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_WAY {
namespace {

// What a row keeps between its passes, in the workspace.
template <typename T>
struct Row {
  const AndersonStep<T>& a;
  int64_t b;
  double *weights, *restart, *scratch, *partial;  // partial: (chunks, window)

  static int64_t doubles(int window, int64_t size) {
    return window + 1 + anderson_scratch(window) + chunks_of(size) * window;
  }

  Row(const AndersonStep<T>& step, int64_t row) : a(step), b(row) {
    weights = a.workspace + b * doubles(a.window, a.size);
    restart = weights + a.window;
    scratch = restart + 1;
    partial = scratch + anderson_scratch(a.window);
  }

  T* f(int slot) const { return a.window_f + b * a.window_stride + slot * a.slot_stride; }
  T* g(int slot) const { return a.window_g + b * a.window_stride + slot * a.slot_stride; }

  // Stores a chunk of the new state and residual, and its share of the new inner products.
  void take(int64_t chunk) const {
    const int64_t low = chunk * CHUNK;
    const int64_t n = a.size - low < CHUNK ? a.size - low : CHUNK;
    const int s = anderson_slot(a.count[b], a.window);
    const int filled = anderson_filled(a.count[b], a.window);
    const T* z = a.z + b * a.z_stride + low;
    const T* fz = a.fz + b * a.fz_stride + low;
    T* to_f = f(s) + low;
    T* to_g = g(s) + low;
    alignas(64) double residual[CHUNK];
    for (int64_t i = 0; i < n; ++i) {
      const T value = fz[i];
      const T difference = value - z[i];
      to_f[i] = value;
      to_g[i] = difference;
      residual[i] = static_cast<double>(difference);
    }
    double* sums = partial + chunk * a.window;
    for (int j = 0; j < filled; ++j) {
      sums[j] = j == s ? dot(residual, residual, n) : dot(residual, g(j) + low, n);
    }
  }

  void decide() const {
    const int filled = anderson_filled(a.count[b], a.window);
    double* dots = partial;  // the first chunk's sums become the row's
    for (int64_t chunk = 1; chunk < chunks_of(a.size); ++chunk) {
      for (int j = 0; j < filled; ++j) dots[j] += partial[chunk * a.window + j];
    }
    const AndersonRule rule = {a.ridge, a.growth, a.max_weight};
    double* gram = a.gram + b * a.window * a.window;
    *restart = anderson_decide(gram, a.window, a.count + b, dots, rule, scratch, weights);
  }

  void mix(int64_t chunk) const {
    const int64_t low = chunk * CHUNK;
    const int64_t n = a.size - low < CHUNK ? a.size - low : CHUNK;
    const T *from_f[MAX_WINDOW], *from_g[MAX_WINDOW];
    double weight[MAX_WINDOW];
    int terms = 0;
    // A slot of weight zero may hold anything and must not be touched by 0 * NaN.
    for (int j = 0; j < a.window; ++j) {
      if (weights[j] == 0.0) continue;
      from_f[terms] = f(j) + low;
      from_g[terms] = g(j) + low;
      weight[terms++] = weights[j];
    }
    T* out = a.out + b * a.out_stride + low;
    if (a.damping == 1.0) {
      blend<false>(terms, weight, from_f, from_g, n, out);
    } else {
      blend<true>(terms, weight, from_f, from_g, n, out);
    }
    if (*restart > 0.0) {
      const int best = static_cast<int>(*restart);
      memcpy(f(0) + low, f(best) + low, n * sizeof(T));
      memcpy(g(0) + low, g(best) + low, n * sizeof(T));
    }
  }

  // out_i = sum_t weight_t (f_t,i - (1 - damping) g_t,i), in float64, rounded once.
  template <bool Damped>
  void blend(int terms, const double* weight, const T* const* from_f, const T* const* from_g,
             int64_t n, T* out) const {
    const double rest = 1.0 - a.damping;
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
const char* run(const AndersonStep<T>& a, const Launch& launch) {
  const int64_t chunks = chunks_of(a.size);
  const int threads = useful_threads(launch.threads, a.rows * a.size);
  if (a.rows >= threads) {
    // Whole rows: the second pass finds what the first has left in the cache.
    parallel(a.rows, threads, [&](int64_t b) {
      const Row<T> row(a, b);
      for (int64_t c = 0; c < chunks; ++c) row.take(c);
      row.decide();
      for (int64_t c = 0; c < chunks; ++c) row.mix(c);
    });
  } else {
    // Fewer rows than threads: the same chunks, dealt out one by one.
    parallel(a.rows * chunks, threads, [&](int64_t i) { Row<T>(a, i / chunks).take(i % chunks); });
    for (int64_t b = 0; b < a.rows; ++b) Row<T>(a, b).decide();
    parallel(a.rows * chunks, threads, [&](int64_t i) { Row<T>(a, i / chunks).mix(i % chunks); });
  }
  return nullptr;
}

}  // namespace

int64_t anderson_workspace(int64_t rows, int window, int64_t size) {
  return rows * Row<double>::doubles(window, size);
}

const char* anderson_step(const AndersonStep<float>& a, const Launch& launch) {
  return run(a, launch);
}

const char* anderson_step(const AndersonStep<double>& a, const Launch& launch) {
  return run(a, launch);
}

}  // namespace DEQCERT_WAY
}  // namespace deqcert
