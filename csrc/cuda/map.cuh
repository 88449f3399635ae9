// The loop over elements: one skeleton for every element-wise kernel.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/pack.cuh"

namespace nnart::cuda {

constexpr int kMapThreads = 256;
// Blocks a multiprocessor: 85 registers a thread, or as the body has it. Left to itself ptxas aims at 32 and spills to
// get there.
template <class Body>
constexpr int map_blocks() {
  if constexpr (requires { Body::blocks; })
    return Body::blocks;
  else
    return 3;
}
// Bytes of each input under way in a thread before it stores its first result: they cover the latency of DRAM.
template <int width>
constexpr int kMapUnroll = width == 1 ? 4 : 2;

// Body does its work on `width` elements from element i on in two halves: load<width>(i) returns what it read, and
// store<width>(i, loaded) computes and writes. Reads come first in case the compiler cannot tell that no result of one
// pack is an input of the next. A body that counts elements in eights has tail(i, n) for those after the last pack.
template <int width, class Body>
__global__ void __launch_bounds__(kMapThreads, map_blocks<Body>()) map_kernel(Body body, int64_t n) {
  constexpr int unroll = kMapUnroll<width>;
  int64_t packs = n / width;
  int64_t first = int64_t(blockIdx.x) * unroll * kMapThreads + threadIdx.x;
  decltype(body.template load<width>(0)) loaded[unroll];
#pragma unroll
  for (int u = 0; u < unroll; ++u) {
    int64_t pack = first + u * kMapThreads;
    if (pack < packs) loaded[u] = body.template load<width>(pack * width);
  }
#pragma unroll
  for (int u = 0; u < unroll; ++u) {
    int64_t pack = first + u * kMapThreads;
    if (pack < packs) {
      body.template store<width>(pack * width, loaded[u]);
    } else if (width > 1 && pack == packs) {
      if constexpr (requires { body.tail(n, n); })
        body.tail(packs * width, n);
      else
        for (int64_t i = packs * width; i < n; ++i) body.template store<1>(i, body.template load<1>(i));
    }
  }
}

template <int width, class Body>
const char* map(const Body& body, int64_t n, cudaStream_t stream) {
  if (n == 0) return nullptr;
  int64_t packs = n / width + (width > 1);  // one more for the remainder
  int64_t a_block = int64_t(kMapUnroll<width>) * kMapThreads;
  return launch_kernel(map_kernel<width, Body>, (packs + a_block - 1) / a_block, kMapThreads, stream, body, n);
}

// In packs where every address is aligned, one by one where not.
template <class S, class Body>
const char* map(const Body& body, int64_t n, bool aligned, cudaStream_t stream) {
  return aligned ? map<kPackWidth<S>>(body, n, stream) : map<1>(body, n, stream);
}

}  // namespace nnart::cuda
