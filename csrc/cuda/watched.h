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

}  // namespace
}  // namespace cuda
}  // namespace deqcert
