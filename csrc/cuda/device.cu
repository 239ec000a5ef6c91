// Whether this binary runs on a GPU at all: the driver may be too old, or hold no code for it.
#include "launch.h"

namespace deqcert {
namespace cuda {
namespace {

__global__ void nothing() {}

}  // namespace

const char* fault(int device) {
  const OnDevice on(device);
  cudaError_t error = on.error();
  if (error == cudaSuccess) {
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, nothing);
  }
  cudaGetLastError();  // or the next launch would report it again
  return say(error);
}

}  // namespace cuda
}  // namespace deqcert
