// Philox in SIMD lanes: word k of a stream is word k % 4 of the block with counter k / 4, whatever the vector's width.
#pragma once

#include "cpu/vec.h"
#include "math/integers.h"
#include "math/random.h"

namespace nnart::cpu {
namespace {

using RawU64 = RawVec<uint64_t>;

// Two vectors of blocks go through the rounds together: one alone waits for its products.
struct WordLanes {
  RawU64 v[2];
};

NNART_HD RawU64 wide_product(RawU64 a, uint32_t b) {
#if defined(__AVX512F__)
  return reinterpret_cast<RawU64>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), _mm512_set1_epi64(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<RawU64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(b)));
#elif defined(__x86_64__)
  return reinterpret_cast<RawU64>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(b)));
#else
  return (a & 0xffffffff) * b;
#endif
}
NNART_HD RawU64 exclusive_or(RawU64 a, RawU64 b, uint32_t c) {
#if defined(__AVX512F__)
  return reinterpret_cast<RawU64>(_mm512_ternarylogic_epi64(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b),
                                                            _mm512_set1_epi64(c), 0x96));
#else
  return a ^ b ^ uint64_t(c);
#endif
}

NNART_HD WordLanes wide_product(WordLanes a, uint32_t b) { return {wide_product(a.v[0], b), wide_product(a.v[1], b)}; }
NNART_HD WordLanes high_half(WordLanes a) { return {a.v[0] >> 32, a.v[1] >> 32}; }
NNART_HD WordLanes exclusive_or(WordLanes a, WordLanes b, uint32_t c) {
  return {exclusive_or(a.v[0], b.v[0], c), exclusive_or(a.v[1], b.v[1], c)};
}

// A step makes four vectors of words.
constexpr int kWordsAStep = 4 * Vec<float>::size;
struct StepWords {
  RawU32 v[4];
};

// Each lane of `low` under the one of `high` that follows it.
NNART_HD RawU32 joined(RawU64 low, RawU64 high) { return reinterpret_cast<RawU32>((low & 0xffffffff) | (high << 32)); }

// The blocks from `first` on, lane by lane at the offsets.
NNART_HD math::Words<WordLanes> blocks(uint64_t first, RawU64 offsets, uint64_t key) {
  RawU64 counter = offsets + first, next = counter + kVectorBytes / 8, zero{};
  return math::philox4x32<WordLanes>({{counter, next}, {counter >> 32, next >> 32}, {zero, zero}, {zero, zero}}, key);
}

// The step's words in their order. The blocks are dealt to the lanes so that interleaving pairs, which every
// instruction set does within 16 bytes, puts them in order.
NNART_HD StepWords words_in_order(uint64_t first_block, uint64_t key) {
#if defined(__AVX512F__)
  constexpr RawU64 offsets = {0, 4, 1, 5, 2, 6, 3, 7};
#elif defined(__AVX2__)
  constexpr RawU64 offsets = {0, 2, 1, 3};
#else
  constexpr RawU64 offsets = {0, 1};
#endif
  math::Words<WordLanes> w = blocks(first_block, offsets, key);
  StepWords words;
  for (int k = 0; k < 2; ++k) {
    auto ab = reinterpret_cast<RawU64>(joined(w.a.v[k], w.b.v[k]));
    auto cd = reinterpret_cast<RawU64>(joined(w.c.v[k], w.d.v[k]));
#if defined(__AVX512F__)
    words.v[2 * k] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 8, 2, 10, 4, 12, 6, 14));
    words.v[2 * k + 1] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 9, 3, 11, 5, 13, 7, 15));
#elif defined(__AVX2__)
    words.v[2 * k] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 4, 2, 6));
    words.v[2 * k + 1] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 5, 3, 7));
#else
    words.v[2 * k] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 2));
    words.v[2 * k + 1] = reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 3));
#endif
  }
  return words;
}

