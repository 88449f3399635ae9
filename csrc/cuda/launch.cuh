// The only place where a kernel is launched and where shared memory is had: what nvcc has a syntax for that no C++
// compiler knows, and csrc/emulation a function.
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
#if defined(__CUDACC__)
  kernel<<<dim3(unsigned(blocks)), dim3(unsigned(threads)), 0, stream>>>(arguments...);
  return text_of(cudaGetLastError());
#else
  static_cast<void>(stream);
  return emulation::launch_kernel(kernel, blocks, threads, arguments...);
#endif
}

// Shared memory for n of T, whose constructor does not run: the same array wherever a kernel asks with the same T, n
// and Tag.
template <class T, int n, class Tag = void>
__device__ __forceinline__ T* shared_array() {
#if defined(__CUDACC__)
  alignas(T) __shared__ unsigned char bytes[n * sizeof(T)];
  return reinterpret_cast<T*>(bytes);
#else
  return static_cast<T*>(emulation::shared_array<T, n, Tag>.of_block());
#endif
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
