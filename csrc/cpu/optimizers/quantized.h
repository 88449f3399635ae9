// 8-bit state in SIMD lanes: the codes of math/dynamic_map.h, with a scale for each block of elements.
#pragma once

#include "core/optimizer_args.h"
#include "cpu/vec.h"
#include "math/dynamic_map.h"

namespace nnart::cpu {
namespace {

using math::DynamicMap;
using math::kDecades;
using math::kPositiveMap;
using math::kSignedMap;

// Lane by lane table[index % 16].
NNART_HD Vec<float> look_up(const float (&table)[16], RawVec<int32_t> index) {
#if defined(__AVX512F__)
  return Vec<float>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), _mm512_loadu_ps(table)));
#elif defined(__AVX2__)
  auto i = reinterpret_cast<__m256i>(index);
  __m256 lower = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
  __m256 upper = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
  return Vec<float>(_mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))));
#else
  Vec<float> y;
  for (int k = 0; k < Vec<float>::size; ++k) y.v[k] = table[index[k] & 15];
  return y;
#endif
}

// The decade whose values are the nearest to each x, 0 <= x <= 1: -1 below all, kDecades for 1. NaN has any.
NNART_HD RawVec<int32_t> decade_of(const DynamicMap& map, Vec<float> x) {
#if defined(__AVX512F__)
  auto exponent = reinterpret_cast<__m512i>(at_least(x, Vec<float>(0x1p-23)).bits() >> 23);
  __m512 border = _mm512_permutex2var_ps(_mm512_loadu_ps(map.border_in_binade), exponent,
                                         _mm512_loadu_ps(map.border_in_binade + 16));
  __m512i below = _mm512_permutex2var_epi32(_mm512_loadu_si512(map.decade_below), exponent,
                                            _mm512_loadu_si512(map.decade_below + 16));
  __mmask16 reached = _mm512_cmp_ps_mask(x.v, border, _CMP_GE_OQ);
  return reinterpret_cast<RawVec<int32_t>>(_mm512_mask_add_epi32(below, reached, below, _mm512_set1_epi32(1)));
#else
  RawVec<int32_t> decade = RawVec<int32_t>{} - 1;
#pragma GCC unroll 8
  for (float border : map.border) decade -= x.v >= border - RawVec<float>{};  // a comparison that holds is -1
  return decade;
#endif
}

// A vector's worth of codes, one in each lane, from memory and back.
NNART_HD RawVec<int32_t> load_codes(const uint8_t* codes) {
#if defined(__AVX512F__)
  return reinterpret_cast<RawVec<int32_t>>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))));
#elif defined(__AVX2__)
  return reinterpret_cast<RawVec<int32_t>>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes))));
#else
  RawVec<int32_t> wide{};
  for (int k = 0; k < Vec<float>::size; ++k) wide[k] = codes[k];
  return wide;
#endif
}
NNART_HD void store_codes(uint8_t* codes, RawVec<int32_t> wide) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(wide)));
#elif defined(__AVX2__)
  auto both = reinterpret_cast<__m256i>(wide);
  __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packus_epi16(words, words));
#else
  for (int k = 0; k < Vec<float>::size; ++k) codes[k] = uint8_t(wide[k]);
#endif
}

// The values, between -1 and 1, of one vector's codes.
template <bool positive>
NNART_HD Vec<float> decode(const uint8_t* codes) {
  constexpr const DynamicMap& map = positive ? kPositiveMap : kSignedMap;
  RawVec<int32_t> code = load_codes(codes);
  RawVec<int32_t> t = positive ? code : code - 127;
  RawVec<int32_t> size = positive || t >= 0 ? t : -t;
  Vec<float> moved = Vec<float>(__builtin_convertvector(size, RawVec<float>)) + Vec<float>(positive ? 1.25 : 0.25);
  RawVec<int32_t> index = moved.bits() >> 23;
  Vec<float> value = look_up(map.slope, index) * moved + look_up(map.base, index);
  return positive ? value : copy_sign(value, Vec<float>::from_bits(t));
}

// The code of the value nearest to each x, which is between -1 and 1; of NaN, any.
template <bool positive>
NNART_HD void encode(uint8_t* codes, Vec<float> x) {
  constexpr const DynamicMap& map = positive ? kPositiveMap : kSignedMap;
  Vec<float> size = positive ? x : abs(x);
  RawVec<int32_t> decade = decade_of(map, size);
  Vec<float> t = size * look_up(map.steepness, decade) + look_up(map.offset, decade);
  t = at_most(t, look_up(map.last_t, decade));
  // Adding 1.5 2^23 rounds to a whole number, which then stands in the low bits.
  RawVec<int32_t> whole = (t + Vec<float>(0x1.8p23)).bits() - 0x4b400000;
  if constexpr (positive) {
    store_codes(codes, whole - 1);
  } else {
    RawVec<int32_t> sign = x.bits() >> 31;  // 0 or -1
    RawVec<int32_t> code = 127 + ((whole ^ sign) - sign);
    store_codes(codes, code < 0 ? RawVec<int32_t>{} : code);  // there is no -1: the nearest is the one before
  }
}

// x has room for whole vectors, here and below.
template <bool positive>
NNART_HD void dequantize(const uint8_t* codes, const float* scales, int64_t n, float* x) {
  constexpr int64_t width = Vec<float>::size;
  for (int64_t block = 0; block < n; block += kQuantizedBlock, ++scales) {
    Vec<float> scale(*scales);
    int64_t end = block + kQuantizedBlock < n ? block + kQuantizedBlock : n;
    int64_t i = block;
    for (; i + width <= end; i += width) store(x + i, decode<positive>(codes + i) * scale);
    if (i < end) {
      uint8_t rest[width] = {};
      copy_some<width>(rest, codes + i, end - i);
      store(x + i, decode<positive>(rest) * scale);
    }
  }
}

// Overwrites what is past n in x.
template <bool positive>
NNART_HD void quantize(float* x, int64_t n, uint8_t* codes, float* scales) {
  constexpr int64_t width = Vec<float>::size;
  for (int64_t block = 0; block < n; block += kQuantizedBlock, ++scales) {
    int64_t end = block + kQuantizedBlock < n ? block + kQuantizedBlock : n;
    for (int64_t i = end; i % width != 0; ++i) x[i] = 0;
    Vec<float> largest(0.0);
    for (int64_t i = block; i < end; i += width) largest = at_least(abs(load(x + i)), largest);
    float scale = largest_lane(largest);
    *scales = scale;
    Vec<float> inverse(scale > 0 ? 1 / scale : 0);
    int64_t i = block;
    for (; i + width <= end; i += width) encode<positive>(codes + i, load(x + i) * inverse);
    if (i < end) {
      uint8_t rest[width];
      encode<positive>(rest, load(x + i) * inverse);
      copy_some<width>(codes + i, rest, end - i);
    }
  }
}

}  // namespace
}  // namespace nnart::cpu