// The same with the even words of each pair of vectors in the first of them and the odd ones in the second: as
// load_even_odd() has the elements of bfloat16.
NNART_HD StepWords words_even_odd(uint64_t first_block, uint64_t key) {
#if defined(__AVX512F__)
  constexpr RawU64 offsets = {0, 1, 2, 3, 4, 5, 6, 7};
#elif defined(__AVX2__)
  constexpr RawU64 offsets = {0, 1, 2, 3};
#else
  constexpr RawU64 offsets = {0, 1};
#endif
  math::Words<WordLanes> w = blocks(first_block, offsets, key);
  return {
      {joined(w.a.v[0], w.c.v[0]), joined(w.b.v[0], w.d.v[0]), joined(w.a.v[1], w.c.v[1]), joined(w.b.v[1], w.d.v[1])}};
}

// All ones where the element is kept.
NNART_HD Mask<float> kept(RawU32 words, uint32_t threshold) {
  return {reinterpret_cast<RawVec<int32_t>>(words >= threshold)};
}

// One in each kind of storage.
constexpr uint32_t one_bits(Type<float>) { return 0x3f800000; }
constexpr uint32_t one_bits(Type<BFloat16>) { return 0x3f80; }
constexpr uint32_t one_bits(Type<Float16>) { return 0x3c00; }

NNART_HD void store_decisions(float* out, StepWords words, uint32_t threshold) {
  Vec<float> one(1), zero(0);
  for (int k = 0; k < 4; ++k) store(out + k * Vec<float>::size, select(kept(words.v[k], threshold), one, zero));
}
NNART_HD void store_decisions(double* out, StepWords words, uint32_t threshold) {
  float lanes[kWordsAStep];
  store_decisions(lanes, words, threshold);
  for (int i = 0; i < kWordsAStep; ++i) out[i] = lanes[i];
}
template <class S>  // of 16 bits; the words are even and odd ones
NNART_HD void store_decisions(S* out, StepWords words, uint32_t threshold) {
  for (int k = 0; k < 4; k += 2) {
    auto even = reinterpret_cast<RawU32>(kept(words.v[k], threshold).v);
    auto odd = reinterpret_cast<RawU32>(kept(words.v[k + 1], threshold).v);
    RawU32 pairs = (even & one_bits(Type<S>{})) | (odd & (one_bits(Type<S>{}) << 16));
    std::memcpy(out + k * Vec<float>::size, &pairs, sizeof pairs);
  }
}

// A run of decisions as numbers, 1 where the element is kept and 0 where it is dropped.
template <class S>
struct Decisions {
  S* buffer;  // room(n) elements

  NNART_HD static constexpr int64_t room(int64_t n) { return n + kWordsAStep + 4; }

  // Where the decisions [begin, begin + n) stand in the buffer.
  NNART_HD const S* fill(int64_t begin, int64_t n, uint64_t key, uint32_t threshold) const {
    int64_t offset = begin % 4, block = begin / 4;
    for (int64_t i = 0; i < n + offset; i += kWordsAStep, block += kWordsAStep / 4) {
      StepWords words = sizeof(S) == 2 ? words_even_odd(uint64_t(block), key) : words_in_order(uint64_t(block), key);
      store_decisions(buffer + i, words, threshold);
    }
    return buffer + offset;
  }
};

// A run of numbers from [0, 1): the upper 24 bits of the words.
template <class C>
struct Uniforms {
  C* buffer;  // room(n) elements

  NNART_HD static constexpr int64_t room(int64_t n) { return n + kWordsAStep + 4; }

  // Where the numbers [begin, begin + n) stand in the buffer.
  NNART_HD const C* fill(int64_t begin, int64_t n, uint64_t key) const {
    int64_t offset = begin % 4, block = begin / 4;
    for (int64_t i = 0; i < n + offset; i += kWordsAStep, block += kWordsAStep / 4) {
      StepWords words = words_in_order(uint64_t(block), key);
      for (int k = 0; k < 4; ++k) {
        auto whole = reinterpret_cast<RawVec<int32_t>>(words.v[k] >> 8);
        Vec<float> u = Vec<float>(__builtin_convertvector(whole, RawVec<float>)) * Vec<float>(0x1p-24);
        for (int lane = 0; lane < Vec<float>::size; ++lane) buffer[i + k * Vec<float>::size + lane] = u.v[lane];
      }
    }
    return buffer + offset;
  }
};

}  // namespace
}  // namespace nnart::cpu
