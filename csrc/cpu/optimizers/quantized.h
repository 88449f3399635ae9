// 8-bit state: the dynamic map of Dettmers et al. 2022 (arXiv:2110.02861), with a scale for each block of elements.
//
// The map has seven decades below 1, each with twice the values of the one below, evenly spread. Its values in order
// are numbered t = 0, 1, ...: 0 itself, then a decade for each power of two of t. So the decade is t's binary exponent
// and a value is a line in t: value = base[decade] + slope[decade] t, without a table of 256. A signed code is 127 + t
// or 127 - t; there decade i has 2^i values, t is from 1 to 127, and 128 stands for 1. An unsigned code is t, decade i
// has 2^(i + 1) values, and 255 stands for 1; its t is taken one higher, so that decades begin at powers of two.
#pragma once

#include "core/optimizer_args.h"
#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

constexpr int kDecades = 7;

// The lines of one of the maps, and where one decade ends and the next begins: halfway between the values beside.
struct DynamicMap {
  float base[kDecades + 1], slope[kDecades + 1], steepness[kDecades + 1], border[kDecades + 1], last_t[kDecades + 1];
};

// first: the exponent of the lowest decade's t.
constexpr DynamicMap dynamic_map(int first) {
  DynamicMap map{};
  double last = 0, power = 1e-6;
  for (int i = 0; i < kDecades; ++i, power *= 10) {
    double count = double(1 << (i + first)), width = 0.9 * power / count;
    map.slope[i] = float(width);
    map.steepness[i] = float(1 / width);
    map.last_t[i] = float(2 * count - 1);
    map.base[i] = float(power * 0.1 + width * (0.5 - count));
    map.border[i] = float((last + power * 0.1 + width * 0.5) / 2);
    last = power * 0.1 + width * (count - 0.5);
  }
  map.base[kDecades] = 1;
  map.border[kDecades] = float((last + 1) / 2);
  return map;
}

constexpr DynamicMap kSignedMap = dynamic_map(0), kPositiveMap = dynamic_map(1);

// Lane by lane table[index], index < 8.
NNART_HD Vec<float> look_up(const float (&table)[kDecades + 1], RawVec<int32_t> index) {
#if defined(__AVX512F__)
  return Vec<float>(
      _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), _mm512_broadcast_f32x8(_mm256_loadu_ps(table))));
#elif defined(__AVX2__)
  return Vec<float>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), reinterpret_cast<__m256i>(index)));
#else
  Vec<float> y;
  for (int k = 0; k < Vec<float>::size; ++k) y.v[k] = table[index[k] & kDecades];
  return y;
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
  RawVec<int32_t> signed_t = positive ? code + 1 : code - 127;
  Vec<float> t(__builtin_convertvector(signed_t, RawVec<float>));
  RawVec<int32_t> exponent = ((t.bits() >> 23) & 0xff) - (positive ? 128 : 127);
  Vec<float> value = look_up(map.base, exponent) + look_up(map.slope, exponent) * abs(t);
  // The line of t = 0 would be one of the decades'; in the unsigned map that is the code 0.
  value = select(Mask<float>{code == (positive ? 0 : 127)}, Vec<float>(0.0), value);
  return positive ? value : copy_sign(value, t);
}

// The code of the value nearest to each x, which is between -1 and 1; NaN becomes 0.
template <bool positive>
NNART_HD void encode(uint8_t* codes, Vec<float> x) {
  constexpr const DynamicMap& map = positive ? kPositiveMap : kSignedMap;
  Vec<float> size = positive ? x : abs(x);
  // Comparisons are 0 or -1: after them -1 is below the first decade.
  RawVec<int32_t> decade = RawVec<int32_t>{} - 1;
#pragma GCC unroll 8
  for (float border : map.border) decade -= size.v >= border - RawVec<float>{};
  RawVec<int32_t> index = decade & kDecades;
  Vec<float> t = (size - look_up(map.base, index)) * look_up(map.steepness, index);
  t = at_most(t, look_up(map.last_t, index));  // the border may be nearer than the next t of this line
  // Adding 1.5 2^23 rounds to a whole number, which then stands in the low bits.
  RawVec<int32_t> rounded = (t + Vec<float>(0x1.8p23)).bits() & 0xffff;
  rounded = decade == kDecades ? (RawVec<int32_t>{} + (positive ? 256 : 128)) : rounded;
  rounded = decade < 0 ? RawVec<int32_t>{} + positive : rounded;
  if constexpr (positive) {
    store_codes(codes, rounded - 1);
  } else {
    RawVec<int32_t> below = 127 - rounded;  // there is no -1: the nearest is the one before
    store_codes(codes, x.v < RawVec<float>{} ? (below < 0 ? RawVec<int32_t>{} : below) : 127 + rounded);
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
