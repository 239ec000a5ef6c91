// The kernels as one table per instruction set, CUDA being one of them, and the choice at run time.
#pragma once

#include <string>
#include <tuple>

#include "kernels.h"

namespace deqcert {

template <typename Args>
using Run = const char* (*)(const Args&, const Launch&);

#define DEQCERT_RUN(name, Args, isa) Run<Args<float>>, Run<Args<double>>, Run<Args<bfloat16>>,
typedef std::tuple<DEQCERT_KERNELS(DEQCERT_RUN, ) Run<PhiloxNormal>, Run<PhiloxGrid>> Runs;
#undef DEQCERT_RUN

struct Workspace {
  const char* kernel;
  int64_t (*doubles)(int window, int64_t size);  // per row
};

struct InstructionSet {
  const char* name;
  Runs runs;
  const Workspace* workspaces;  // ends with a kernel that is nullptr
  Run<ResidualBlock> block;

  template <typename Args>
  const char* run(const Args& args, const Launch& launch) const {
    return std::get<Run<Args>>(runs)(args, launch);
  }

  // Doubles per row; -1 for an unknown kernel.
  int64_t workspace(const std::string& kernel, int window, int64_t size) const {
    for (const Workspace* w = workspaces; w->kernel; ++w) {
      if (kernel == w->kernel) return w->doubles(window, size);
    }
    return -1;
  }
};

// The instruction sets that this processor has, best first, and emulated CUDA where it was built;
// returns how many.
constexpr int MOST_ISAS = 4;
int cpu_isas(const InstructionSet** isas);

// nullptr where the CUDA kernels were not built.
const InstructionSet* cuda_isa();

}  // namespace deqcert
