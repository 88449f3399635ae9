// SIMD vectors for the instruction set this object is compiled for, and the elementary functions on them.
//
// Built on the compiler's vector types, so that one source serves SSE2, AVX2, AVX-512 and NEON; an intrinsic appears
// only where the generic form costs time. Everything is in an unnamed namespace: each instruction set has its own
// copies and the linker can never hand an AVX-512 function to an older CPU.
//
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
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

// How exact the elementary functions are: full, for float and double results, or brief, for results that are stored in
// 16 bits: relative errors up to 6e-5 vanish beside the rounding to 8 or 11 significant bits that follows, and the
// shorter polynomials take half the time.
enum class Precision { full, brief };

// All ones where true, as the comparisons of vector types give.
template <class T>
struct Mask {
  RawVec<Bits<T>> v;
};

template <class T, Precision P = Precision::full>
struct Vec {
  static constexpr int size = kVectorBytes / sizeof(T);
  using Raw = RawVec<T>;
  using RawBits = RawVec<Bits<T>>;
  Raw v;

  Vec() = default;
  NNART_HD Vec(Raw raw) : v(raw) {}
  NNART_HD explicit Vec(double value) : v(T(value) - Raw{}) {}  // minus 0, not plus, keeps -0

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
  NNART_HD friend Mask<T> operator!=(Vec a, Vec b) { return {a.v != b.v}; }
};

template <class T>
NNART_HD Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {a.v | b.v};
}

template <class T, Precision P>
NNART_HD Vec<T, P> select(Mask<T> condition, Vec<T, P> a, Vec<T, P> b) {
  return condition.v ? a.v : b.v;
}

// The larger of x and bound, and NaN for a NaN x: of two operands, x86's max returns the second when either is NaN.
template <class T, Precision P>
NNART_HD Vec<T, P> at_least(Vec<T, P> x, Vec<T, P> bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T, P>(_mm512_max_ps(bound.v, x.v));
  else
    return Vec<T, P>(_mm512_max_pd(bound.v, x.v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return Vec<T, P>(_mm256_max_ps(bound.v, x.v));
  else
    return Vec<T, P>(_mm256_max_pd(bound.v, x.v));
#else
  return select(x < bound, bound, x);
#endif
}

template <class T, Precision P>
NNART_HD Vec<T, P> at_most(Vec<T, P> x, Vec<T, P> bound) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T, P>(_mm512_min_ps(bound.v, x.v));
  else
    return Vec<T, P>(_mm512_min_pd(bound.v, x.v));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return Vec<T, P>(_mm256_min_ps(bound.v, x.v));
  else
    return Vec<T, P>(_mm256_min_pd(bound.v, x.v));
#else
  return select(x > bound, bound, x);
#endif
}

// 1 / x for x >= 1, inf and NaN included.
template <class T, Precision P>
NNART_HD Vec<T, P> inverse(Vec<T, P> x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    Vec<T, P> r(_mm512_rcp14_ps(x.v));
    if constexpr (P == Precision::brief) return r;
    // One Newton step. For x = inf, r is 0 and the residual NaN; min returns its second operand then, and 0 stays 0.
    Vec<T, P> residual = Vec<T, P>(1) - x * r;
    return r + r * Vec<T, P>(_mm512_min_ps(residual.v, Vec<T, P>(1e-3).v));
  }
#endif
  return Vec<T, P>(1) / x;
}

// a / b for b >= 1, inf and NaN included.
template <class T, Precision P>
NNART_HD Vec<T, P> ratio(Vec<T, P> a, Vec<T, P> b) {
  if constexpr (P == Precision::brief) return a * inverse(b);
  return a / b;
}

constexpr int64_t kSignBit64 = INT64_MIN;
template <class T>
constexpr Bits<T> kSignBit = sizeof(T) == 4 ? Bits<T>(INT32_MIN) : Bits<T>(kSignBit64);

template <class T, Precision P>
NNART_HD Vec<T, P> abs(Vec<T, P> x) {
  return Vec<T, P>::from_bits(x.bits() & ~kSignBit<T>);
}

template <class T, Precision P>
NNART_HD Vec<T, P> copy_sign(Vec<T, P> magnitude, Vec<T, P> sign) {
  return Vec<T, P>::from_bits((magnitude.bits() & ~kSignBit<T>) | (sign.bits() & kSignBit<T>));
}

// Applies a scalar function to each lane, for what has no vector form here.
template <class T, class F>
NNART_HD Vec<T> each_lane(Vec<T> x, F f) {
  Vec<T> y;
  for (int i = 0; i < Vec<T>::size; ++i) y.v[i] = f(T(x.v[i]));
  return y;
}

