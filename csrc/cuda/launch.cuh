// The only place where a kernel is launched.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nnart::cuda {

// Launches kernel and says what went wrong with the launch, or null. blocks is at most 2^31 - 1.
template <class... Parameters, class... Arguments>
const char* launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
                          Arguments... arguments) {
  kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads)), 0, stream>>>(arguments...);
  cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace nnart::cuda
