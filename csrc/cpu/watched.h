// A row under watch: judged once its norms are known, its answer and its best state kept.
#pragma once

#include "../watch.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_WAY {
namespace {

template <typename T>
bool has_ended(const Watch<T>& watch, int64_t b) {
  return watch.progress && watch.progress[b * WATCH_COLUMNS + STATUS] >= 0.0;
}

// Where the next state of a row goes.
enum Target { NOWHERE, OUT, BEST };

// Judges the row and keeps its answer or its best state; returns where its next state goes.
template <typename T>
Target settle(const Watch<T>& watch, int64_t b, int64_t size, const T* z, const T* out,
              double square, double image) {
  if (!watch.progress) return OUT;
  const Verdict verdict = judge(watch.progress + b * WATCH_COLUMNS, watch.rule, square, image);
  T* best = watch.best + b * watch.best_stride;
  if (verdict.save_before) memcpy(best, out, size * sizeof(T));
  if (verdict.save_here) memcpy(best, z, size * sizeof(T));
  return verdict.last ? BEST : verdict.step ? OUT : NOWHERE;
}

}  // namespace
}  // namespace DEQCERT_WAY
}  // namespace deqcert
