// What a solve keeps of a row between evaluations, and the judgement of one evaluation: the same
// arithmetic on every device, mirrored in deqcert/kernels/.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels.h"
#include "portable.h"

namespace deqcert {

// Columns of Watch::progress, mirrored in deqcert/kernels/.
enum Column { RESIDUAL, SCALE, NFE, WAITED, STATUS, FRESH };
// Values of STATUS, mirrored in deqcert/solvers/result.py.
enum RowStatus { RUNNING = -1, CONVERGED, MAX_NFE, STALLED, DIVERGED, NONFINITE };

// What is to be done with a row after an evaluation; a row that does not step has ended.
struct Verdict {
  bool save_before;  // the best state is the one evaluated before, and is about to be lost
  bool save_here;    // the answer is the state evaluated
  bool step;
  bool last;  // the answer is the state after this step
};

DEQCERT_SHARED Verdict judge(double* row, const Rule& rule, double square, double image) {
  Verdict verdict = {false, false, true, false};
  const double nfe = row[NFE] += 1.0;
  const bool finite = square - square == 0.0 && image - image == 0.0;
  const bool fixed_depth = rule.tol == 0.0;
  double status = nfe >= rule.max_nfe ? MAX_NFE : RUNNING;
  if (!finite) status = NONFINITE;
  if (!fixed_depth) {
    const double size = sqrt(square), length = sqrt(image);
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
    verdict.last = fixed_depth && finite;
    verdict.step = verdict.last;
    // A row that was not finite at once has no best state; it keeps its start.
    verdict.save_here = fixed_depth ? !finite : row[FRESH] != 0.0 || row[RESIDUAL] == HUGE_VAL;
  }
  return verdict;
}

}  // namespace deqcert
