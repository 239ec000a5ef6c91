// The small system of Anderson's step by one warp: anderson_decide and anderson_weights of
// ../anderson.h with the columns of the system over the lanes. Every element of the elimination has
// the bits that one thread would give it; the sums of the substitution and of the weights have
// another order.
#pragma once

#include "../anderson.h"
#include "sums.h"

namespace deqcert {
namespace cuda {
namespace {

// Doubles of shared memory for a window of m: the matrix and four vectors.
inline int64_t small_scratch(int m) { return static_cast<int64_t>(m) * m + 4 * m; }

// The slot of the smallest of n residuals, the first where there are several; a NaN counts as
// infinite. Every lane gets it.
__device__ inline int smallest_slot(const double* gram, int m, int n, double* smallest) {
  double value = HUGE_VAL;
  int slot = 0;
  for (int j = lane_of(); j < n; j += WARP) {
    if (gram[j * m + j] < value) {
      value = gram[j * m + j];
      slot = j;
    }
  }
  for (int step = WARP / 2; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(0xFFFFFFFFu, value, step);
    const int there = __shfl_xor_sync(0xFFFFFFFFu, slot, step);
    if (other < value || (other == value && there < slot)) {
      value = other;
      slot = there;
    }
  }
  *smallest = value;
  return slot;
}

// Weights 0 but for one.
__device__ inline void only(int slot, int m, double* weights) {
  for (int j = lane_of(); j < m; j += WARP) weights[j] = j == slot ? 1.0 : 0.0;
}

// As anderson_weights; where they are not finite or above max_weight together, the plain step's.
__device__ inline void warp_weights(const double* gram, int m, int s, int n, double ridge,
                                    double max_weight, Shared<double>* scratch, double* weights) {
  const int k_end = n - 1, lane = lane_of();
  Shared<double>* a = scratch;          // (k_end, k_end), upper triangle used
  Shared<double>* x = scratch + m * m;  // right-hand side
  Shared<double>* scale = x + m;        // of each column
  Shared<double>* factor = scale + m;   // of each row below the pivot
  Shared<double>* solution = factor + m;
  for (int j = lane; j < k_end; j += WARP) {
    const AndersonColumn column = anderson_column(gram, m, s, j);
    scale[j] = column.scale;
    x[j] = column.x;
  }
  __syncwarp();  // a column needs the scales of all before it
  for (int j = lane; j < k_end; j += WARP) {
    for (int i = 0; i < j; ++i) {
      a[i * m + j] = anderson_correlation(gram, m, s, i, j, scale[i], scale[j]);
    }
    a[j * m + j] = 1.0 + ridge;
  }
  __syncwarp();  // the first pivot

  uint64_t off = 0;  // columns that are switched off, known to every lane
  for (int k = 0; k < k_end; ++k) {
    const double pivot = a[k * m + k];
    if (scale[k] == 0.0 || pivot < DROP_PIVOT) {
      off |= uint64_t{1} << k;
      continue;
    }
    for (int j = k + 1 + lane; j < k_end; j += WARP) factor[j] = a[k * m + j] / pivot;
    __syncwarp();  // a column needs the factors of all rows above its own
    for (int j = k + 1 + lane; j < k_end; j += WARP) {
      const double above = a[k * m + j];
      x[j] = x[j] - factor[j] * x[k];
      for (int i = k + 1; i <= j; ++i) a[i * m + j] = a[i * m + j] - factor[i] * above;
    }
    __syncwarp();  // the next pivot, and the factors may be written again
  }
  for (int k = k_end - 1; k >= 0; --k) {
    if (off >> k & 1) continue;
    const double known = x[k] / a[k * m + k];
    if (lane == 0) solution[k] = known;
    for (int i = lane; i < k; i += WARP) x[i] = x[i] - a[i * m + k] * known;
    __syncwarp();  // the next unknown
  }

  double gamma[2] = {0.0, 0.0}, sum = 0.0, size = 0.0;
  for (int e = 0; e < 2; ++e) {
    const int k = lane + e * WARP;
    if (k < k_end && !(off >> k & 1)) gamma[e] = solution[k] / scale[k];
    sum += gamma[e];
    size += gamma[e] < 0.0 ? -gamma[e] : gamma[e];
  }
  const double newest = 1.0 - warp_sum(sum);
  size = warp_sum(size) + (newest < 0.0 ? -newest : newest);
  if (!(is_finite(size) && size <= max_weight)) return only(s, m, weights);
  for (int e = 0; e < 2; ++e) {
    const int k = lane + e * WARP;
    if (k < k_end) weights[anderson_older(s, k, m)] = gamma[e];
  }
  for (int j = n + lane; j < m; j += WARP) weights[j] = 0.0;  // slots that nothing fills yet
  if (lane == 0) weights[s] = newest;
}

// As anderson_decide; every lane gets the slot that the row restarts from, or -1.
__device__ inline int warp_decide(double* gram, int m, int32_t* count, const Shared<double>* dots,
                                  const AndersonConstants& constants, Shared<double>* scratch,
                                  double* weights) {
  const int32_t before = *count;
  const int s = anderson_slot(before, m), n = anderson_filled(before, m);
  for (int j = lane_of(); j < n; j += WARP) gram[s * m + j] = gram[j * m + s] = dots[j];
  __syncwarp();  // the matrix is there before other lanes read it

  double smallest;
  const double current = gram[s * m + s];
  const int best = smallest_slot(gram, m, n, &smallest);
  const bool restarts = current > constants.growth * constants.growth * smallest;
  if (restarts) {
    only(best, m, weights);
  } else {
    warp_weights(gram, m, s, n, constants.ridge, constants.max_weight, scratch, weights);
  }
  __syncwarp();  // all have read what one lane changes
  if (lane_of() == 0) {
    if (restarts) gram[0] = gram[best * m + best];
    *count = restarts ? 1 : static_cast<int32_t>(static_cast<uint32_t>(before) + 1);
  }
  return restarts ? best : -1;
}

}  // namespace
}  // namespace cuda
}  // namespace deqcert
