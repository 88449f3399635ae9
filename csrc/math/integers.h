// Whole-number arithmetic of sizes and places.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart {

NNART_HD int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
NNART_HD int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// a / b rounded up, for a >= 0 and b > 0.
NNART_HD int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// For b > 0 and any a: a / b rounded down or up, and what the rounding down leaves.
NNART_HD int64_t div_floor(int64_t a, int64_t b) { return a / b - (a % b < 0); }
NNART_HD int64_t div_up(int64_t a, int64_t b) { return -div_floor(-a, b); }
NNART_HD int64_t modulo(int64_t a, int64_t b) { return a - div_floor(a, b) * b; }

// The greatest common divisor of positive numbers.
NNART_HD int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// The last of count > 0 entries that begins at or before a unit of work; first(i) is where entry i begins.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class F>
NNART_HD int64_t entry_of(int64_t unit, int64_t count, const F& first) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    int64_t middle = low + (high - low) / 2;
    (first(middle) <= unit ? low : high) = middle;
  }
  return low;
}

// The least power of two that is at least that, up to at_most, which is one.
NNART_HD int power_of_two(int64_t at_least, int at_most) {
  int power = 1;
  while (power < at_least && power < at_most) power *= 2;
  return power;
}

}  // namespace nnart
