// Threads over independent tasks. OpenMP, because torch brings the same runtime into the process:
// on Linux both ask the loader for libgomp.so.1, so there is one pool of threads and not two.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace deqcert {
namespace DEQCERT_ISA {
namespace {

// Below this many elements a thread costs more to wake than it saves.
constexpr int64_t WORTH_A_THREAD = 16384;

// The number of threads worth using on so many elements.
inline int useful_threads(int threads, int64_t elements) {
  const int64_t most = elements / WORTH_A_THREAD;
  if (most < threads) threads = static_cast<int>(most);
  return threads < 1 ? 1 : threads;
}

// task(i) for every 0 <= i < n, on at most so many threads.
template <typename Task>
void parallel(int64_t n, int threads, const Task& task) {
#ifdef _OPENMP
  if (threads > n) threads = static_cast<int>(n);
  if (threads > 1) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i) task(i);
}

// The two passes of a step over chunks of rows with a decision between them: whole rows where there
// are enough, so that the second pass finds what the first has left in the cache; else the same
// chunks, dealt out one by one.
template <typename MakeRow, typename First, typename Decide, typename Second>
void by_rows_or_chunks(int64_t rows, int64_t chunks, int threads, const MakeRow& make,
                       const First& first, const Decide& decide, const Second& second) {
  if (rows >= threads) {
    parallel(rows, threads, [&](int64_t b) {
      const auto row = make(b);
      for (int64_t c = 0; c < chunks; ++c) first(row, c);
      decide(row);
      for (int64_t c = 0; c < chunks; ++c) second(row, c);
    });
  } else {
    parallel(rows * chunks, threads, [&](int64_t i) { first(make(i / chunks), i % chunks); });
    for (int64_t b = 0; b < rows; ++b) decide(make(b));
    parallel(rows * chunks, threads, [&](int64_t i) { second(make(i / chunks), i % chunks); });
  }
}

}  // namespace
}  // namespace DEQCERT_ISA
}  // namespace deqcert
