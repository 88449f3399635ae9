// The only place where a kernel is launched.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nnart::cuda {

// A number as a value of a type of its own, to hand to a generic lambda.
template <int n>
struct Count {
  static constexpr int value = n;
};

inline const char* text_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// Launches kernel and says what went wrong with the launch, or null. blocks is at most 2^31 - 1.
template <class... Parameters, class... Arguments>
const char* launch_kernel(void (*kernel)(Parameters...), int64_t blocks, int threads, cudaStream_t stream,
                          Arguments... arguments) {
  kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads)), 0, stream>>>(arguments...);
  return text_of(cudaGetLastError());
}

// Whether work queued on the stream is recorded in a CUDA graph instead of done.
inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

inline const char* set_zero(void* data, int64_t bytes, cudaStream_t stream) {
  return text_of(cudaMemsetAsync(data, 0, size_t(bytes), stream));
}

}  // namespace nnart::cuda
