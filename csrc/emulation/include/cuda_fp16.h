// What csrc/cuda uses of CUDA's own header of this name.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half x) { return x.bits; }

inline float __half2float(__half x) {
  uint32_t exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  float size = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(float(fraction), -24)
                               : std::ldexp(float(1024 + fraction), int(exponent) - 25);
  return x.bits & 0x8000 ? -size : size;
}

inline __half __float2half_rn(float x) {
  if (x != x) return {0x7fff};
  auto sign = uint16_t(std::bit_cast<uint32_t>(x) >> 16 & 0x8000);
  float size = std::fabs(x);
  if (size >= 65520) return {uint16_t(sign | 0x7c00)};
  // Adding and subtracting a power of two leaves the bits that a half has, rounded to nearest, ties to even.
  int exponent = 0;
  std::frexp(size, &exponent);
  float shift = std::ldexp(1.5f, (exponent < -13 ? -13 : exponent) + 12);
  float rounded = (size + shift) - shift;
  if (rounded < 0x1p-14f) return {uint16_t(sign | int(rounded * 0x1p24f))};
  auto bits = std::bit_cast<uint32_t>(rounded);
  return {uint16_t(sign | ((bits >> 13) - (112 << 10)))};
}
