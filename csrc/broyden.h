// The arguments of a Broyden step, and its part that is the same on every device: scalars of one
// row. deqcert/kernels/broyden.py says what the step does.
//
// With s_j = lengths_j d_j the last accepted steps and d_j = -H_j g_j, Broyden's first method makes
//   H_{j+1} = (I + (d_{j+1} - (1 - lengths_j) d_j) d_j^T / ||d_j||^2) H_j,   H_0 = -I,
// so that the directions themselves are all that has to be kept (Kelley 1995, section 7.3).
#pragma once

#include <cstdint>

#include "portable.h"
#include "step.h"

namespace deqcert {

constexpr double SUFFICIENT_DECREASE = 1e-4;  // mirrored in deqcert/kernels/broyden.py
constexpr double SHORTEST_STEP = 0.0625;
constexpr double SMALLEST_PIVOT = 1e-8;

struct BroydenConstants {
  bool line_search;
};

// out may be z, not fz; nothing else may overlap.
template <typename T>
struct BroydenStep : Step<T> {
  static constexpr int MAX_WINDOW = 1024;  // a bound on what a caller may ask for by mistake
  T* directions;                           // (rows, window, size)
  double *squares, *lengths;               // (rows, window)
  double* merit;                           // (rows)
  int32_t* count;                          // (rows)
  BroydenConstants constants;

  template <typename Reader>
  void read(Reader& in) {
    in.array("directions", directions, {ROWS, WINDOW, SIZE});
    in.array("squares", squares, {ROWS, WINDOW});
    in.array("lengths", lengths, {ROWS, WINDOW});
    in.array("merit", merit, {ROWS});
    in.array("count", count, {ROWS});
    in.constant("line_search", constants.line_search);
  }
};

// What a row does with an evaluation.
enum BroydenMove {
  FROM_SCRATCH,  // d = g: the first step, and the one after the window was full
  NEWTON,        // d = -H g
  SHORTEN,       // no new direction: half as far along the last one
  BACK,          // all the way back, and forget H
};

DEQCERT_SHARED int broyden_count(int32_t count, int m) {
  return count < 0 ? 0 : (count < m ? count : m);
}

// merit: ||g||^2 at the trial; accepted: the same at the last accepted state.
DEQCERT_SHARED BroydenMove broyden_move(int n, int m, bool line_search, double length, double merit,
                                        double accepted) {
  if (n > 0 && line_search) {
    const bool enough = merit <= (1.0 - 2.0 * SUFFICIENT_DECREASE * length) * accepted;
    // After a step from scratch there is nothing to forget: the shortest is taken as it is.
    if (!enough && !(n == 1 && length <= SHORTEST_STEP)) {
      return 0.5 * length < SHORTEST_STEP ? BACK : SHORTEN;
    }
  }
  return n == 0 || n == m ? FROM_SCRATCH : NEWTON;
}

// The new direction is keep w - turn d, with w = -H g before the update, d the last direction,
// square = ||d||^2 and dot = <d, w>. False where the update has no pivot to speak of.
DEQCERT_SHARED bool broyden_update(double square, double dot, double length, double* keep,
                                   double* turn) {
  const double pivot = square - dot;
  const double magnitude = square + (dot < 0.0 ? -dot : dot);
  const double size = pivot < 0.0 ? -pivot : pivot;
  if (!(size > SMALLEST_PIVOT * magnitude)) return false;
  *keep = square / pivot;
  *turn = dot / pivot * (1.0 - length);
  return true;
}

}  // namespace deqcert
