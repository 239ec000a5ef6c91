// The ways to run the kernels, as tables of functions, and the choice between them.
#pragma once

#include "kernels.h"

namespace deqcert {

struct Way {
  const char* name;
  int64_t (*picard_workspace)(int64_t);
  int64_t (*anderson_workspace)(int, int64_t);
  int64_t (*broyden_workspace)(int64_t);
  const char* (*residual_norms_f32)(const ResidualNorms<float>&, const Launch&);
  const char* (*residual_norms_f64)(const ResidualNorms<double>&, const Launch&);
  const char* (*anderson_step_f32)(const AndersonStep<float>&, const Launch&);
  const char* (*anderson_step_f64)(const AndersonStep<double>&, const Launch&);
  const char* (*picard_step_f32)(const PicardStep<float>&, const Launch&);
  const char* (*picard_step_f64)(const PicardStep<double>&, const Launch&);
  const char* (*broyden_step_f32)(const BroydenStep<float>&, const Launch&);
  const char* (*broyden_step_f64)(const BroydenStep<double>&, const Launch&);
  const char* (*philox_normal)(const PhiloxNormal&, const Launch&);
};

// The instruction sets that this processor has, best first; returns how many.
int cpu_ways(const Way** ways);

// nullptr where the CUDA kernels were not built.
const Way* cuda_way();

}  // namespace deqcert
