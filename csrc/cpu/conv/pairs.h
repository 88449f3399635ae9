// What a product is made of: numbers, or pairs of bfloat16 that one instruction multiplies and adds to a float.
//
// A pair stands in 32 bits, where a float would: two terms of a sum that follow each other. The copies that tiles read
// are made of pairs instead of widened numbers, and everything that says where they lie stays as it is. The hardware
// takes subnormals for zero.
#pragma once

#include <type_traits>

#include "cpu/vec.h"
#include "math/integers.h"

namespace nnart::cpu {
namespace {

struct Pair {
  BFloat16 first, second;
};

// How many terms of a sum an element of type E is.
template <class E>
constexpr int64_t kTermsOf = std::is_same_v<E, Pair> ? 2 : 1;

template <class T>
NNART_HD Vec<T> broadcast(T x) {
  return typename Vec<T>::Raw(x - typename Vec<T>::Raw{});  // minus 0, not plus, is no operation
}

// A vector of elements of type E as they lie in memory, and one element in all of its lanes.
template <class E>
struct Factor {
  Vec<E> v;
  NNART_HD static Factor load(const E* p) { return {cpu::load(p)}; }
  NNART_HD static Factor load_partial(const E* p, int64_t n) { return {cpu::load_partial(p, n)}; }
  NNART_HD static Factor broadcast(const E* p) { return {cpu::broadcast(*p)}; }
};

template <class E>
NNART_HD void add_product(Vec<E>& sum, const Factor<E>& a, const Factor<E>& b) {
  sum = sum + a.v * b.v;
}

// The distance to a second term that is not there: zero stands in its place. 0 is that of an expanded tensor.
constexpr int64_t kNoTerm = -1;

// The terms at `from`, the second of them `next` further.
template <class E, class S>
NNART_HD E element_at(const S* from, [[maybe_unused]] int64_t next) {
  if constexpr (kTermsOf<E> == 2)
    return {*from, next == kNoTerm ? S{} : from[next]};
  else
    return widen_one<E>(from);
}

#if defined(__AVX512F__)

template <>
struct Factor<Pair> {
  RawU32 v;
  NNART_HD static Factor load(const void* p) {
    Factor x;
    std::memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  NNART_HD static Factor broadcast(const Pair* p) {
    uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return {bits - RawU32{}};
  }
};
// Neighbours in memory are pairs already.
template <>
struct Factor<BFloat16> : Factor<Pair> {
  NNART_HD static Factor load(const BFloat16* p) { return {Factor<Pair>::load(p)}; }
  NNART_HD static Factor load_partial(const BFloat16* p, int64_t n) {
    Factor x{};
    x.v = reinterpret_cast<RawU32>(_mm512_maskz_loadu_epi16(__mmask32((uint64_t{1} << n) - 1), p));
    return x;
  }
};

NNART_HD void add_product(Vec<float>& sum, const Factor<Pair>& a, const Factor<Pair>& b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));  // its intrinsic needs a flag of its own
}

// Lane i is the pair of from[i] and from[i + next]; n lanes.
NNART_HD RawU32 load_pairs(const BFloat16* from, int64_t next, int64_t n) {
  auto half = [lanes = __mmask16((1u << n) - 1)](const BFloat16* p) {
    return __builtin_convertvector(reinterpret_cast<Raw16>(_mm256_maskz_loadu_epi16(lanes, p)), RawU32);
  };
  RawU32 first = half(from);
  return next == kNoTerm ? first : first | half(from + next) << 16;
}

// The same of from[2 * i] and from[2 * i + next]; reads behind the last of them.
NNART_HD RawU32 load_every_other_pair(const BFloat16* from, int64_t next) {
  RawU32 first = Factor<Pair>::load(from).v & 0xffff;
  return next == kNoTerm ? first : first | Factor<Pair>::load(from + next).v << 16;
}

// to[i] = the pair of from[i * stride] and from[i * stride + next].
NNART_HD void pair_run(Pair* to, const BFloat16* from, int64_t next, int64_t stride, int64_t n) {
  constexpr int64_t width = Vec<float>::size;
  if (stride == 2 && next == 1) return void(std::memcpy(to, from, size_t(n) * sizeof(Pair)));
  int64_t i = 0;
  if (stride == 1)
    for (; i < n; i += width) {
      int64_t count = least(width, n - i);
      _mm512_mask_storeu_epi32(to + i, __mmask16((1u << count) - 1),
                               reinterpret_cast<__m512i>(load_pairs(from + i, next, count)));
    }
  if (stride == 2)
    for (; i + width < n; i += width) {
      RawU32 pairs = load_every_other_pair(from + 2 * i, next);
      std::memcpy(to + i, &pairs, sizeof pairs);
    }
  for (; i < n; ++i) to[i] = element_at<Pair>(from + i * stride, next);
}

#endif

}  // namespace
}  // namespace nnart::cpu
