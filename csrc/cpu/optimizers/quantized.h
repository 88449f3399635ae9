// 8-bit state in SIMD lanes: the codes of math/dynamic_map.h, with a scale for each block of elements.
#pragma once

#include "core/optimizer_args.h"
#include "cpu/vec.h"
#include "math/dynamic_map.h"

namespace nnart::cpu {
namespace {

using math::DynamicMap;
using math::kPositiveMap;
using math::kSignedMap;

// The larger of |x| and bound, which is positive.
NNART_HD Vec<float> size_at_least(Vec<float> x, Vec<float> bound) {
#if defined(__AVX512F__)
  return Vec<float>(_mm512_range_ps(bound.v, x.v, 0b1011));  // the larger magnitude, without its sign
#else
  return at_least(abs(x), bound);
#endif
}

// Lane by lane table[index % 16], for a table in registers.
class Table {
 public:
  Table() = default;
  Table(const float (&table)[16], float scale) {
    for (int k = 0; k < kParts; ++k) part_[k] = load(table + k * Vec<float>::size) * Vec<float>(scale);
  }
  NNART_HD Vec<float> operator[](RawVec<int32_t> index) const {
#if defined(__AVX512F__)
    return Vec<float>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), part_[0].v));
#elif defined(__AVX2__)
    auto i = reinterpret_cast<__m256i>(index);
    __m256 lower = _mm256_permutevar8x32_ps(part_[0].v, i), upper = _mm256_permutevar8x32_ps(part_[1].v, i);
    return Vec<float>(_mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))));
#else
    constexpr int size = Vec<float>::size;
    Vec<float> y;
    for (int k = 0; k < size; ++k) y.v[k] = part_[(index[k] & 15) / size].v[index[k] & (size - 1)];
    return y;
#endif
  }

 private:
  static constexpr int kParts = 16 / Vec<float>::size;
  Vec<float> part_[kParts];
};

// Lane by lane table[index % 8].
NNART_HD Vec<float> look_up(const float (&table)[8], RawVec<int32_t> index) {
#if defined(__AVX512F__)
  __m512 twice = _mm512_broadcast_f32x8(_mm256_loadu_ps(table));
  return Vec<float>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), twice));
#elif defined(__AVX2__)
  return Vec<float>(_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), reinterpret_cast<__m256i>(index)));
#else
  Vec<float> y;
  for (int k = 0; k < Vec<float>::size; ++k) y.v[k] = table[index[k] & 7];
  return y;
#endif
}
// table[index % 32], for an index from 8 on.
NNART_HD Vec<float> look_up(const float (&table)[32], RawVec<int32_t> index) {
#if defined(__AVX512F__)
  return Vec<float>(
      _mm512_permutex2var_ps(_mm512_loadu_ps(table), reinterpret_cast<__m512i>(index), _mm512_loadu_ps(table + 16)));
#elif defined(__AVX2__)
  auto i = reinterpret_cast<__m256i>(index);
  auto eight = [&](int first) { return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + first), i); };
  __m256 odd = _mm256_blendv_ps(eight(8), eight(24), _mm256_castsi256_ps(_mm256_slli_epi32(i, 27)));
  return Vec<float>(_mm256_blendv_ps(eight(16), odd, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))));
#else
  Vec<float> y;
  for (int k = 0; k < Vec<float>::size; ++k) y.v[k] = table[index[k] & 31];
  return y;
#endif
}

