// Every kernel, declared once, for states of float, double and bfloat16. Nothing here knows Python,
// torch or any allocator: raw pointers, 64-bit sizes, a stride (in elements) between rows, and
// workspace that the caller brings.
#pragma once

#include <cstdint>

#include "bfloat16.h"

namespace deqcert {

// Longest Anderson window; bounds the shared memory of the small solve on a GPU.
constexpr int MAX_WINDOW = 64;

// Most directions of Broyden's method: a bound on what a caller may ask for by mistake.
constexpr int MAX_DIRECTIONS = 1024;

// Where and how a kernel runs. The CPU looks at threads, CUDA at device and stream.
struct Launch {
  int threads;
  int device;
  void* stream;
};

// When a row ends. A tolerance of 0 asks for exactly max_nfe evaluations.
struct Rule {
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
  double* progress;  // (rows, WATCH_COLUMNS), packed; nullptr: nobody watches
  T* best;           // (rows, size)
  int64_t best_stride;
  Rule rule;
};

// residual[b] = ||fz_b - z_b||^2 and norm[b] = ||fz_b||^2, accumulated in float64.
template <typename T>
struct ResidualNorms {
  int64_t rows, size;
  const T* z;
  int64_t z_stride;
  const T* fz;
  int64_t fz_stride;
  double* residual;
  double* norm;
};

// out = z + damping (fz - z).
template <typename T>
struct PicardStep {
  int64_t rows, size;
  const T* z;
  int64_t z_stride;
  const T* fz;
  int64_t fz_stride;
  T* out;
  int64_t out_stride;
  double damping;
  double* workspace;  // picard_workspace() doubles
  Watch<T> watch;
};

// One step of Broyden's method a row; deqcert/kernels/ says what it does.
// directions is (rows, window, size); squares and lengths are (rows, window), packed.
// out may be z, not fz; nothing else may overlap.
template <typename T>
struct BroydenStep {
  int64_t rows, size;
  int window;
  const T* z;
  int64_t z_stride;
  const T* fz;
  int64_t fz_stride;
  T* directions;
  int64_t window_stride;  // between rows
  int64_t slot_stride;    // between the slots of a row
  double* squares;
  double* lengths;
  double* merit;
  int32_t* count;
  T* out;
  int64_t out_stride;
  bool line_search;
  double* workspace;  // broyden_workspace() doubles
  Watch<T> watch;
};

// One safeguarded type II Anderson step a row; deqcert/kernels/ says what it does.
// The windows are (rows, window, size); gram is (rows, window, window), packed.
// out may be z or fz; nothing else may overlap.
template <typename T>
struct AndersonStep {
  int64_t rows, size;
  int window;
  const T* z;
  int64_t z_stride;
  const T* fz;
  int64_t fz_stride;
  T* window_f;
  T* window_g;
  int64_t window_stride;  // between rows, both windows
  int64_t slot_stride;    // between the slots of a row, both windows
  double* gram;
  int32_t* count;
  T* out;
  int64_t out_stride;
  double damping, ridge, growth, max_weight;
  double* workspace;  // anderson_workspace() doubles
  Watch<T> watch;
};

// (n, d) standard normals, element by element a function of the counter alone (see philox.h).
struct PhiloxNormal {
  int64_t n, d;
  float* out;
  int64_t out_stride;
  uint64_t seed;
  uint32_t image, stage, first;
};

// The same set of kernels for each way to run them. They return nullptr, or what went wrong.
// The workspaces are numbers of doubles for each row.
#define DEQCERT_DECLARE_KERNELS(way)                                                  \
  namespace way {                                                                     \
  int64_t picard_workspace(int64_t size);                                             \
  int64_t anderson_workspace(int window, int64_t size);                               \
  int64_t broyden_workspace(int64_t size);                                            \
  const char* residual_norms(const ResidualNorms<float>& a, const Launch& launch);    \
  const char* residual_norms(const ResidualNorms<double>& a, const Launch& launch);   \
  const char* residual_norms(const ResidualNorms<bfloat16>& a, const Launch& launch); \
  const char* anderson_step(const AndersonStep<float>& a, const Launch& launch);      \
  const char* anderson_step(const AndersonStep<double>& a, const Launch& launch);     \
  const char* anderson_step(const AndersonStep<bfloat16>& a, const Launch& launch);   \
  const char* picard_step(const PicardStep<float>& a, const Launch& launch);          \
  const char* picard_step(const PicardStep<double>& a, const Launch& launch);         \
  const char* picard_step(const PicardStep<bfloat16>& a, const Launch& launch);       \
  const char* broyden_step(const BroydenStep<float>& a, const Launch& launch);        \
  const char* broyden_step(const BroydenStep<double>& a, const Launch& launch);       \
  const char* broyden_step(const BroydenStep<bfloat16>& a, const Launch& launch);     \
  const char* philox_normal(const PhiloxNormal& a, const Launch& launch);             \
  }

DEQCERT_DECLARE_KERNELS(portable)
#ifdef DEQCERT_X86
DEQCERT_DECLARE_KERNELS(avx2)
DEQCERT_DECLARE_KERNELS(avx512)
#endif
#ifdef DEQCERT_CUDA
DEQCERT_DECLARE_KERNELS(cuda)
#endif

#undef DEQCERT_DECLARE_KERNELS

}  // namespace deqcert
