// SIMD vectors for the instruction set this object is compiled for, and the elementary functions on them.
//
// Built on the compiler's vector types, so that one source serves SSE2, AVX2, AVX-512 and NEON; an intrinsic appears
// only where the generic form costs time. Everything is in an unnamed namespace: each instruction set has its own
// copies and the linker can never hand an AVX-512 function to an older CPU.
//
// Accuracy of the float functions, measured over all finite inputs against double: exp, expm1, tanh, log1p_unit
// and normal are within 2 units in the last place (normal's cdf: 3).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/dtype.h"
#include "math/portable.h"

namespace nnart::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
};
template <class T>
using Bits = typename BitsOf<T>::type;

template <class T>
using RawVec __attribute__((vector_size(kVectorBytes))) = T;

// All ones where true, as the comparisons of vector types give.
template <class T>
struct Mask {
  RawVec<Bits<T>> v;
};

template <class T>
struct Vec {
  static constexpr int size = kVectorBytes / sizeof(T);
  using Raw = RawVec<T>;
  using RawBits = RawVec<Bits<T>>;
  Raw v;

  Vec() = default;
  NNART_HD Vec(Raw raw) : v(raw) {}
  NNART_HD explicit Vec(double value) : v(Raw{} + T(value)) {}

  NNART_HD RawBits bits() const { return reinterpret_cast<RawBits>(v); }
  NNART_HD static Vec from_bits(RawBits bits) { return reinterpret_cast<Raw>(bits); }

  NNART_HD friend Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  NNART_HD friend Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  NNART_HD friend Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  NNART_HD friend Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  NNART_HD friend Vec operator-(Vec a) { return -a.v; }
  NNART_HD friend Mask<T> operator<(Vec a, Vec b) { return {a.v < b.v}; }
  NNART_HD friend Mask<T> operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
  NNART_HD friend Mask<T> operator>(Vec a, Vec b) { return {a.v > b.v}; }
  NNART_HD friend Mask<T> operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
};

template <class T>
NNART_HD Vec<T> select(Mask<T> condition, Vec<T> a, Vec<T> b) {
  return condition.v ? a.v : b.v;
}

constexpr int64_t kSignBit64 = INT64_MIN;
template <class T>
constexpr Bits<T> kSignBit = sizeof(T) == 4 ? Bits<T>(INT32_MIN) : Bits<T>(kSignBit64);

template <class T>
NNART_HD Vec<T> abs(Vec<T> x) {
  return Vec<T>::from_bits(x.bits() & ~kSignBit<T>);
}

template <class T>
NNART_HD Vec<T> copy_sign(Vec<T> magnitude, Vec<T> sign) {
  return Vec<T>::from_bits((magnitude.bits() & ~kSignBit<T>) | (sign.bits() & kSignBit<T>));
}

// Applies a scalar function to each lane, for what has no vector form here.
template <class T, class F>
NNART_HD Vec<T> each_lane(Vec<T> x, F f) {
  Vec<T> y;
  for (int i = 0; i < Vec<T>::size; ++i) y.v[i] = f(T(x.v[i]));
  return y;
}

template <class T>
NNART_HD Vec<T> sqrt(Vec<T> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_sqrt_ps(x.v));
  else
    return Vec<T>(_mm512_sqrt_pd(x.v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm256_sqrt_ps(x.v));
  else
    return Vec<T>(_mm256_sqrt_pd(x.v));
#else
  return each_lane(x, [](T lane) { return T(std::sqrt(lane)); });
#endif
}

// ---- exponentials -------------------------------------------------------------------------------------------------

// x = n ln 2 + r with |r| <= ln(2) / 2; n is in the low bits of shifted and, as a float, in whole.
template <class T>
struct Reduced {
  Vec<T> shifted, whole, r;
};

