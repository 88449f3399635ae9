// The arithmetic vocabulary of math/: what a formula may call on a scalar, on the host and on the device.
// cpu/vec.h offers the same names for SIMD vectors; formulas call them unqualified, so that argument-dependent
// lookup picks the vector versions and these serve the scalars.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define NNART_HD __host__ __device__ __forceinline__
#else
// always_inline keeps a function compiled with AVX-512 flags from being the copy that the linker shares with
// the baseline objects.
#define NNART_HD inline __attribute__((always_inline))
#endif

namespace nnart::math {

NNART_HD float exp(float x) { return ::expf(x); }
NNART_HD double exp(double x) { return ::exp(x); }
// e^x for x <= 0: the range in which the vector version need not look out for infinity.
NNART_HD float exp_not_above_one(float x) { return ::expf(x); }
NNART_HD double exp_not_above_one(double x) { return ::exp(x); }
NNART_HD float expm1(float x) { return ::expm1f(x); }
NNART_HD double expm1(double x) { return ::expm1(x); }
// log(1 + x) for x in [0, 1]: all that the formulas need, and all that the vector version can do.
NNART_HD float log1p_unit(float x) { return ::log1pf(x); }
NNART_HD double log1p_unit(double x) { return ::log1p(x); }
NNART_HD float log(float x) { return ::logf(x); }
NNART_HD double log(double x) { return ::log(x); }
NNART_HD float tanh(float x) { return ::tanhf(x); }
NNART_HD double tanh(double x) { return ::tanh(x); }
NNART_HD float sqrt(float x) { return ::sqrtf(x); }
NNART_HD double sqrt(double x) { return ::sqrt(x); }
NNART_HD float abs(float x) { return ::fabsf(x); }
NNART_HD double abs(double x) { return ::fabs(x); }
NNART_HD float minus_abs(float x) { return -::fabsf(x); }
NNART_HD double minus_abs(double x) { return -::fabs(x); }

// The standard normal distribution at x: its distribution function and bell = e^(-x^2 / 2), which share their work.
template <class T>
struct Normal {
  T cdf, bell;
};
NNART_HD Normal<float> normal(float x) { return {0.5f * ::erfcf(-0.70710678f * x), ::expf(-0.5f * x * x)}; }
NNART_HD Normal<double> normal(double x) { return {0.5 * ::erfc(-0.70710678118654752440 * x), ::exp(-0.5 * x * x)}; }

// The larger (at_least) or smaller (at_most) of x and bound; NaN for a NaN x.
template <class T>
NNART_HD T at_least(T x, T bound) {
  return x < bound ? bound : x;
}
template <class T>
NNART_HD T at_most(T x, T bound) {
  return x > bound ? bound : x;
}

// 1 / x for x >= 1, inf and NaN included: the range in which the vector version need not divide.
template <class T>
NNART_HD T inverse(T x) {
  return T(1) / x;
}

// a / b for b >= 1: correctly rounded where the result is stored in full.
template <class T>
NNART_HD T ratio(T a, T b) {
  return a / b;
}

// condition ? a : b, written as a function because a vector has no ternary in every compiler.
template <class T>
NNART_HD T select(bool condition, T a, T b) {
  return condition ? a : b;
}

}  // namespace nnart::math
