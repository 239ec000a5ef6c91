// A row under watch on the GPU.
#pragma once

#include "../watch.h"
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

// By one thread per row.
template <typename T>
__device__ Verdict settle(const Watch<T>& watch, int64_t b, double g_square, double fz_square) {
  if (!watch.progress) return {false, false, OUT};
  return judge(watch.progress + b * WATCH_COLUMNS, watch.rule, g_square, fz_square);
}

// A verdict in the workspace of its row, for the threads that act on it.
constexpr int VERDICT = 3;

__device__ inline void keep(const Verdict& verdict, double* where) {
  where[0] = verdict.save_before;
  where[1] = verdict.save_here;
  where[2] = verdict.target;
}

__device__ inline Verdict kept(const double* where) {
  return {where[0] != 0.0, where[1] != 0.0, static_cast<Target>(static_cast<int>(where[2]))};
}

// Of a row that had ended before.
__device__ inline Verdict nothing_to_do() { return {false, false, NOWHERE}; }

}  // namespace
}  // namespace cuda
}  // namespace deqcert
