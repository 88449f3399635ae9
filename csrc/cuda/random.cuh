// The words of a Philox stream for neighbouring elements: word k is word k % 4 of the block with counter k / 4.
#pragma once

#include "cuda/pack.cuh"
#include "math/random.h"

namespace nnart::cuda {

struct Block {
  uint32_t words[4];
};

__device__ __forceinline__ Block block_of(uint64_t counter, uint64_t key) {
  auto w = math::philox4x32<uint64_t>({counter, counter >> 32, 0, 0}, key);
  return {{uint32_t(w.a), uint32_t(w.b), uint32_t(w.c), uint32_t(w.d)}};
}

// Not inlined: where words are drawn one by one they are drawn in many places.
__device__ __attribute__((noinline)) inline uint32_t word_at(uint64_t k, uint64_t key) {
  Block block = block_of(k / 4, key);
  uint32_t low = k & 1 ? block.words[1] : block.words[0], high = k & 1 ? block.words[3] : block.words[2];
  return k & 2 ? high : low;
}

// The words [k, k + width).
template <int width>
__device__ __forceinline__ Pack<uint32_t, width> words_at(uint64_t k, uint64_t key) {
  Pack<uint32_t, width> words;
  if (width % 4 == 0 && k % 4 == 0) {
#pragma unroll
    for (int b = 0; b < width / 4; ++b) {
      Block block = block_of(k / 4 + b, key);
#pragma unroll
      for (int j = 0; j < 4; ++j) words.lanes[4 * b + j] = block.words[j];
    }
  } else if (width == 2 && k % 2 == 0) {
    Block block = block_of(k / 4, key);
#pragma unroll
    for (int j = 0; j < width; ++j) words.lanes[j] = k & 2 ? block.words[2 + j] : block.words[j];
  } else {
#pragma unroll
    for (int j = 0; j < width; ++j) words.lanes[j] = word_at(k + j, key);
  }
  return words;
}

}  // namespace nnart::cuda
