// The elementary functions on vectors, under the names by which math/ calls them.
#pragma once

#include <cmath>

#include "cpu/vec.h"

namespace nnart::cpu {
namespace {

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
    constexpr double q[] = {4.9999993432e-1, 1.6666520397e-1, 4.1668390831e-2,  // minimax, 3e-9 of e^r
                            8.3687453204e-3, 1.3814537903e-3};
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

// e^r for |r| <= ln(2) / 2, of the same coefficients.
template <class T, Precision P>
NNART_HD Vec<T, P> exp_near_zero(Vec<T, P> r) {
  using V = Vec<T, P>;
  if constexpr (P == Precision::brief) {
    constexpr double c[] = {1, 1, 5.000165596e-01, 1.674966846e-01, 4.160967128e-02};
    return polynomial(r, c);
  } else if constexpr (sizeof(T) == 4) {
    constexpr double c[] = {1, 1, 4.9999993432e-1, 1.6666520397e-1, 4.1668390831e-2, 8.3687453204e-3, 1.3814537903e-3};
    return polynomial(r, c);
  } else {
    return V(1) + expm1_near_zero(r);
  }
}

// e^x for x between ExpConstants' lowest and highest, or NaN.
template <class T, Precision P>
NNART_HD Vec<T, P> exp_within(Vec<T, P> x) {
  using V = Vec<T, P>;
  Reduced<T, P> reduced = reduce_by_ln2(x);
  V y = exp_near_zero(reduced.r);
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
NNART_HD Vec<T, P> exp_not_above_one(Vec<T, P> x) {
  return exp_within(at_least(x, Vec<T, P>(ExpConstants<T>::lowest)));
}

template <class T, Precision P>
NNART_HD Vec<T, P> exp(Vec<T, P> x) {
  return exp_not_above_one(at_most(x, Vec<T, P>(ExpConstants<T>::highest)));
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

// x / (x + 2) for x in [0, 1]: the error of the first estimate is one multiplication away.
template <class T, Precision P>
NNART_HD Vec<T, P> over_two_and_more(Vec<T, P> x) {
  using V = Vec<T, P>;
  V d = x + V(2);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    V r(_mm512_rcp14_ps(d.v)), s = x * r;
    if constexpr (P == Precision::brief) return s;
    return s + (x - s * d) * r;
  }
#endif
  return x / d;
}

// log(1 + x) for x in [0, 1], as 2 atanh(s) with s = x / (2 + x) <= 1/3.
template <class T, Precision P>
NNART_HD Vec<T, P> log1p_unit(Vec<T, P> x) {
  using V = Vec<T, P>;
  V s = over_two_and_more(x);
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

}  // namespace
}  // namespace nnart::cpu