// A vector's worth of codes, one in each lane; the first count of them.
NNART_HD RawVec<int32_t> load_codes(const uint8_t* codes, std::integral_constant<int64_t, Vec<float>::size>) {
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
NNART_HD RawVec<int32_t> load_codes(const uint8_t* codes, int64_t count) {
  uint8_t first[Vec<float>::size] = {};
  copy_some<Vec<float>::size>(first, codes, count);
  return load_codes(first, std::integral_constant<int64_t, Vec<float>::size>{});
}

// Decodes one block: math::decoded() times the scale, which is in the lines already.
class Decoder {
 public:
  Decoder() = default;
  Decoder(bool positive, float scale)
      : slope_((positive ? kPositiveMap : kSignedMap).slope, scale),
        base_((positive ? kPositiveMap : kSignedMap).base, scale),
        shift_(positive ? 0x1p-8 : -127 * 0x1p-8) {}

  // Of the first count elements; what the other lanes have means nothing.
  template <class Count>
  NNART_HD Vec<float> operator()(const uint8_t* codes, Count count) const {
    Vec<float> code(__builtin_convertvector(load_codes(codes, count), RawVec<float>));
    Vec<float> t = code * Vec<float>(0x1p-8) + shift_;
    RawVec<int32_t> index = t.bits() >> 23, sign = t.bits() & INT32_MIN;
    return slope_[index] * t + Vec<float>::from_bits(base_[index].bits() ^ sign);
  }

 private:
  Table slope_, base_;
  Vec<float> shift_;
};

// t as math::encoded() has it; twice as much and perhaps one more in the signed map. size is at least kLeast.
template <bool positive>
NNART_HD RawVec<int32_t> number_of(Vec<float> size) {
  constexpr const DynamicMap& map = positive ? kPositiveMap : kSignedMap;
  Vec<float> border = look_up(map.border, size.bits() >> 23);
  RawVec<int32_t> shift = (border.bits() & 7) | 16;
#if defined(__AVX512F__)
  auto above = reinterpret_cast<__m512i>(shift);
  __mmask16 reached = _mm512_cmp_ps_mask(size.v, border.v, _CMP_GE_OQ);
  shift = reinterpret_cast<RawVec<int32_t>>(_mm512_mask_sub_epi32(above, reached, above, _mm512_set1_epi32(1)));
#else
  shift = shift + (size >= border).v;  // a comparison that holds is -1
#endif
  Vec<float> ahead = size * look_up(map.reach, shift) + Vec<float>(double(math::kAhead));
  auto fixed = reinterpret_cast<RawU32>(at_most(ahead, Vec<float>(double(math::kBelowTwo))).bits() - 0x3f000000);
  return reinterpret_cast<RawVec<int32_t>>(fixed >> reinterpret_cast<RawU32>(shift));
}

// So many elements are encoded at once: a vector's worth of bytes.
constexpr int64_t kEncoded = 4 * Vec<float>::size;

// The codes of the values nearest to x[0, kEncoded) times inverse.
template <bool positive>
NNART_HD void encode(const float* x, Vec<float> inverse, uint8_t* codes) {
  Vec<float> unit[4];
  RawVec<int32_t> t[4];
  for (int k = 0; k < 4; ++k) {
    unit[k] = load(x + k * Vec<float>::size) * inverse;
    Vec<float> least(double(math::kLeast));
    t[k] = number_of<positive>(positive ? at_least(unit[k], least) : size_at_least(unit[k], least));
  }
  // Packing puts quarters of the four vectors in turn. Its saturation keeps signs, and what is subtracted with
  // saturation stays above 0.
#if defined(__AVX512F__)
  auto words = [&](int k) {
    __m512i both = _mm512_packus_epi32(reinterpret_cast<__m512i>(t[k]), reinterpret_cast<__m512i>(t[k + 1]));
    return positive ? _mm512_subs_epu16(both, _mm512_set1_epi16(1)) : _mm512_srli_epi16(both, 1);
  };
  auto signs = [&](int k) {
    return _mm512_packs_epi32(_mm512_castps_si512(unit[k].v), _mm512_castps_si512(unit[k + 1].v));
  };
  __m512i bytes = _mm512_packus_epi16(words(0), words(2));
  if (!positive) {
    __m512i middle = _mm512_set1_epi8(127);
    __mmask64 negative = _mm512_movepi8_mask(_mm512_packs_epi16(signs(0), signs(2)));
    bytes = _mm512_mask_subs_epu8(_mm512_add_epi8(middle, bytes), negative, middle, bytes);
  }
  __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(order, bytes));
#elif defined(__AVX2__)
  auto words = [&](int k) {
    __m256i both = _mm256_packus_epi32(reinterpret_cast<__m256i>(t[k]), reinterpret_cast<__m256i>(t[k + 1]));
    return positive ? _mm256_subs_epu16(both, _mm256_set1_epi16(1)) : _mm256_srli_epi16(both, 1);
  };
  auto signs = [&](int k) {
    return _mm256_packs_epi32(_mm256_castps_si256(unit[k].v), _mm256_castps_si256(unit[k + 1].v));
  };
  __m256i bytes = _mm256_packus_epi16(words(0), words(2));
  if (!positive) {
    __m256i middle = _mm256_set1_epi8(127);
    __m256i negative = _mm256_packs_epi16(signs(0), signs(2));
    bytes = _mm256_blendv_epi8(_mm256_add_epi8(middle, bytes), _mm256_subs_epu8(middle, bytes), negative);
  }
  __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(bytes, order));
#else
  for (int k = 0; k < 4; ++k) {
    RawVec<int32_t> sign = unit[k].bits() >> 31;  // 0 or -1
    RawVec<int32_t> code = positive ? t[k] - 1 : 127 + ((t[k] >> 1 ^ sign) - sign);
    code = code < 0 ? RawVec<int32_t>{} : code;
    for (int j = 0; j < Vec<float>::size; ++j) codes[k * Vec<float>::size + j] = uint8_t(code[j]);
  }
#endif
}

}  // namespace
}  // namespace nnart::cpu
