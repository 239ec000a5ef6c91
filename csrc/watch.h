// What a solve keeps of a row between evaluations, and the judgement of one evaluation: the same
// arithmetic on every device, mirrored in deqcert/kernels/watch.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "portable.h"
#include "step.h"

namespace deqcert {

// Columns of Watch::progress, mirrored in deqcert/kernels/watch.py.
enum Column { RESIDUAL, SCALE, NFE, WAITED, STATUS, FRESH };
// Values of STATUS, mirrored in deqcert/solvers/result.py.
enum RowStatus { RUNNING = -1, CONVERGED, MAX_NFE, STALLED, DIVERGED, NONFINITE };

// Where the next state of a row goes.
enum Target { NOWHERE, OUT, BEST };

template <typename T>
DEQCERT_SHARED bool has_ended(const Watch<T>& watch, int64_t b) {
  return watch.progress && watch.progress[b * WATCH_COLUMNS + STATUS] >= 0.0;
}

// What is to be done with a row after an evaluation.
struct Verdict {
  bool save_before;  // the best state is the one evaluated before, and is about to be lost
  bool save_here;    // the answer is the state evaluated
  Target target;     // of the next state, which is the answer where that is BEST
};

DEQCERT_SHARED Verdict judge(double* row, const StopRule& rule, double g_square, double fz_square) {
  Verdict verdict = {false, false, OUT};
  const double nfe = row[NFE] += 1.0;
  const bool finite = is_finite(g_square) && is_finite(fz_square);
  const bool fixed_depth = rule.tol == 0.0;
  double status = nfe >= rule.max_nfe ? MAX_NFE : RUNNING;
  if (!finite) status = NONFINITE;
  if (!fixed_depth) {
    const double size = sqrt(g_square), length = sqrt(fz_square);
    const double residual = rule.relative ? size / (length < 1e-300 ? 1e-300 : length) : size;
    if (nfe == 1.0) row[SCALE] = size > length ? size : length;
    const bool better = finite && residual < row[RESIDUAL];
    verdict.save_before = row[FRESH] != 0.0 && !better;
    row[FRESH] = better ? 1.0 : 0.0;
    row[WAITED] = better ? 0.0 : row[WAITED] + 1.0;
    if (better) row[RESIDUAL] = residual;
    if (finite) {
      if (row[WAITED] >= rule.patience) status = STALLED;
      if (size > rule.divergence * row[SCALE]) status = DIVERGED;
      if (residual <= rule.tol) status = CONVERGED;
    }
  }
  row[STATUS] = status;
  if (status != RUNNING) {
    verdict.target = fixed_depth && finite ? BEST : NOWHERE;
    // A row that was not finite at once has no best state; it keeps its start.
    verdict.save_here = fixed_depth ? !finite : row[FRESH] != 0.0 || row[RESIDUAL] == HUGE_VAL;
  }
  return verdict;
}

}  // namespace deqcert
