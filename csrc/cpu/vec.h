// SIMD vectors for the instruction set this object is compiled for, and how they are read and written.
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

constexpr int64_t kSignBit64 = INT64_MIN;
template <class T>
constexpr Bits<T> kSignBit = sizeof(T) == 4 ? Bits<T>(INT32_MIN) : Bits<T>(kSignBit64);

template <class T, Precision P>
NNART_HD Vec<T, P> abs(Vec<T, P> x) {
  return Vec<T, P>::from_bits(x.bits() & ~kSignBit<T>);
}

template <class T, Precision P>
NNART_HD Vec<T, P> minus_abs(Vec<T, P> x) {
  return Vec<T, P>::from_bits(x.bits() | kSignBit<T>);
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
NNART_HD void store_even_odd(BFloat16* p, EvenOdd x) {
  RawU32 joined = join_even_odd(x);
  std::memcpy(p, &joined, sizeof joined);
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

// One element in the compute type, and back.
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
#if defined(__F16C__)
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return _cvtsh_ss(bits);
#else
    return load_broadcast(p).v[0];
#endif
  }
}
template <class S>
NNART_HD void store_one(S* p, ComputeType<S> x) {
  if constexpr (sizeof(S) == 2)
    store_partial(p, Vec<ComputeType<S>>(double(x)), 1);
  else
    *p = x;
}

}  // namespace
}  // namespace nnart::cpu