// Adding kShifter pushes the fraction out of the mantissa, which rounds to the nearest integer and leaves it in the
// low bits. ln 2 comes in two parts (Cody and Waite), so that n * kLn2High is exact.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr double shifter = 0x1.8p23, ln2_high = 0.693359375, ln2_low = -2.12194440e-4;
  static constexpr double lowest = -104, highest = 89;  // e^x is 0 below, inf above
  static constexpr double expm1_lowest = -30;           // e^x - 1 is -1 below
  static constexpr int mantissa = 23, bias = 127;
};
template <>
struct ExpConstants<double> {
  static constexpr double shifter = 0x1.8p52, ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double lowest = -746, highest = 710;
  static constexpr double expm1_lowest = -60;
  static constexpr int mantissa = 52, bias = 1023;
};

template <class T>
NNART_HD Reduced<T> reduce_by_ln2(Vec<T> x) {
  using K = ExpConstants<T>;
  Vec<T> shifted = x * Vec<T>(1.44269504088896340736) + Vec<T>(K::shifter);
  Vec<T> whole = shifted - Vec<T>(K::shifter);
  Vec<T> r = x - whole * Vec<T>(K::ln2_high);
  return {shifted, whole, r - whole * Vec<T>(K::ln2_low)};
}

// e^r - 1 for |r| <= ln(2) / 2, as r + r^2 q(r), so that it is accurate relative to r.
NNART_HD Vec<float> expm1_near_zero(Vec<float> r) {
  using V = Vec<float>;
  V q(1.9875691500e-4);  // minimax, from Cephes' expf
  q = q * r + V(1.3981999507e-3);
  q = q * r + V(8.3334519073e-3);
  q = q * r + V(4.1665795894e-2);
  q = q * r + V(1.6666665459e-1);
  q = q * r + V(5.0000001201e-1);
  return r + r * r * q;
}
NNART_HD Vec<double> expm1_near_zero(Vec<double> r) {
  using V = Vec<double>;
  V q(1.0 / 6227020800);  // Taylor to r^13 / 13!; the next term is below 5e-18
  q = q * r + V(1.0 / 479001600);
  q = q * r + V(1.0 / 39916800);
  q = q * r + V(1.0 / 3628800);
  q = q * r + V(1.0 / 362880);
  q = q * r + V(1.0 / 40320);
  q = q * r + V(1.0 / 5040);
  q = q * r + V(1.0 / 720);
  q = q * r + V(1.0 / 120);
  q = q * r + V(1.0 / 24);
  q = q * r + V(1.0 / 6);
  q = q * r + V(1.0 / 2);
  return r + r * r * q;
}

// 2^k for an integer vector k in the exponent's normal range.
template <class T>
NNART_HD Vec<T> power_of_two(RawVec<Bits<T>> k) {
  using K = ExpConstants<T>;
  return Vec<T>::from_bits((k + K::bias) << K::mantissa);
}

template <class T>
NNART_HD RawVec<Bits<T>> whole_bits(Reduced<T> reduced) {
  return reduced.shifted.bits() - Vec<T>(ExpConstants<T>::shifter).bits();
}

template <class T>
NNART_HD Vec<T> exp(Vec<T> x) {
  using K = ExpConstants<T>;
  x = select(x < Vec<T>(K::lowest), Vec<T>(K::lowest), x);
  x = select(x > Vec<T>(K::highest), Vec<T>(K::highest), x);
  Reduced<T> reduced = reduce_by_ln2(x);
  Vec<T> y = Vec<T>(1) + expm1_near_zero(reduced.r);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_scalef_ps(y.v, reduced.whole.v));
  else
    return Vec<T>(_mm512_scalef_pd(y.v, reduced.whole.v));
#else
  // In two steps, because 2^n itself leaves the normal range where e^x is subnormal or about to overflow.
  auto n = whole_bits(reduced);
  auto half = n >> 1;
  return y * power_of_two<T>(half) * power_of_two<T>(n - half);
#endif
}

