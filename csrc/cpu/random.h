// Philox in SIMD lanes: word k of a stream is word k % 4 of the block with counter k / 4, whatever the vector's width.
#pragma once

#include "cpu/vec.h"
#include "math/integers.h"
#include "math/random.h"

namespace nnart::cpu {
namespace {

using RawU64 = RawVec<uint64_t>;

struct WordLanes {
  RawU64 v;
};

NNART_HD WordLanes wide_product(WordLanes a, uint32_t b) {
#if defined(__AVX512F__)
  return {reinterpret_cast<RawU64>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a.v), _mm512_set1_epi64(b)))};
#elif defined(__AVX2__)
  return {reinterpret_cast<RawU64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a.v), _mm256_set1_epi64x(b)))};
#elif defined(__x86_64__)
  return {reinterpret_cast<RawU64>(_mm_mul_epu32(reinterpret_cast<__m128i>(a.v), _mm_set1_epi64x(b)))};
#else
  return {(a.v & 0xffffffff) * b};
#endif
}
NNART_HD WordLanes high_half(WordLanes a) { return {a.v >> 32}; }
NNART_HD WordLanes exclusive_or(WordLanes a, WordLanes b, uint32_t c) {
#if defined(__AVX512F__)
  return {reinterpret_cast<RawU64>(_mm512_ternarylogic_epi64(
      reinterpret_cast<__m512i>(a.v), reinterpret_cast<__m512i>(b.v), _mm512_set1_epi64(c), 0x96))};
#else
  return {a.v ^ b.v ^ uint64_t(c)};
#endif
}

// The words of a step, two vectors: each lane of `low` under the one of `high` that follows it.
constexpr int kWordsAStep = 2 * Vec<float>::size;
constexpr int kBlockLanes = kVectorBytes / 8;
NNART_HD RawU32 joined(WordLanes low, WordLanes high) {
  return reinterpret_cast<RawU32>((low.v & 0xffffffff) | (high.v << 32));
}

// Blocks [first, first + kBlockLanes), lane by lane at the offsets.
NNART_HD math::Words<WordLanes> blocks(uint64_t first, RawU64 offsets, uint64_t key) {
  RawU64 counter = offsets + first;
  return math::philox4x32<WordLanes>({{counter}, {counter >> 32}, {RawU64{}}, {RawU64{}}}, key);
}

struct TwoVectors {
  RawU32 first, second;
};

// The step's words in their order: the first half of them, then the second. The blocks are dealt to the lanes so that
// interleaving pairs, which every instruction set does within 16 bytes, puts them in order.
NNART_HD TwoVectors words_in_order(uint64_t first_block, uint64_t key) {
#if defined(__AVX512F__)
  constexpr RawU64 offsets = {0, 4, 1, 5, 2, 6, 3, 7};
#elif defined(__AVX2__)
  constexpr RawU64 offsets = {0, 2, 1, 3};
#else
  constexpr RawU64 offsets = {0, 1};
#endif
  math::Words<WordLanes> w = blocks(first_block, offsets, key);
  auto ab = reinterpret_cast<RawU64>(joined(w.a, w.b)), cd = reinterpret_cast<RawU64>(joined(w.c, w.d));
#if defined(__AVX512F__)
  return {reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 8, 2, 10, 4, 12, 6, 14)),
          reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 9, 3, 11, 5, 13, 7, 15))};
#elif defined(__AVX2__)
  return {reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 4, 2, 6)),
          reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 5, 3, 7))};
#else
  return {reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 0, 2)),
          reinterpret_cast<RawU32>(__builtin_shufflevector(ab, cd, 1, 3))};
#endif
}

// The step's even words, then its odd ones: as load_even_odd() has the elements of bfloat16.
NNART_HD TwoVectors words_even_odd(uint64_t first_block, uint64_t key) {
#if defined(__AVX512F__)
  constexpr RawU64 offsets = {0, 1, 2, 3, 4, 5, 6, 7};
#elif defined(__AVX2__)
  constexpr RawU64 offsets = {0, 1, 2, 3};
#else
  constexpr RawU64 offsets = {0, 1};
#endif
  math::Words<WordLanes> w = blocks(first_block, offsets, key);
  return {joined(w.a, w.c), joined(w.b, w.d)};
}

// All ones where the element is kept.
NNART_HD Mask<float> kept(RawU32 words, uint32_t threshold) {
  return {reinterpret_cast<RawVec<int32_t>>(words >= threshold)};
}

// One in each kind of storage.
constexpr uint32_t one_bits(Type<float>) { return 0x3f800000; }
constexpr uint32_t one_bits(Type<BFloat16>) { return 0x3f80; }
constexpr uint32_t one_bits(Type<Float16>) { return 0x3c00; }

NNART_HD void store_decisions(float* out, TwoVectors words, uint32_t threshold) {
  Vec<float> one(1), zero(0);
  store(out, select(kept(words.first, threshold), one, zero));
  store(out + Vec<float>::size, select(kept(words.second, threshold), one, zero));
}
NNART_HD void store_decisions(double* out, TwoVectors words, uint32_t threshold) {
  float lanes[kWordsAStep];
  store_decisions(lanes, words, threshold);
  for (int i = 0; i < kWordsAStep; ++i) out[i] = lanes[i];
}
template <class S>  // of 16 bits; the words are even and odd ones
NNART_HD void store_decisions(S* out, TwoVectors words, uint32_t threshold) {
  auto even = reinterpret_cast<RawU32>(kept(words.first, threshold).v);
  auto odd = reinterpret_cast<RawU32>(kept(words.second, threshold).v);
  RawU32 pairs = (even & one_bits(Type<S>{})) | (odd & (one_bits(Type<S>{}) << 16));
  std::memcpy(out, &pairs, sizeof pairs);
}

// A run of decisions as numbers, 1 where the element is kept and 0 where it is dropped.
template <class S>
struct Decisions {
  S* buffer;  // room(n) elements

  NNART_HD static constexpr int64_t room(int64_t n) { return n + 2 * kWordsAStep; }

  // Where the decisions [begin, begin + n) stand in the buffer.
  NNART_HD const S* fill(int64_t begin, int64_t n, uint64_t key, uint32_t threshold) const {
    int64_t offset = begin % 4, block = begin / 4;
    for (int64_t i = 0; i < n + offset; i += kWordsAStep, block += kWordsAStep / 4) {
      TwoVectors words = sizeof(S) == 2 ? words_even_odd(uint64_t(block), key) : words_in_order(uint64_t(block), key);
      store_decisions(buffer + i, words, threshold);
    }
    return buffer + offset;
  }
};

}  // namespace
}  // namespace nnart::cpu
