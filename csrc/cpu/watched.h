// A row under watch: judged once its norms are known, its answer and its best state kept.
#pragma once

#include "../watch.h"
#include "simd.h"

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

// Judges the row and keeps its answer or its best state; returns where its next state goes.
template <typename T>
Target settle(const Watch<T>& watch, int64_t b, int64_t size, const T* z, const T* out,
              double g_square, double fz_square) {
  if (!watch.progress) return OUT;
  const Verdict verdict =
      judge(watch.progress + b * WATCH_COLUMNS, watch.rule, g_square, fz_square);
  T* best = watch.best + b * size;
  if (verdict.save_before) memcpy(best, out, size * sizeof(T));
  if (verdict.save_here) memcpy(best, z, size * sizeof(T));
  return verdict.target;
}

}  // namespace
}  // namespace DEQCERT_ISA
}  // namespace deqcert
