// The passes of a step, between whose files a launch goes, and the sums they share.
#pragma once

#include "core/optimizer_memory.h"
#include "cuda/channels.cuh"

namespace nnart::cuda {

// What the host knows when a step begins.
struct Preparation {
  double grad_factor, max_norm, norm;
  bool needs_norm, skips_non_finite;
  const float *scale, *found_inf;
  float* decision;
  int64_t row_count, group_count, sums;
};

// The passes in their order, one launch each. in_double: of the rows that compute in double, else of the others.
int64_t norm_sums(int64_t tiles);  // that launch_norm leaves
const char* launch_norm(const OptimizerMemory&, int64_t tiles, cudaStream_t);
const char* launch_prepare(const OptimizerMemory&, const Preparation&, cudaStream_t);
const char* launch_average(const OptimizerMemory&, bool in_double, int64_t row_count, const FactorWork&, cudaStream_t);
const char* launch_measure(const OptimizerMemory&, bool in_double, int64_t tiles, cudaStream_t);
const char* launch_scale(const OptimizerMemory&, int64_t row_count, cudaStream_t);
const char* launch_update(const OptimizerMemory&, bool in_double, int64_t first_tile, int64_t tiles, uint64_t seed,
                          cudaStream_t);

template <class C>
__device__ __forceinline__ bool computes_in(const OptimizerRow& row) {
  return (row.param_dtype == DType::Float64) == (sizeof(C) == 8);
}

template <class C, int n>
__device__ __forceinline__ double sum_of_squares(const C (&x)[n]) {
  C sum = 0;
#pragma unroll
  for (int e = 0; e < n; ++e) sum += x[e] * x[e];
  if (sizeof(C) == 8 || sum < INFINITY) return double(sum);
  double wide = 0;  // squares of finite numbers can be too large for a float
#pragma unroll
  for (int e = 0; e < n; ++e) wide += double(x[e]) * double(x[e]);
  return wide;
}

// In every thread. of_warps has room for a number a warp and is used by no other sum until the block's next barrier.
__device__ __forceinline__ double sum_over_block(double value, double* of_warps) {
  value = sum_over_lanes(value, 1, kWarp);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();  // all warps' sums are there
  double sum = 0;
  for (int warp = 0; warp < int(blockDim.x) / kWarp; ++warp) sum += of_warps[warp];
  return sum;
}

}  // namespace nnart::cuda
