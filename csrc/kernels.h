// Every kernel, declared once, for every instruction set and for states of float, double and
// bfloat16. A kernel is run(arguments, launch), told apart by its arguments; it returns nullptr, or
// what went wrong.
#pragma once

#include <cstdint>

#include "anderson.h"
#include "block.h"
#include "broyden.h"
#include "grid.h"
#include "picard.h"

// The steps of the solvers: the method's name and the type of its arguments.
#define DEQCERT_STEPS(X, isa)    \
  X(anderson, AndersonStep, isa) \
  X(broyden, BroydenStep, isa)   \
  X(picard, PicardStep, isa)

// These and the other kernels that take states.
#define DEQCERT_KERNELS(X, isa) \
  DEQCERT_STEPS(X, isa)         \
  X(residual, ResidualNorms, isa)

namespace deqcert {

// residual[b] = ||fz_b - z_b||^2 and norm[b] = ||fz_b||^2, accumulated in float64.
template <typename T>
struct ResidualNorms {
  int64_t rows, size;
  const T *z, *fz;  // (rows, size)
  double *residual, *norm;
  double* workspace;  // (rows, what residual_workspace says)
};

// (n, d) standard normals, element by element a function of the counter alone (see philox.h).
struct PhiloxNormal {
  int64_t n, d;
  float* out;
  uint64_t seed;
  uint32_t index, stage, first;
};

// (n, d) grid points: those of an input plus exact noise, also a function of the counter alone.
struct PhiloxGrid {
  int64_t n, d;
  float* out;
  const int32_t* x;  // (d): the input, in steps of the grid
  GridTable table;
  int32_t lowest;  // noise that is below all thresholds, in steps of the grid
  uint64_t seed;
  uint32_t index, stage, first;
};

// A kernel's workspace function says how many doubles of workspace a row needs.
#define DEQCERT_DECLARE_WORKSPACE(name, Args, isa) \
  int64_t name##_workspace(int window, int64_t size);
#define DEQCERT_DECLARE_RUN(name, Args, isa)                    \
  const char* run(const Args<float>& a, const Launch& launch);  \
  const char* run(const Args<double>& a, const Launch& launch); \
  const char* run(const Args<bfloat16>& a, const Launch& launch);
#define DEQCERT_DECLARE_ISA(isa)                                \
  namespace isa {                                               \
  DEQCERT_KERNELS(DEQCERT_DECLARE_WORKSPACE, isa)               \
  DEQCERT_KERNELS(DEQCERT_DECLARE_RUN, isa)                     \
  const char* run(const PhiloxNormal& a, const Launch& launch); \
  const char* run(const PhiloxGrid& a, const Launch& launch);   \
  }

// What only processors compute.
#define DEQCERT_DECLARE_CPU(isa)                                 \
  DEQCERT_DECLARE_ISA(isa)                                       \
  namespace isa {                                                \
  const char* run(const ResidualBlock& a, const Launch& launch); \
  }

DEQCERT_DECLARE_CPU(portable)
#ifdef DEQCERT_X86
DEQCERT_DECLARE_CPU(avx2)
DEQCERT_DECLARE_CPU(avx512)
#endif
#if defined(DEQCERT_CUDA) || defined(DEQCERT_EMULATED)
DEQCERT_DECLARE_ISA(cuda)
namespace cuda {
// Why this binary cannot run on a GPU, or nullptr.
const char* fault(int device);
}  // namespace cuda
#endif

#undef DEQCERT_DECLARE_WORKSPACE
#undef DEQCERT_DECLARE_RUN
#undef DEQCERT_DECLARE_ISA
#undef DEQCERT_DECLARE_CPU

// Defines run() for every type of states by the template compute() of the same file.
#define DEQCERT_DEFINE(Args)                                                                  \
  const char* run(const Args<float>& a, const Launch& launch) { return compute(a, launch); }  \
  const char* run(const Args<double>& a, const Launch& launch) { return compute(a, launch); } \
  const char* run(const Args<bfloat16>& a, const Launch& launch) { return compute(a, launch); }

}  // namespace deqcert
