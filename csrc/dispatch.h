// The ways to run the kernels, as tables of functions, and the choice between them.
#pragma once

#include <tuple>

#include "kernels.h"

namespace deqcert {

// The kernels for one type of states.
template <typename T>
struct Kernels {
  const char* (*residual_norms)(const ResidualNorms<T>&, const Launch&);
  const char* (*anderson_step)(const AndersonStep<T>&, const Launch&);
  const char* (*picard_step)(const PicardStep<T>&, const Launch&);
  const char* (*broyden_step)(const BroydenStep<T>&, const Launch&);
};

struct Way {
  const char* name;
  int64_t (*picard_workspace)(int64_t);
  int64_t (*anderson_workspace)(int, int64_t);
  int64_t (*broyden_workspace)(int64_t);
  const char* (*philox_normal)(const PhiloxNormal&, const Launch&);
  std::tuple<Kernels<float>, Kernels<double>, Kernels<bfloat16>> kernels;

  template <typename T>
  const Kernels<T>& of() const {
    return std::get<Kernels<T>>(kernels);
  }
};

// The instruction sets that this processor has, best first; returns how many.
int cpu_ways(const Way** ways);

// nullptr where the CUDA kernels were not built.
const Way* cuda_way();

}  // namespace deqcert