// The numbers of the lanes: 0, 1, 2, ...
template <class T, int... lane>
NNART_HD RawVec<Bits<T>> count_lanes(std::integer_sequence<int, lane...>) {
  return RawVec<Bits<T>>{lane...};
}
template <class T>
NNART_HD RawVec<Bits<T>> lane_numbers() {
  return count_lanes<T>(std::make_integer_sequence<int, Vec<T>::size>{});
}

// x in the first count lanes, other in the rest.
template <class T, Precision P>
NNART_HD Vec<T, P> first_lanes(Vec<T, P> x, int64_t count, Vec<T, P> other) {
  return select(Mask<T>{lane_numbers<T>() < Bits<T>(count)}, x, other);
}

// Joins all lanes by f, halves with halves; which lane meets which does not depend on the data.
template <int half, class T, Precision P, class F>
NNART_HD T fold_lanes(Vec<T, P> x, const F& f) {
  if constexpr (half == 0) {
    return x.v[0];
  } else {
    Vec<T, P> other(__builtin_shuffle(x.v, lane_numbers<T>() ^ half));
    return fold_lanes<half / 2>(f(x, other), f);
  }
}
template <class T, Precision P>
NNART_HD T sum_of_lanes(Vec<T, P> x) {
  return fold_lanes<Vec<T, P>::size / 2>(x, [](auto a, auto b) { return a + b; });
}
template <class T, Precision P>
NNART_HD T largest_lane(Vec<T, P> x) {
  return fold_lanes<Vec<T, P>::size / 2>(x, [](auto a, auto b) { return at_least(a, b); });
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
template <class T, Precision P>
struct Reduced {
  Vec<T, P> shifted, whole, r;
};

// Adding the shifter pushes the fraction out of the mantissa, which rounds to the nearest integer and leaves it in the
// low bits. ln 2 comes in two parts (Cody and Waite), so that n * ln2_high is exact.
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

template <class T, Precision P>
NNART_HD Reduced<T, P> reduce_by_ln2(Vec<T, P> x) {
  using K = ExpConstants<T>;
  using V = Vec<T, P>;
  V shifted = x * V(1.44269504088896340736) + V(K::shifter);
  V whole = shifted - V(K::shifter);
  if constexpr (P == Precision::brief) return {shifted, whole, x - whole * V(0.69314718055994530942)};
  V r = x - whole * V(K::ln2_high);
  return {shifted, whole, r - whole * V(K::ln2_low)};
}

// coefficients[0] + coefficients[1] x + ...
template <class V, int count>
NNART_HD V polynomial(V x, const double (&coefficients)[count]) {
  V y(coefficients[count - 1]);
  for (int k = count - 2; k >= 0; --k) y = y * x + V(coefficients[k]);
  return y;
}

// e^r - 1 for |r| <= ln(2) / 2, as r + r^2 q(r), so that it is accurate relative to r.
template <class T, Precision P>
NNART_HD Vec<T, P> expm1_near_zero(Vec<T, P> r) {
  using V = Vec<T, P>;
  if constexpr (P == Precision::brief) {
    constexpr double q[] = {5.000165596e-01, 1.674966846e-01, 4.160967128e-02};  // minimax, 2e-5
    return r + r * r * polynomial(r, q);
  } else if constexpr (sizeof(T) == 4) {
    constexpr double q[] = {5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2,  // minimax, from Cephes' expf
                            8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4};
    return r + r * r * polynomial(r, q);
  } else {
    V q(1.0 / 6227020800);  // Taylor to r^13 / 13!; the next term is below 5e-18
    double factorial = 6227020800;
    for (int k = 13; k > 2; --k) q = q * r + V(1 / (factorial /= k));
    return r + r * r * q;
  }
}

// 2^k for an integer vector k in the exponent's normal range.
template <class T, Precision P>
NNART_HD Vec<T, P> power_of_two(RawVec<Bits<T>> k) {
  using K = ExpConstants<T>;
  return Vec<T, P>::from_bits((k + K::bias) << K::mantissa);
}

template <class T, Precision P>
NNART_HD RawVec<Bits<T>> whole_bits(Reduced<T, P> reduced) {
  return reduced.shifted.bits() - Vec<T>(ExpConstants<T>::shifter).bits();
}

// e^x for x between ExpConstants' lowest and highest, or NaN.
template <class T, Precision P>
NNART_HD Vec<T, P> exp_within(Vec<T, P> x) {
  using V = Vec<T, P>;
  Reduced<T, P> reduced = reduce_by_ln2(x);
  V y = V(1) + expm1_near_zero(reduced.r);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return V(_mm512_scalef_ps(y.v, reduced.whole.v));
  else
    return V(_mm512_scalef_pd(y.v, reduced.whole.v));
#else
  // In two steps, because 2^n itself leaves the normal range where e^x is subnormal or about to overflow.
  auto n = whole_bits(reduced);
  auto half = n >> 1;
  return y * power_of_two<T, P>(half) * power_of_two<T, P>(n - half);
#endif
}

template <class T, Precision P>
NNART_HD Vec<T, P> exp(Vec<T, P> x) {
  using K = ExpConstants<T>;
  using V = Vec<T, P>;
  return exp_within(at_most(at_least(x, V(K::lowest)), V(K::highest)));
}

template <class T, Precision P>
NNART_HD Vec<T, P> expm1(Vec<T, P> x) {
  using K = ExpConstants<T>;
  using V = Vec<T, P>;
  x = at_most(at_least(x, V(K::expm1_lowest)), V(K::highest));
  Reduced<T, P> reduced = reduce_by_ln2(x);
  // 2^n w + (2^n - 1), halved because 2^n overflows at the upper end.
  V w = expm1_near_zero(reduced.r);
  V half = power_of_two<T, P>(whole_bits(reduced) - 1);
  V y = half * w + (half - V(0.5));
  return y + y;
}

// log(1 + x) for x in [0, 1], as 2 atanh(s) with s = x / (2 + x) <= 1/3.
template <class T, Precision P>
NNART_HD Vec<T, P> log1p_unit(Vec<T, P> x) {
  using V = Vec<T, P>;
  V s = x * inverse(x + V(2));
  V z = s * s;
  if constexpr (P == Precision::brief) {
    constexpr double p[] = {2.000014377e+00, 6.643812392e-01, 4.529516274e-01};  // minimax, 7e-6
    return s * polynomial(z, p);
  } else if constexpr (sizeof(T) == 4) {
    constexpr double p[] = {2.000000008e+00, 6.666631477e-01, 4.002490588e-01, 2.796067321e-01, 2.817798948e-01};
    return s * polynomial(z, p);
  } else {
    V p(2.0 / 35);
    for (int k = 33; k >= 1; k -= 2) p = p * z + V(2.0 / k);
    return s * p;
  }
}

// log(x) for 1 <= x < inf or NaN: of 2^e m with m in [1, 2), e ln 2 + log(1 + (m - 1)).
template <class T, Precision P>
NNART_HD Vec<T, P> log_from_one(Vec<T, P> x) {
  using K = ExpConstants<T>;
  using V = Vec<T, P>;
  auto exponent = x.bits() >> K::mantissa;
  V m = V::from_bits(x.bits() - ((exponent - K::bias) << K::mantissa));
  V e(__builtin_convertvector(exponent - K::bias, RawVec<T>));
  V log = e * V(0.69314718055994530942) + log1p_unit(m - V(1));
  return select(x != x, x, log);
}

// With e = e^(2|x|) - 1: e / (e + 2), or 1 - 2 / (e + 2) where that rounds better. One division serves both.
template <class T, Precision P>
NNART_HD Vec<T, P> tanh(Vec<T, P> x) {
  using V = Vec<T, P>;
  V magnitude = abs(x);
  V e = expm1(magnitude + magnitude);
  Mask<T> large = magnitude > V(0.55);
  V ratio = select(large, V(-2), e) * inverse(e + V(2));
  return copy_sign(select(large, V(1) + ratio, ratio), x);
}

// The lower tail, cdf(-a) for a >= 0, is e^(-a^2 / 2) t R(t), t = 1 / (1 + c a), with R a minimax polynomial: accurate
// relative to the tail itself, unlike 1 - erf. Beyond a = 14.4 it is 0 in float.
template <Precision P>
NNART_HD math::Normal<Vec<float, P>> normal(Vec<float, P> x) {
  using V = Vec<float, P>;
  V a = at_most(abs(x), V(14.4));
  V bell = exp_within(a * a * V(-0.5));
  V tail;
  if constexpr (P == Precision::brief) {
    constexpr double r[] = {1.512253861e-01, 1.578275901e-01, 9.198495889e-02, 1.888702039e-01, -8.992561459e-02};
    V t = inverse(V(1) + V(0.38) * a);
    tail = bell * t * polynomial(t, r);  // 4e-5
  } else {
    constexpr double r[] = {1.196292860e-01,  1.207541568e-01, 9.991222007e-02,  1.285658496e-01,
                            -5.369160483e-02, 2.063620626e-01, -1.572079594e-01, 3.567591600e-02};
    V t = inverse(V(1) + V(0.3) * a);
    tail = bell * t * polynomial(t, r);  // 1.5e-7
  }
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

// The upper half of the result is x as bfloat16: to nearest, ties to even. A NaN that arithmetic made is quiet, so that
// its upper half is one too and needs only be kept from the rounding. With short_nans it has no bits in its lower half
// and is left as it is by the rounding itself. The hardware's vcvtneps2bf16 flushes subnormals.
template <bool short_nans = false>
NNART_HD RawU32 round_to_bfloat16(Vec<float> x) {
  RawU32 bits = reinterpret_cast<RawU32>(x.v);
  RawU32 rounded = bits + 0x7fff + ((bits >> 16) & 1);
  if constexpr (short_nans) return rounded;
  return x.v == x.v ? rounded : bits;
}

NNART_HD Raw16 narrow(Type<BFloat16>, Vec<float> x) {
  return __builtin_convertvector(round_to_bfloat16(x) >> 16, Raw16);
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

// Two vectors of bfloat16 at once: the even elements in one, the odd ones in the other. A shift or a mask widens them,
// where load and store would have to move every lane.
struct EvenOdd {
  Vec<float> even, odd;
};
NNART_HD EvenOdd load_even_odd(const BFloat16* p) {
  RawU32 pairs;
  std::memcpy(&pairs, p, sizeof pairs);
  return {Vec<float>(reinterpret_cast<RawVec<float>>(pairs << 16)),
          Vec<float>(reinterpret_cast<RawVec<float>>(pairs & 0xffff0000))};
}
template <bool short_nans = false>
NNART_HD RawU32 join_even_odd(EvenOdd x) {
  return (round_to_bfloat16<short_nans>(x.even) >> 16) | (round_to_bfloat16<short_nans>(x.odd) & 0xffff0000);
}

// x stays in its register: the compiler would rather load it anew for each use than spill something else.
template <class T>
NNART_HD void keep_in_register([[maybe_unused]] Vec<T>& x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.v));
#elif defined(__aarch64__)
  asm("" : "+w"(x.v));
#endif
}

// to[i] = from[i] for i < count < 2 * piece, in a few moves of sizes that the compiler knows.
template <int piece, class S>
NNART_HD void copy_some(S* to, const S* from, int64_t count) {
  int64_t moved = count & piece;
  if (moved) std::memcpy(to, from, piece * sizeof(S));
  if constexpr (piece > 1) copy_some<piece / 2>(to + moved, from + moved, count);
}

// The first count lanes, count no more than a vector's size; the others are zero.
template <class S>
NNART_HD Vec<ComputeType<S>> load_partial(const S* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    return Vec<float>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p));
  else if constexpr (sizeof(S) == 8)
    return Vec<double>(_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p));
  else
    return widen(Type<S>{}, reinterpret_cast<Raw16>(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p)));
