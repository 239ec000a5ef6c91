#include "dispatch.h"

namespace deqcert {
namespace {

#define DEQCERT_RUN(name, Args, isa) isa::run, isa::run, isa::run,
#define DEQCERT_WORKSPACE(name, Args, isa) {#name, isa::name##_workspace},
#define DEQCERT_TABLE(NAME, isa, cpu)                                              \
  const Workspace NAME##_WORKSPACES[] = {                                          \
      DEQCERT_KERNELS(DEQCERT_WORKSPACE, isa){nullptr, nullptr}};                  \
  const Runs NAME##_RUNS = {DEQCERT_KERNELS(DEQCERT_RUN, isa) isa::run, isa::run}; \
  const InstructionSet NAME = {#isa, NAME##_RUNS, NAME##_WORKSPACES, cpu::run};

// The last says whose kernels compute what only processors do.
DEQCERT_TABLE(PORTABLE, portable, portable)
#ifdef DEQCERT_X86
DEQCERT_TABLE(AVX2, avx2, avx2)
DEQCERT_TABLE(AVX512, avx512, avx512)
#endif
#if defined(DEQCERT_CUDA) || defined(DEQCERT_EMULATED)
DEQCERT_TABLE(CUDA, cuda, portable)
#endif

}  // namespace

int cpu_isas(const InstructionSet** isas) {
  int n = 0;
#ifdef DEQCERT_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    isas[n++] = &AVX512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas[n++] = &AVX2;
#endif
  isas[n++] = &PORTABLE;
#ifdef DEQCERT_EMULATED
  isas[n++] = &CUDA;
#endif
  return n;
}

const InstructionSet* cuda_isa() {
#ifdef DEQCERT_CUDA
  return &CUDA;
#else
  return nullptr;
#endif
}

}  // namespace deqcert