template <class T>
NNART_HD Vec<T> expm1(Vec<T> x) {
  using K = ExpConstants<T>;
  x = select(x < Vec<T>(K::expm1_lowest), Vec<T>(K::expm1_lowest), x);
  x = select(x > Vec<T>(K::highest), Vec<T>(K::highest), x);
  Reduced<T> reduced = reduce_by_ln2(x);
  // 2^n w + (2^n - 1), halved because 2^n overflows at the upper end.
  Vec<T> w = expm1_near_zero(reduced.r);
  Vec<T> half = power_of_two<T>(whole_bits(reduced) - 1);
  Vec<T> y = half * w + (half - Vec<T>(0.5));
  return y + y;
}

// log(1 + x) for x in [0, 1], as 2 atanh(s) with s = x / (2 + x) <= 1/3.
NNART_HD Vec<float> log1p_unit(Vec<float> x) {
  using V = Vec<float>;
  V s = x / (x + V(2));
  V z = s * s;
  V p(2.0 / 15);
  p = p * z + V(2.0 / 13);
  p = p * z + V(2.0 / 11);
  p = p * z + V(2.0 / 9);
  p = p * z + V(2.0 / 7);
  p = p * z + V(2.0 / 5);
  p = p * z + V(2.0 / 3);
  p = p * z + V(2.0);
  return s * p;
}
NNART_HD Vec<double> log1p_unit(Vec<double> x) {
  using V = Vec<double>;
  V s = x / (x + V(2));
  V z = s * s;
  V p(2.0 / 35);
  for (int k = 33; k >= 1; k -= 2) p = p * z + V(2.0 / k);
  return s * p;
}

// With e = e^(2|x|) - 1: e / (e + 2), or 1 - 2 / (e + 2) where that rounds better. One division serves both.
template <class T>
NNART_HD Vec<T> tanh(Vec<T> x) {
  using V = Vec<T>;
  V magnitude = abs(x);
  V e = expm1(magnitude + magnitude);
  Mask<T> large = magnitude > V(0.55);
  V ratio = select(large, V(-2), e) / (e + V(2));
  return copy_sign(select(large, V(1) + ratio, ratio), x);
}

// cdf(-a) = e^(-a^2 / 2) R(1 / (1 + 0.3 a)) for a >= 0, R a minimax polynomial with a relative error of 1.5e-7.
NNART_HD math::Normal<Vec<float>> normal(Vec<float> x) {
  using V = Vec<float>;
  V t = V(1) / (V(1) + V(0.3) * abs(x));
  V bell = exp(x * x * V(-0.5));
  V r(3.567591600e-02);
  r = r * t + V(-1.572079594e-01);
  r = r * t + V(2.063620626e-01);
  r = r * t + V(-5.369160483e-02);
  r = r * t + V(1.285658496e-01);
  r = r * t + V(9.991222007e-02);
  r = r * t + V(1.207541568e-01);
  r = r * t + V(1.196292860e-01);
  V tail = r * t * bell;
  return {select(x > V(0), V(1) - tail, tail), bell};
}
NNART_HD math::Normal<Vec<double>> normal(Vec<double> x) {
  return {each_lane(x, [](double lane) { return 0.5 * std::erfc(-0.70710678118654752440 * lane); }),
          exp(x * x * Vec<double>(-0.5))};
}

// ---- memory -------------------------------------------------------------------------------------------------------

// As many 16-bit elements as a Vec<float> has lanes.
using Raw16 __attribute__((vector_size(kVectorBytes / 2))) = uint16_t;
using RawU32 = RawVec<uint32_t>;

NNART_HD Vec<float> widen(Type<BFloat16>, Raw16 h) {
  return reinterpret_cast<RawVec<float>>(__builtin_convertvector(h, RawU32) << 16);
}

// To nearest, ties to even; NaN stays a (quiet) NaN. The hardware's vcvtneps2bf16 would flush subnormals.
NNART_HD Raw16 narrow(Type<BFloat16>, Vec<float> x) {
  RawU32 bits = reinterpret_cast<RawU32>(x.v);
  RawU32 rounded = bits + 0x7fff + ((bits >> 16) & 1);
  RawU32 quiet = bits | 0x400000;
  return __builtin_convertvector((x.v == x.v ? rounded : quiet) >> 16, Raw16);
}