#else
#if defined(__AVX2__)
  alignas(64) static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  if constexpr (sizeof(S) == 4)
    return Vec<float>(_mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - count))));
  if constexpr (sizeof(S) == 8)
    return Vec<double>(
        _mm256_maskload_pd(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - 2 * count))));
#endif
  S lanes[Vec<ComputeType<S>>::size] = {};
  copy_some<Vec<ComputeType<S>>::size>(lanes, p, count);
  return load(lanes);
#endif
}

template <class S>
NNART_HD void store_partial(S* p, Vec<ComputeType<S>> x, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), x.v);
  else if constexpr (sizeof(S) == 8)
    _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), x.v);
  else
    _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), reinterpret_cast<__m256i>(narrow(Type<S>{}, x)));
#else
  S lanes[Vec<ComputeType<S>>::size];
  store(lanes, x);
  copy_some<Vec<ComputeType<S>>::size>(p, lanes, count);
#endif
}

// The even (or odd) lanes of a, then those of b.
template <class T, bool odd, int... lane>
NNART_HD Vec<T> every_other(Vec<T> a, Vec<T> b, std::integer_sequence<int, lane...>) {
  return Vec<T>(__builtin_shuffle(a.v, b.v, RawVec<Bits<T>>{(2 * lane + odd)...}));
}

// a[0], b[0], a[1], b[1], ... of the lower or the upper halves.
template <class T, bool upper, int... i>
NNART_HD Vec<T> alternate(Vec<T> a, Vec<T> b, std::integer_sequence<int, i...>) {
  constexpr int n = sizeof...(i), from = upper ? n / 2 : 0;
  return Vec<T>(__builtin_shuffle(a.v, b.v, RawVec<Bits<T>>{(i % 2 * n + from + i / 2)...}));
}
// All lanes from one element.
template <class S>
NNART_HD Vec<ComputeType<S>> load_broadcast(const S* p) {
  S lanes[Vec<ComputeType<S>>::size];
  for (S& lane : lanes) lane = *p;
  return load(lanes);
}

// One element in the compute type.
template <class T, class S>
NNART_HD T widen_one(const S* p) {
  if constexpr (sizeof(S) == sizeof(T)) {
    return *p;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    uint16_t upper;
    std::memcpy(&upper, p, sizeof upper);
    uint32_t bits = uint32_t(upper) << 16;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  } else {
    return load_broadcast(p).v[0];
  }
}

}  // namespace
}  // namespace nnart::cpu
