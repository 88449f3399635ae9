// What csrc/cuda offers to ops/register_cuda.cpp: one launch a family. Pointers are device memory; the work is queued
// on stream. Returns null, or CUDA's text of what went wrong with the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "core/args.h"

namespace nnart::cuda {

const char* launch(const ActivationArgs&, cudaStream_t stream);

}  // namespace nnart::cuda