NNART_HD Vec<float> widen(Type<Float16>, Raw16 h) {
#if defined(__AVX512F__)
  return Vec<float>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(h)));
#elif defined(__F16C__)
  return Vec<float>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(h)));
#else
  RawU32 wide = __builtin_convertvector(h, RawU32);
  RawU32 magnitude = (wide & 0x7fff) << 13;
  // The exponent's bias grows by 112; multiplying does it for normals and subnormals alike. inf and NaN keep theirs.
  RawVec<float> value = reinterpret_cast<RawVec<float>>(magnitude) * 0x1p112f;
  RawU32 finite = reinterpret_cast<RawU32>(value);
  RawU32 result = (wide & 0x7c00) == 0x7c00 ? (magnitude | 0x7f800000) : finite;
  return reinterpret_cast<RawVec<float>>(result | ((wide & 0x8000) << 16));
#endif
}

NNART_HD Raw16 narrow(Type<Float16>, Vec<float> x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Raw16>(_mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return reinterpret_cast<Raw16>(_mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
#else
  RawU32 bits = reinterpret_cast<RawU32>(x.v);
  RawU32 sign = bits & 0x80000000;
  RawU32 magnitude = bits ^ sign;
  // Normals: change the bias by -112, round to nearest even at bit 13. The carry may run into the exponent, rightly.
  RawU32 normal_bits = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Subnormals: adding 0.5 aligns the mantissa so that the addition itself rounds.
  RawU32 half = RawU32{} + 0x3f000000;
  RawU32 subnormal_bits =
      reinterpret_cast<RawU32>(reinterpret_cast<RawVec<float>>(magnitude) + reinterpret_cast<RawVec<float>>(half)) -
      half;
  RawU32 finite = magnitude < (113u << 23) ? subnormal_bits : normal_bits;
  RawU32 special = magnitude > 0x7f800000 ? RawU32{} + 0x7e00 : RawU32{} + 0x7c00;
  RawU32 result = magnitude >= (143u << 23) ? special : finite;
  return __builtin_convertvector(result | (sign >> 16), Raw16);
#endif
}

// One vector's worth of elements from memory (no alignment needed), in the compute type.
template <class S>
NNART_HD Vec<ComputeType<S>> load(const S* p) {
  if constexpr (sizeof(S) == 2) {
    Raw16 h;
    std::memcpy(&h, p, sizeof h);
    return widen(Type<S>{}, h);
  } else {
    Vec<S> x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
}

template <class S>
NNART_HD void store(S* p, Vec<ComputeType<S>> x) {
  if constexpr (sizeof(S) == 2) {
    Raw16 h = narrow(Type<S>{}, x);
    std::memcpy(p, &h, sizeof h);
  } else {
    std::memcpy(p, &x.v, sizeof x.v);
  }
}

// The first count lanes; the others are zero.
template <class S>
NNART_HD Vec<ComputeType<S>> load_partial(const S* p, int64_t count) {
  S lanes[Vec<ComputeType<S>>::size] = {};
  std::memcpy(lanes, p, size_t(count) * sizeof(S));
  return load(lanes);
}

template <class S>
NNART_HD void store_partial(S* p, Vec<ComputeType<S>> x, int64_t count) {
  S lanes[Vec<ComputeType<S>>::size];
  store(lanes, x);
  std::memcpy(p, lanes, size_t(count) * sizeof(S));
}

// All lanes from one element.
template <class S>
NNART_HD Vec<ComputeType<S>> load_broadcast(const S* p) {
  S lanes[Vec<ComputeType<S>>::size];
  for (S& lane : lanes) lane = *p;
  return load(lanes);
}

}  // namespace
}  // namespace nnart::cpu
