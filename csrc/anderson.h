// The arguments of an Anderson step, and its part that is the same on every device: from the new
// inner products of one row to its mixing weights, in float64 on window-sized arrays.
// deqcert/kernels/anderson.py says what the step does.
#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"
#include "step.h"

namespace deqcert {

constexpr double DROP_COLUMN = 1e-14;  // both mirrored in deqcert/kernels/anderson.py
constexpr double DROP_PIVOT = 1e-12;

struct AndersonConstants {
  double damping, ridge, growth, max_weight;
};

// out may be z or fz; nothing else may overlap.
template <typename T>
struct AndersonStep : Step<T> {
  static constexpr int MAX_WINDOW = 64;  // bounds the shared memory of the small solve on a GPU
  T *window_f, *window_g;                // (rows, window, size)
  double* gram;                          // (rows, window, window)
  int32_t* count;                        // (rows)
  AndersonConstants constants;

  template <typename Reader>
  void read(Reader& in) {
    in.array("window_f", window_f, {ROWS, WINDOW, SIZE});
    in.array("window_g", window_g, {ROWS, WINDOW, SIZE});
    in.array("gram", gram, {ROWS, WINDOW, WINDOW});
    in.array("count", count, {ROWS});
    in.constant("damping", constants.damping);
    in.constant("ridge", constants.ridge);
    in.constant("growth", constants.growth);
    in.constant("max_weight", constants.max_weight);
  }
};

// The unknowns of the small system are the weights of the differences G_j - G_s, from the most
// recent to the oldest: the slot of the i-th.
DEQCERT_SHARED int anderson_older(int s, int i, int m) { return (s - 1 - i + m) % m; }

// Length of a difference column, which is 0 where it is dropped as rounding noise, and its
// right-hand side once it is scaled by that.
struct AndersonColumn {
  double scale, x;
};

DEQCERT_SHARED AndersonColumn anderson_column(const double* gram, int m, int s, int i) {
  const int u = anderson_older(s, i, m);
  const double g_ss = gram[s * m + s], g_us = gram[u * m + s], g_uu = gram[u * m + u];
  const double c = g_uu - g_us - g_us + g_ss;
  if (c <= DROP_COLUMN * (g_uu + g_ss)) return {0.0, 0.0};
  const double scale = sqrt(c);
  return {scale, (g_ss - g_us) / scale};
}

// What two columns have in common, of lengths that are not 0.
DEQCERT_SHARED double anderson_correlation(const double* gram, int m, int s, int i, int j,
                                           double scale_i, double scale_j) {
  const int u = anderson_older(s, i, m), v = anderson_older(s, j, m);
  const double c = gram[u * m + v] - gram[u * m + s] - gram[v * m + s] + gram[s * m + s];
  return scale_i != 0.0 && scale_j != 0.0 ? c / (scale_i * scale_j) : 0.0;
}

// Doubles of scratch that anderson_weights needs for a window of m.
DEQCERT_SHARED int64_t anderson_scratch(int m) { return static_cast<int64_t>(m) * m + 2 * m; }

// The slot that the evaluation goes to, and how many slots are filled with it. Unsigned, so that
// even a count that makes no sense stays inside the window.
DEQCERT_SHARED int anderson_slot(int32_t count, int m) {
  return static_cast<int>(static_cast<uint32_t>(count) % static_cast<uint32_t>(m));
}

DEQCERT_SHARED int anderson_filled(int32_t count, int m) {
  return static_cast<uint32_t>(count) < static_cast<uint32_t>(m) ? count + 1 : m;
}

// Weights (m) that minimise || sum_j a_j G_j || with sum_j a_j = 1 over n filled slots, newest s.
//
// The normal equations are scaled to unit diagonal, so that the ridge is relative, and solved by
// LDL^T without pivoting, where a small pivot switches its column off: of columns that depend on
// each other the oldest goes. cuda/small_system.h does the same by a warp.
DEQCERT_SHARED void anderson_weights(const double* gram, int m, int s, int n, double ridge,
                                     double* scratch, double* weights) {
  const int k_end = n - 1;
  double* a = scratch;                  // (k_end, k_end), upper triangle used
  double* x = scratch + m * m;          // right-hand side, then gamma
  double* scale = scratch + m * m + m;  // of each column; 0 says that it is switched off
  for (int j = 0; j < m; ++j) weights[j] = 0.0;
  for (int i = 0; i < k_end; ++i) {
    const AndersonColumn column = anderson_column(gram, m, s, i);
    scale[i] = column.scale;
    x[i] = column.x;
    a[i * m + i] = 1.0 + ridge;
  }
  for (int i = 0; i < k_end; ++i) {
    for (int j = i + 1; j < k_end; ++j) {
      a[i * m + j] = anderson_correlation(gram, m, s, i, j, scale[i], scale[j]);
    }
  }
  for (int k = 0; k < k_end; ++k) {
    const double pivot = a[k * m + k];
    if (pivot < DROP_PIVOT) scale[k] = 0.0;
    if (scale[k] == 0.0) continue;
    for (int i = k + 1; i < k_end; ++i) {
      const double factor = a[k * m + i] / pivot;
      x[i] -= factor * x[k];
      for (int j = i; j < k_end; ++j) a[i * m + j] -= factor * a[k * m + j];
    }
  }
  for (int k = k_end - 1; k >= 0; --k) {
    if (scale[k] == 0.0) {
      x[k] = 0.0;
      continue;
    }
    double value = x[k];
    for (int j = k + 1; j < k_end; ++j) {
      if (scale[j] != 0.0) value -= a[k * m + j] * x[j];
    }
    x[k] = value / a[k * m + k];
  }
  double total = 0.0;
  for (int k = 0; k < k_end; ++k) {
    const double gamma = scale[k] == 0.0 ? 0.0 : x[k] / scale[k];
    weights[anderson_older(s, k, m)] = gamma;
    total += gamma;
  }
  weights[s] = 1.0 - total;
}

// Takes the new inner products <g, G_j> of a row into its Gram matrix and decides the step.
//
// Returns the slot that the row restarts from (weights are 1 there; the caller moves it to slot 0
// after mixing), or -1 for an ordinary step with the weights given.
DEQCERT_SHARED int anderson_decide(double* gram, int m, int32_t* count, const double* dots,
                                   const AndersonConstants& constants, double* scratch,
                                   double* weights) {
  const int s = anderson_slot(*count, m);
  const int n = anderson_filled(*count, m);
  for (int j = 0; j < n; ++j) gram[s * m + j] = gram[j * m + s] = dots[j];

  int best = 0;
  double smallest = HUGE_VAL;  // a NaN counts as infinite
  for (int j = 0; j < n; ++j) {
    if (gram[j * m + j] < smallest) {
      smallest = gram[j * m + j];
      best = j;
    }
  }
  if (gram[s * m + s] > constants.growth * constants.growth * smallest) {
    for (int j = 0; j < m; ++j) weights[j] = j == best ? 1.0 : 0.0;
    gram[0] = gram[best * m + best];
    *count = 1;
    return best;
  }

  anderson_weights(gram, m, s, n, constants.ridge, scratch, weights);
  double size = 0.0;
  for (int j = 0; j < m; ++j) size += weights[j] < 0.0 ? -weights[j] : weights[j];
  if (!(is_finite(size) && size <= constants.max_weight)) {
    for (int j = 0; j < m; ++j) weights[j] = j == s ? 1.0 : 0.0;
  }
  *count = static_cast<int32_t>(static_cast<uint32_t>(*count) + 1);
  return -1;
}

}  // namespace deqcert
