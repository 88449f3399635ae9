// What csrc/cuda uses of CUDA's own header of this name in kernels.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "emulation/emulation.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __builtin_assume(condition) static_cast<void>(condition)

// The whole of one access, as one instruction moves it.
using uint2 = uint32_t __attribute__((vector_size(8), may_alias));
using uint4 = uint32_t __attribute__((vector_size(16), may_alias));

#define threadIdx (nnart::emulation::position.thread)
#define blockIdx (nnart::emulation::position.block)
#define blockDim (nnart::emulation::position.threads)
#define gridDim (nnart::emulation::position.blocks)

#define NNART_TEXT_OF(line) #line
#define NNART_TEXT(line) NNART_TEXT_OF(line)
#define NNART_HERE(what) what " at " __FILE__ ":" NNART_TEXT(__LINE__)

#define __syncthreads() nnart::emulation::block_barrier(NNART_HERE("__syncthreads"))
#define __syncwarp() nnart::emulation::warp_barrier(NNART_HERE("__syncwarp"))
#define __shfl_xor_sync(mask, value, lane_mask) \
  nnart::emulation::shuffle_xor(mask, value, lane_mask, NNART_HERE("__shfl_xor_sync"))
#define __match_any_sync(mask, value) nnart::emulation::match_any(mask, value, NNART_HERE("__match_any_sync"))

inline bool __isGlobal(const void*) { return true; }
template <class T>
void __stwb(T* p, T value) {
  *p = value;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t((uint64_t{a} * b) >> 32); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(uint32_t(x)); }
