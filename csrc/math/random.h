// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): four random words from a counter
// and a key, so that any word of a stream can be had without those before it, on any thread, in any order.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart::math {

// The counter, and what becomes of it. T is a lane of 64 bits whose low half is the word and whose high half is not
// read: multiplying the low halves of such lanes is what a SIMD unit does, and a shift gives the product's upper half.
template <class T>
struct Words {
  T a, b, c, d;
};

NNART_HD constexpr uint64_t wide_product(uint64_t a, uint32_t b) { return (a & 0xffffffff) * b; }
NNART_HD constexpr uint64_t high_half(uint64_t a) { return a >> 32; }
NNART_HD constexpr uint64_t exclusive_or(uint64_t a, uint64_t b, uint32_t c) { return a ^ b ^ c; }

template <class T>
NNART_HD constexpr Words<T> philox4x32(Words<T> counter, uint64_t key) {
  auto low = uint32_t(key), high = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    T p = wide_product(counter.a, 0xd2511f53), q = wide_product(counter.c, 0xcd9e8d57);
    counter = {exclusive_or(high_half(q), counter.b, low), q, exclusive_or(high_half(p), counter.d, high), p};
    low += 0x9e3779b9;  // the golden ratio and sqrt(3) - 1
    high += 0xbb67ae85;
  }
  return counter;
}

// The authors' known answers (kat_vectors of Random123).
constexpr bool philox_gives(Words<uint64_t> counter, uint64_t key, Words<uint64_t> expected) {
  Words<uint64_t> got = philox4x32(counter, key);
  return uint32_t(got.a) == expected.a && uint32_t(got.b) == expected.b && uint32_t(got.c) == expected.c &&
         uint32_t(got.d) == expected.d;
}
static_assert(philox_gives({0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
static_assert(philox_gives({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffffffffffff,
                           {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
static_assert(philox_gives({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822,
                           {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));

}  // namespace nnart::math
