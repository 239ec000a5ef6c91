// The ways to run the kernels, as tables of functions, and the choice between them.
#pragma once

#include "kernels.h"

namespace deqcert {

struct Way {
  const char* name;
  int64_t (*anderson_workspace)(int64_t, int, int64_t);
  const char* (*residual_norms_f32)(const ResidualNorms<float>&, const Launch&);
  const char* (*residual_norms_f64)(const ResidualNorms<double>&, const Launch&);
  const char* (*anderson_step_f32)(const AndersonStep<float>&, const Launch&);
  const char* (*anderson_step_f64)(const AndersonStep<double>&, const Launch&);
  const char* (*philox_normal)(const PhiloxNormal&, const Launch&);
};

// The instruction sets that this processor has, best first; returns how many.
int cpu_ways(const Way** ways);

// nullptr where the CUDA kernels were not built.
const Way* cuda_way();

}  // namespace deqcert
