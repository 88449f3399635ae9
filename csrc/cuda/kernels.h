// What csrc/cuda offers to ops/register_cuda.cpp: one launch a family. Pointers are device memory; the work is queued
// on stream. Returns null, or CUDA's text of what went wrong with the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "core/args.h"

namespace nnart {

struct OptimizerArgs;

}  // namespace nnart

namespace nnart::cuda {

const char* launch(const ActivationArgs&, cudaStream_t stream);
const char* launch(const MaskedActivationArgs&, cudaStream_t stream);
const char* launch(const MaxPoolArgs&, cudaStream_t stream);
const char* launch(const MaxPoolBackwardArgs&, cudaStream_t stream);
const char* launch(const MaxPoolIndicesArgs&, cudaStream_t stream);
const char* launch(const MaxUnpoolArgs&, cudaStream_t stream);
const char* launch(const AvgPoolArgs&, cudaStream_t stream);
const char* launch(const PReluArgs&, cudaStream_t stream);
const char* launch(const RReluArgs&, cudaStream_t stream);
const char* launch(const BiasActivationArgs&, cudaStream_t stream);
const char* launch(const BatchNormArgs&, cudaStream_t stream);
const char* launch(const DropoutArgs&, cudaStream_t stream);
const char* launch(const GatedArgs&, cudaStream_t stream);
const char* launch(const SoftmaxArgs&, cudaStream_t stream);
const char* launch(const CrossEntropyArgs&, cudaStream_t stream);
const char* launch(const ConvArgs&, cudaStream_t stream);  // by Gemm and Depthwise
const char* launch(const OptimizerArgs&, cudaStream_t stream);

bool takes_norm(const ConvArgs&, bool of_batch);
bool takes_mask(const ConvArgs&);
bool takes_grad_bias(const ConvArgs&);

// The numbers that partial_sums must have room for.
int64_t scratch(const PReluArgs&);
int64_t scratch(const BiasActivationArgs&);
int64_t scratch(const BatchNormArgs&);
int64_t scratch(const CrossEntropyArgs&);
int64_t scratch(const ConvArgs&);

}  // namespace nnart::cuda
