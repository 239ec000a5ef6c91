// What the steps of all solvers are given. Nothing here knows Python, torch or any allocator: raw
// pointers to packed arrays, 64-bit sizes, and workspace that the caller brings.
#pragma once

#include <cstdint>

#include "bfloat16.h"

namespace deqcert {

// Where and how a kernel runs. The CPU looks at threads, CUDA at device and stream.
struct Launch {
  int threads;
  int device;
  void* stream;
};

// When a row ends. A tolerance of 0 asks for exactly max_nfe evaluations.
struct StopRule {
  double tol;
  bool relative;
  double max_nfe, divergence, patience;
};

constexpr int WATCH_COLUMNS = 6;  // watch.h says which

// The rows of a solve between evaluations. A step that is given one judges every row first: a row
// that has ended is left alone, one that ends leaves its answer in best. The out of such a step
// holds the states evaluated before, which are saved to best where they would be lost.
template <typename T>
struct Watch {
  double* progress;  // (rows, WATCH_COLUMNS); nullptr: nobody watches
  T* best;           // (rows, size)
  StopRule rule;
};

// What every step has. A method adds the arrays that it keeps and its constants, the longest window
// that it may have, and read(), which names them all to whoever fills them in.
template <typename T>
struct Step {
  int64_t rows, size;
  int window;         // states that the method remembers; 1 where it remembers none
  const T *z, *fz;    // (rows, size)
  T* out;             // (rows, size)
  double* workspace;  // (rows, what the method's workspace function says)
  Watch<T> watch;
};

// Extents of the arrays that a method keeps.
enum Extent { ROWS, WINDOW, SIZE };

}  // namespace deqcert
