// The loop over elements: one skeleton for every element-wise kernel. A thread moves kMapBytes at a time, which is what
// one memory instruction can carry; elements before the first and after the last aligned pack go one by one.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/numeric.cuh"

namespace nnart::cuda {

constexpr int kMapBytes = 16;
constexpr int kMapThreads = 256;
// Packs in flight a thread: enough loads under way to cover the latency of DRAM.
constexpr int kMapUnroll = 2;

template <class S>
struct alignas(kMapBytes) Pack {
  static constexpr int size = kMapBytes / sizeof(S);
  S lanes[size];
};

template <class S>
struct Elements {
  const S* data;
  static constexpr bool packed = true;
};

// An input that is one value for all elements (Note [stride-0 gradients] in ops/checks.h).
template <class S>
struct OneValue {
  const S* data;
  static constexpr bool packed = false;
};

template <class S>
__device__ __forceinline__ ComputeType<S> at(Elements<S> input, int64_t i) {
  return widen(input.data[i]);
}
template <class S>
__device__ __forceinline__ ComputeType<S> at(OneValue<S> input, int64_t) {
  return widen(*input.data);
}

template <class S>
__device__ __forceinline__ Pack<S> pack_at(Elements<S> input, int64_t pack) {
  return reinterpret_cast<const Pack<S>*>(input.data)[pack];
}
template <class S>
__device__ __forceinline__ Pack<S> pack_at(OneValue<S> input, int64_t) {
  Pack<S> pack;
#pragma unroll
  for (int k = 0; k < Pack<S>::size; ++k) pack.lanes[k] = *input.data;
  return pack;
}

// y[i] = f(inputs[i]...) where y and every packed input start at an address that kMapBytes divides.
template <class S, class F, class... Inputs>
__global__ void __launch_bounds__(kMapThreads) map_packed_kernel(S* y, int64_t n, F f, Inputs... inputs) {
  constexpr int width = Pack<S>::size;
  int64_t packs = n / width;
  int64_t first = (int64_t(blockIdx.x) * kMapUnroll * kMapThreads) + threadIdx.x;
#pragma unroll
  for (int u = 0; u < kMapUnroll; ++u) {
    int64_t pack = first + int64_t(u) * kMapThreads;
    if (pack < packs) {
      Pack<S> out;
      auto apply = [&](auto... in) {
#pragma unroll
        for (int k = 0; k < width; ++k) out.lanes[k] = narrow(Type<S>{}, f(widen(in.lanes[k])...));
      };
      apply(pack_at(inputs, pack)...);
      reinterpret_cast<Pack<S>*>(y)[pack] = out;
    } else if (pack == packs) {
      for (int64_t i = packs * width; i < n; ++i) y[i] = narrow(Type<S>{}, f(at(inputs, i)...));
    }
  }
}

// The same one element a thread, for addresses that are not aligned.
template <class S, class F, class... Inputs>
__global__ void __launch_bounds__(kMapThreads) map_kernel(S* y, int64_t n, F f, Inputs... inputs) {
  int64_t i = int64_t(blockIdx.x) * kMapThreads + threadIdx.x;
  if (i < n) y[i] = narrow(Type<S>{}, f(at(inputs, i)...));
}

inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % kMapBytes == 0; }

template <class S, class F, class... Inputs>
const char* map(S* y, int64_t n, F f, cudaStream_t stream, Inputs... inputs) {
  if (n == 0) return nullptr;
  if (aligned(y) && ((!Inputs::packed || aligned(inputs.data)) && ...)) {
    int64_t packs = n / Pack<S>::size + 1;  // one more for the remainder
    int64_t a_block = int64_t(kMapUnroll) * kMapThreads;
    return launch_kernel(map_packed_kernel<S, F, Inputs...>, (packs + a_block - 1) / a_block, kMapThreads, stream, y, n,
                         f, inputs...);
  }
  return launch_kernel(map_kernel<S, F, Inputs...>, (n + kMapThreads - 1) / kMapThreads, kMapThreads, stream, y, n, f,
                       inputs...);
}

}  // namespace nnart::cuda
