// 8-bit state: the dynamic map of Dettmers et al. 2022 (arXiv:2110.02861), with a scale for each block of elements.
//
// The map has seven decades below 1, each with twice the values of the one below, evenly spread. Its values in order
// are numbered t = 0, 1, ...: 0 itself, then a decade for each power of two of t. So the decade is t's binary exponent
// and a value is a line in t, without a table of 256. A signed code is 127 + t or 127 - t; there decade i has 2^i
// values, t is from 1 to 127, and 128 stands for 1. An unsigned code is t - 1; there decade i has 2^(i + 1) values,
// t = 1 stands for 0 and 256 for 1.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart::math {

constexpr int kDecades = 7;

// A map's lines, with what 0 and 1 are as two more. first: the exponent of the lowest decade's t, 0 in the signed map
// and 1 in the other.
//
// Within a decade whose values lie below x = 10^e, x / (0.9 10^e) + 8/9 goes from 1 to 2 while t goes from one power of
// two to the next, always half a value ahead of it: so t is the leading bits of that number, and those alone.
struct DynamicMap {
  // From t / 256, by the last four bits of its exponent.
  float slope[16], base[16];
  // From x, by how many of the borders but for one are above it, modulo 8: none and all of them have the same.
  float reach[8];
  // From which value on those of a decade are the nearest, which is not yet where it begins; the last border is 1's.
  // Here the last one in or below a binade, by the last five bits of the exponent of a value from 2^-23 on; none has
  // two. Its last three bits say how many are above it: a change far below the distance between two values.
  float border[32];
};

constexpr float kLeast = 0x1p-23f, kAhead = float(8.0 / 9), kBelowTwo = 0x1.fffffep0f;

// The number nearest to x that has `last` in its last three bits.
constexpr float with_last_bits(float x, int32_t last) {
  int32_t bits = __builtin_bit_cast(int32_t, x), moved = ((bits - last + 4) & ~7) + last;
  return __builtin_bit_cast(float, moved);
}

constexpr DynamicMap dynamic_map(int first) {
  DynamicMap map{};
  float borders[kDecades + 1] = {};
  double last = 0, power = 1e-6;
  for (int i = 0; i < kDecades; ++i, power *= 10) {
    double count = double(1 << (i + first)), width = 0.9 * power / count;
    double base = power * 0.1 + width * (0.5 - count);
    int index = (127 - 8 + i + first) & 15;
    map.slope[index] = float(256 * width);
    map.base[index] = float(base);
    map.reach[kDecades - 1 - i] = float(1 / (0.9 * power));
    borders[i] = with_last_bits(float((last + power * 0.1 + width * 0.5) / 2), kDecades - i);
    last = power * 0.1 + width * (count - 0.5);
  }
  map.base[(127 - 8 + kDecades + first) & 15] = 1;
  borders[kDecades] = with_last_bits(float((last + 1) / 2), 0);
  map.reach[kDecades] = 0.1125f;  // takes 1 to a little more than 1, and what is below all borders to less
  for (int exponent = 104; exponent <= 127; ++exponent) {
    double end = 2;
    for (int e = exponent; e < 127; ++e) end /= 2;
    float& last_below_end = map.border[exponent & 31];
    last_below_end = borders[0];
    for (float border : borders)
      if (double(border) < end) last_below_end = border;
  }
  return map;
}

constexpr DynamicMap kSignedMap = dynamic_map(0), kPositiveMap = dynamic_map(1);

// The value, between -1 and 1, of a code.
template <bool positive>
NNART_HD float decoded(const DynamicMap& map, uint8_t code) {
  float t = float(positive ? code + 1 : code - 127) * 0x1p-8f;
  int32_t index = __builtin_bit_cast(int32_t, t) >> 23 & 15;
  float base = map.base[index];
  return map.slope[index] * t + (t < 0 ? -base : base);
}

// The code of the value nearest to x, which is between -1 and 1; of NaN, any.
template <bool positive>
NNART_HD uint8_t encoded(const DynamicMap& map, float x) {
  float size = at_least(positive ? x : abs(x), kLeast);
  float border = map.border[__builtin_bit_cast(int32_t, size) >> 23 & 31];
  int32_t above = (__builtin_bit_cast(int32_t, border) & 7) - (size >= border);  // -1 for x = 1
  float ahead = at_most(size * map.reach[above & 7] + kAhead, kBelowTwo);
  // A whole number from 2^23 on for 1, less for what is below it.
  int32_t t = (__builtin_bit_cast(int32_t, ahead) - 0x3f000000) >> (above + (positive ? 16 : 17));
  if (positive) return uint8_t(t > 0 ? t - 1 : 0);
  int32_t code = x < 0 ? 127 - t : 127 + t;
  return uint8_t(code < 0 ? 0 : code);  // there is no -1: the nearest is the one before
}

}  // namespace nnart::math
