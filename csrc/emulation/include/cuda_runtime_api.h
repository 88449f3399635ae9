// What csrc/cuda uses of CUDA's own header of this name on the host. Memory is the host's, and every launch is done
// when it returns.
#pragma once

#include <cstddef>
#include <cstring>

enum cudaError_t { cudaSuccess };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone };
using cudaStream_t = struct CUstream_st*;

inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  if (bytes > 0) memset(data, value, bytes);
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
