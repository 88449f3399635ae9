// Storage to compute type and back, on the device: the only place where a conversion is written.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/dtype.h"

namespace nnart::cuda {

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(BFloat16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }
__device__ __forceinline__ float widen(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

__device__ __forceinline__ float narrow(Type<float>, float x) { return x; }
__device__ __forceinline__ double narrow(Type<double>, double x) { return x; }
__device__ __forceinline__ BFloat16 narrow(Type<BFloat16>, float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
__device__ __forceinline__ Float16 narrow(Type<Float16>, float x) { return {__half_as_ushort(__float2half_rn(x))}; }

}  // namespace nnart::cuda
