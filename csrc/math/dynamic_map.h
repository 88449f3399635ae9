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

// A map's lines, with what 0 and 1 are as two more; each is looked up by four bits. first: the exponent of the lowest
// decade's t, 0 in the signed map and 1 in the other.
struct DynamicMap {
  // From t + 1/4, whose exponent's low bits are the index: t = 0 has an exponent of its own then.
  float slope[16], base[16];
  // To t, by the number of the decade: -1 is below all of them, and 7 is 1. Where a decade ends the nearest value may
  // be its last though t is nearer to the next.
  float steepness[16], offset[16], last_t[16];
  // From which value on a decade's are the nearest; the last entry is 1's.
  float border[kDecades + 1];
  // The same by the exponent of a value from 2^-23 to 1: no binade has two borders.
  float border_in_binade[32];
  int32_t decade_below[32];
};

constexpr DynamicMap dynamic_map(int first) {
  DynamicMap map{};
  double last = 0, power = 1e-6;
  for (int i = 0; i < kDecades; ++i, power *= 10) {
    double count = double(1 << (i + first)), width = 0.9 * power / count;
    double base = power * 0.1 + width * (0.5 - count);
    int index = (127 + i + first) & 15;
    map.slope[index] = float(width);
    map.base[index] = float(base - 0.25 * width);
    map.steepness[i] = float(1 / width);
    map.offset[i] = float(-base / width);
    map.last_t[i] = float(2 * count - 1);
    map.border[i] = float((last + power * 0.1 + width * 0.5) / 2);
    last = power * 0.1 + width * (count - 0.5);
  }
  int one = kDecades + first, zero = 15;
  map.base[(127 + one) & 15] = 1;
  map.border[kDecades] = float((last + 1) / 2);
  map.offset[kDecades] = map.last_t[kDecades] = float(1 << one);
  map.offset[zero] = map.last_t[zero] = float(first);
  for (int exponent = 104; exponent <= 127; ++exponent) {
    double low = 1;
    for (int e = exponent; e < 127; ++e) low /= 2;
    int& below = map.decade_below[exponent & 31];
    float& border = map.border_in_binade[exponent & 31];
    below = -1;
    border = 2;
    for (int i = 0; i <= kDecades; ++i) {
      if (double(map.border[i]) <= low)
        below = i;
      else if (double(map.border[i]) < 2 * low)
        border = map.border[i];
    }
  }
  return map;
}

constexpr DynamicMap kSignedMap = dynamic_map(0), kPositiveMap = dynamic_map(1);

// The value, between -1 and 1, of a code.
template <bool positive>
NNART_HD float decoded(const DynamicMap& map, uint8_t code) {
  int32_t t = positive ? code : code - 127;
  float moved = float(t < 0 ? -t : t) + (positive ? 1.25f : 0.25f);
  int32_t index = __builtin_bit_cast(int32_t, moved) >> 23 & 15;
  float value = map.slope[index] * moved + map.base[index];
  return t < 0 ? -value : value;
}

// The code of the value nearest to x, which is between -1 and 1; of NaN, any.
template <bool positive>
NNART_HD uint8_t encoded(const DynamicMap& map, float x) {
  float size = positive ? x : abs(x);
  int32_t exponent = __builtin_bit_cast(int32_t, at_least(size, 0x1p-23f)) >> 23 & 31;
  int32_t decade = (map.decade_below[exponent] + (size >= map.border_in_binade[exponent])) & 15;
  float t = at_most(size * map.steepness[decade] + map.offset[decade], map.last_t[decade]);
  // Adding 1.5 2^23 rounds to a whole number, which then stands in the low bits.
  int32_t whole = __builtin_bit_cast(int32_t, t + 0x1.8p23f) - 0x4b400000;
  if (positive) return uint8_t(whole - 1);
  int32_t code = x < 0 ? 127 - whole : 127 + whole;
  return uint8_t(code < 0 ? 0 : code);  // there is no -1: the nearest is the one before
}

}  // namespace nnart::math
