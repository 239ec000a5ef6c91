// Every kernel, declared once. Nothing here knows Python, torch or any allocator: raw pointers,
// 64-bit sizes, a stride (in elements) between rows, and workspace that the caller brings.
#pragma once

#include <cstdint>

namespace deqcert {

// Longest Anderson window; bounds the shared memory of the small solve on a GPU.
constexpr int MAX_WINDOW = 64;

// Where and how a kernel runs. The CPU looks at threads, CUDA at device and stream.
struct Launch {
  int threads;
  int device;
  void* stream;
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

// One safeguarded type II Anderson step a row; deqcert/kernels.py says what it does.
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
// anderson_workspace returns a number of doubles.
#define DEQCERT_DECLARE_KERNELS(way)                                                \
  namespace way {                                                                   \
  int64_t anderson_workspace(int64_t rows, int window, int64_t size);               \
  const char* residual_norms(const ResidualNorms<float>& a, const Launch& launch);  \
  const char* residual_norms(const ResidualNorms<double>& a, const Launch& launch); \
  const char* anderson_step(const AndersonStep<float>& a, const Launch& launch);    \
  const char* anderson_step(const AndersonStep<double>& a, const Launch& launch);   \
  const char* philox_normal(const PhiloxNormal& a, const Launch& launch);           \
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
