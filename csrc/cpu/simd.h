// Vector types and sums for one instruction set. Every file under cpu/ is compiled once for each
// set, with DEQCERT_WAY naming its namespace and DEQCERT_WIDTH the doubles in a register. All sums
// run over SUM_LANES interleaved lanes that are combined in one order and no product is fused into
// a sum, so every instruction set gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "../kernels.h"

namespace deqcert {
namespace DEQCERT_WAY {
namespace {

constexpr int SUM_LANES = 16;
constexpr int WIDTH = DEQCERT_WIDTH;
constexpr int REGISTERS = SUM_LANES / WIDTH;

// States are worked on in chunks of this many elements: short enough that the residual of a chunk
// stays in the first-level cache as float64, and fixed, so that sums do not depend on threads.
constexpr int64_t CHUNK = 2048;

typedef double Doubles __attribute__((vector_size(8 * DEQCERT_WIDTH)));
typedef float Floats __attribute__((vector_size(4 * DEQCERT_WIDTH)));

inline Doubles load(const double* p) {
  Doubles v;
  memcpy(&v, p, sizeof v);
  return v;
}

inline Doubles load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Doubles);
}

inline void store(double* p, Doubles v) { memcpy(p, &v, sizeof v); }

inline void store(float* p, Doubles v) {
  const Floats narrow = __builtin_convertvector(v, Floats);
  memcpy(p, &narrow, sizeof narrow);
}

inline int64_t chunks_of(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

inline double combine(double* lanes) {
  for (int half = SUM_LANES / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// sum_i x_i y_i; float32 products are exact in float64.
template <typename X, typename Y>
double dot(const X* x, const Y* y, int64_t n) {
  Doubles sum[REGISTERS] = {};
  int64_t i = 0;
  for (; i + SUM_LANES <= n; i += SUM_LANES) {
    for (int r = 0; r < REGISTERS; ++r) {
      sum[r] += load(x + i + r * WIDTH) * load(y + i + r * WIDTH);
    }
  }
  double lanes[SUM_LANES];
  for (int r = 0; r < REGISTERS; ++r) store(lanes + r * WIDTH, sum[r]);
  for (int l = 0; i + l < n; ++l) {
    lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(y[i + l]);
  }
  return combine(lanes);
}

}  // namespace
}  // namespace DEQCERT_WAY
}  // namespace deqcert
