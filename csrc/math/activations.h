// The element-wise activations: one struct each, forward and derivative side by side.
//
// forward(x) gives y; backward(grad_y, s) gives grad_x, where s is what the forward saved: the input, unless the
// comment says "saves y". T is float or double, or a SIMD vector of them; C, the type of the parameters, is its scalar.
// A NaN input gives a NaN output everywhere. Where a comparison decides, it is written so that NaN takes the branch
// that keeps it.
#pragma once

#include <cstdint>

#include "math/portable.h"

namespace nnart {

// Up to three numbers, in the order of the schema's arguments.
struct ActivationParameters {
  double a = 0, b = 0, c = 0;
};

namespace math {

// 1 / (1 + e^-x)
template <class T>
NNART_HD T logistic(T x) {
  return inverse(T(1) + exp(-x));
}

// x, for a convolution that adds a residual and nothing more.
template <class C>
struct Identity {
  NNART_HD explicit Identity(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x;
  }
  template <class T>
  NNART_HD T backward(T grad_y, T) const {
    return grad_y;
  }
};

// max(x, 0); x <= 0 is false for NaN. Saves y: y > 0 exactly where x > 0.
template <class C>
struct Relu {
  NNART_HD explicit Relu(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return at_least(x, T(0));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    return select(y <= T(0), T(0), grad_y);
  }
};

// x if x > 0, else a x
template <class C>
struct LeakyRelu {
  C slope;
  NNART_HD explicit LeakyRelu(ActivationParameters p = {}) : slope(C(p.a)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return select(x > T(0), x, x * T(slope));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(x > T(0), grad_y, grad_y * T(slope));
  }
};

// x if x > a, else b; x <= a is false for NaN.
template <class C>
struct Threshold {
  C threshold, value;
  NNART_HD explicit Threshold(ActivationParameters p = {}) : threshold(C(p.a)), value(C(p.b)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return select(x <= T(threshold), T(value), x);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(x <= T(threshold), T(0), grad_y);
  }
};

// x clamped to [a, b]; both comparisons are false for NaN. The derivative at the bounds is 0.
template <class C>
struct Hardtanh {
  C low, high;
  NNART_HD explicit Hardtanh(ActivationParameters p = {}) : low(C(p.a)), high(C(p.b)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return at_most(at_least(x, T(low)), T(high));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(x > T(low), select(x < T(high), grad_y, T(0)), T(0));
  }
};

// clamp(x + 3, 0, 6) / 6
template <class C>
struct Hardsigmoid {
  NNART_HD explicit Hardsigmoid(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return at_most(at_least(x + T(3), T(0)), T(6)) / T(6);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(x > T(-3), select(x < T(3), grad_y * T(1.0 / 6), T(0)), T(0));
  }
};

// x clamp(x + 3, 0, 6) / 6
template <class C>
struct Hardswish {
  NNART_HD explicit Hardswish(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x * at_most(at_least(x + T(3), T(0)), T(6)) / T(6);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T inside = grad_y * (x * T(1.0 / 3) + T(0.5));
    return select(x <= T(-3), T(0), select(x >= T(3), grad_y, inside));
  }
};

// 0 if |x| <= a, else x
template <class C>
struct Hardshrink {
  C lambda;
  NNART_HD explicit Hardshrink(ActivationParameters p = {}) : lambda(C(p.a)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return select(abs(x) <= T(lambda), T(0), x);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(abs(x) <= T(lambda), T(0), grad_y);
  }
};

// x - a if x > a, x + a if x < -a, else 0 (x * 0, which keeps NaN)
template <class C>
struct Softshrink {
  C lambda;
  NNART_HD explicit Softshrink(ActivationParameters p = {}) : lambda(C(p.a)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return select(x > T(lambda), x - T(lambda), select(x < T(-lambda), x + T(lambda), x * T(0)));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return select(abs(x) <= T(lambda), T(0), grad_y);
  }
};

// b (x if x > 0, else a (e^(c x) - 1)). ELU is b = c = 1; SELU fixes a and b (Klambauer et al. 2017, arXiv:1706.02515);
// CELU is c = 1 / a. ELU: Clevert et al. 2016, arXiv:1511.07289.
template <class C>
struct Elu {
  C alpha, scale, input_scale;
  NNART_HD explicit Elu(ActivationParameters p = {}) : alpha(C(p.a)), scale(C(p.b)), input_scale(C(p.c)) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return select(x > T(0), x * T(scale), expm1(x * T(input_scale)) * T(alpha * scale));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T slope = exp(x * T(input_scale)) * T(alpha * scale * input_scale);
    return grad_y * select(x > T(0), T(scale), slope);
  }
};

// The derivative of Elu from y: a curved part has f' = c (y + a b). a is not negative, so that y > 0 exactly where
// x > 0.
template <class C>
struct EluFromOutput {
  C scale, input_scale, lowest;
  NNART_HD explicit EluFromOutput(ActivationParameters p) : scale(C(p.b)), input_scale(C(p.c)), lowest(C(p.a * p.b)) {}
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    return grad_y * select(y > T(0), T(scale), (y + T(lowest)) * T(input_scale));
  }
};

// 1 / (1 + e^-x). Saves y.
template <class C>
struct Sigmoid {
  NNART_HD explicit Sigmoid(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return logistic(x);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    return grad_y * (T(1) - y) * y;
  }
};

// log(1 / (1 + e^-x)) = min(x, 0) - log(1 + e^-|x|), which neither overflows nor cancels.
template <class C>
struct LogSigmoid {
  NNART_HD explicit LogSigmoid(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return at_most(x, T(0)) - log1p_unit(exp_not_above_one(minus_abs(x)));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    return grad_y * inverse(T(1) + exp(x));
  }
};

// x if a x > b, else log(1 + e^(a x)) / a, computed as (max(v, 0) + log(1 + e^-|v|)) / a with v = a x
template <class C>
struct Softplus {
  C beta, threshold;
  bool is_plain;  // a is 1 and b so high that a float does not feel it: torch's defaults
  NNART_HD explicit Softplus(ActivationParameters p = {})
      : beta(C(p.a)), threshold(C(p.b)), is_plain(sizeof(C) == 4 && p.a == 1 && p.b >= 20) {}
  template <class T>
  NNART_HD T forward(T x) const {
    if (is_plain) return soft(x);
    T v = x * T(beta);
    return select(v > T(threshold), x, soft(v) * T(C(1) / beta));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T v = x * T(beta);
    return select(v > T(threshold), grad_y, grad_y * logistic(v));
  }

 private:
  template <class T>
  NNART_HD static T soft(T v) {
    return at_least(v, T(0)) + log1p_unit(exp_not_above_one(minus_abs(v)));
  }
};

// The derivative of LogSigmoid from y: 1 - e^y.
template <class C>
struct LogSigmoidFromOutput {
  NNART_HD explicit LogSigmoidFromOutput(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    return -(grad_y * expm1(y));
  }
};

// The derivative of Softplus from y: 1 - e^(-a y), and 1 above the threshold, which is so high that it is not felt.
template <class C>
struct SoftplusFromOutput {
  C beta, threshold;
  NNART_HD explicit SoftplusFromOutput(ActivationParameters p) : beta(C(p.a)), threshold(C(p.b)) {}
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    T v = y * T(beta);
    return select(v > T(threshold), grad_y, -(grad_y * expm1(-v)));
  }
};

// x / (1 + |x|)
template <class C>
struct Softsign {
  NNART_HD explicit Softsign(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x * inverse(T(1) + abs(x));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T d = inverse(T(1) + abs(x));
    return grad_y * d * d;
  }
};

// Saves y.
template <class C>
struct Tanh {
  NNART_HD explicit Tanh(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return tanh(x);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T y) const {
    return grad_y * (T(1) - y * y);
  }
};

// x - tanh(x)
template <class C>
struct Tanhshrink {
  NNART_HD explicit Tanhshrink(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x - tanh(x);
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T t = tanh(x);
    return grad_y * t * t;
  }
};

// x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415)
template <class C>
struct Gelu {
  NNART_HD explicit Gelu(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x * normal(x).cdf;
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    auto at_x = normal(x);
    return grad_y * (at_x.cdf + x * at_x.bell * T(0.39894228040143267794));  // 1 / sqrt(2 pi)
  }
};

// 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), computed as x / (1 + e^-2u), which does not cancel.
template <class C>
struct GeluTanh {
  NNART_HD explicit GeluTanh(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x * inverse(T(1) + exp(-twice_u(x, x * x)));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    // With e = e^-2u and s = 1 / (1 + e): s (1 - s) = e s s, which does not cancel where s is close to 1. Capping e
    // keeps it finite where s is close to 0.
    T square = x * x;
    T v = twice_u(x, square);
    T e = exp(at_most(-v, T(80)));
    T s = inverse(T(1) + e);
    T twice_du = T(kTwiceRoot) + T(3 * kTwiceRoot * kCubic) * square;
    return grad_y * (s + x * (e * s) * s * twice_du);
  }

 private:
  static constexpr double kTwiceRoot = 1.59576912160573071176;  // 2 sqrt(2 / pi)
  static constexpr double kCubic = 0.044715;
  template <class T>
  NNART_HD static T twice_u(T x, T square) {
    return x * (T(kTwiceRoot) + T(kTwiceRoot * kCubic) * square);
  }
};

// x / (1 + e^-x) (Elfwing et al. 2017, arXiv:1702.03118)
template <class C>
struct Silu {
  NNART_HD explicit Silu(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    return x * inverse(T(1) + exp(-x));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    T s = logistic(x);
    return grad_y * s * (T(1) + x * (T(1) - s));
  }
};

// x tanh(log(1 + e^x)) (Misra 2019, arXiv:1908.08681). With e = e^x and n = e^2 + 2e the tanh is n / (n + 2): one
// exponential, no logarithm, no cancellation. e is capped where the ratio has long been 1, before n overflows a float.
template <class C>
struct Mish {
  NNART_HD explicit Mish(ActivationParameters = {}) {}
  template <class T>
  NNART_HD T forward(T x) const {
    T e = capped_exp(x);
    T n = e * (e + T(2));
    return x * ratio(n, n + T(2));
  }
  template <class T>
  NNART_HD T backward(T grad_y, T x) const {
    // d/dx = t + x (1 - t^2) sigmoid(x), and with d = n + 2: 1 - t^2 = 4 (n + 1) / d^2, sigmoid(x) = e / (e + 1),
    // n + 1 = (e + 1)^2. So the second term is 4 x e (e + 1) / d^2.
    T e = capped_exp(x);
    T n = e * (e + T(2));
    T d = inverse(n + T(2));
    return grad_y * (n * d + x * (T(4) * e * (e + T(1)) * d) * d);
  }

 private:
  template <class T>
  NNART_HD static T capped_exp(T x) {
    return exp(at_most(x, T(40)));
  }
};

}  // namespace math

enum class Activation : int32_t {
  Relu,
  LeakyRelu,
  Threshold,
  Hardtanh,
  Hardsigmoid,
  Hardswish,
  Hardshrink,
  Softshrink,
  Elu,
  Sigmoid,
  LogSigmoid,
  Softplus,
  Softsign,
  Tanh,
  Tanhshrink,
  Gelu,
  GeluTanh,
  Silu,
  Mish,
  Identity,
};

// Whether the functor's backward reads y instead of x.
NNART_HD bool saves_output(Activation activation) {
  return activation == Activation::Relu || activation == Activation::Sigmoid || activation == Activation::Tanh;
}

// Calls visit with the functor that a names and that has the derivative from y instead of what the forward saves, and
// says whether there is one.
template <class C, class Visit>
inline __attribute__((always_inline)) bool with_derivative_from_output(Activation activation, ActivationParameters p,
                                                                       Visit visit) {
  if (activation == Activation::Elu)
    visit(math::EluFromOutput<C>(p));
  else if (activation == Activation::LogSigmoid)
    visit(math::LogSigmoidFromOutput<C>(p));
  else if (activation == Activation::Softplus)
    visit(math::SoftplusFromOutput<C>(p));
  else
    return false;
  return true;
}

// Calls visit with the functor that a names, if its output says what its derivative is: where its backward reads x, y
// will do. Says whether it did. On the device too, as those below: visit is of the side that calls.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class C, class Visit>
NNART_HD bool with_known_from_output(Activation activation, ActivationParameters p, Visit visit) {
  using enum Activation;
  if (activation == Relu)
    visit(math::Relu<C>(p));
  else if (activation == LeakyRelu && p.a > 0)
    visit(math::LeakyRelu<C>(p));
  else if (activation == Hardtanh)
    visit(math::Hardtanh<C>(p));
  else if (activation == Sigmoid)
    visit(math::Sigmoid<C>(p));
  else if (activation == Tanh)
    visit(math::Tanh<C>(p));
  else
    return false;
  return true;
}

// A derivative of two values, and whether it is: 0 and 0 where it has more of them.
struct Slopes {
  double low, high;
};
inline __attribute__((always_inline)) Slopes slopes_of(Activation activation, ActivationParameters p) {
  using enum Activation;
  if (activation == LeakyRelu) return {p.a, 1};
  if (activation == Hardsigmoid) return {0, 1.0 / 6};
  bool zero_or_one = activation == Relu || activation == Threshold || activation == Hardtanh ||
                     activation == Hardshrink || activation == Softshrink;
  return {0, zero_or_one ? 1.0 : 0.0};
}

// Calls visit with the functor that a names, if its derivative takes two values.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class C, class Visit>
NNART_HD void with_two_slopes(Activation activation, ActivationParameters p, Visit visit) {
  using enum Activation;
  if (activation == Relu) visit(math::Relu<C>(p));
  if (activation == LeakyRelu) visit(math::LeakyRelu<C>(p));
  if (activation == Threshold) visit(math::Threshold<C>(p));
  if (activation == Hardtanh) visit(math::Hardtanh<C>(p));
  if (activation == Hardsigmoid) visit(math::Hardsigmoid<C>(p));
  if (activation == Hardshrink) visit(math::Hardshrink<C>(p));
  if (activation == Softshrink) visit(math::Softshrink<C>(p));
}

// Calls visit with the functor that a names, if a batch normalization may compute it in its own kernels, of which there
// is one for each: those that networks have there. Says whether it did.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class C, class Visit>
NNART_HD bool with_fused_activation(Activation activation, ActivationParameters p, Visit visit) {
  using enum Activation;
  if (activation == Identity)
    visit(math::Identity<C>(p));
  else if (activation == Relu)
    visit(math::Relu<C>(p));
  else if (activation == LeakyRelu)
    visit(math::LeakyRelu<C>(p));
  else if (activation == Hardtanh)
    visit(math::Hardtanh<C>(p));
  else if (activation == Hardswish)
    visit(math::Hardswish<C>(p));
  else if (activation == Elu)
    visit(math::Elu<C>(p));
  else if (activation == Silu)
    visit(math::Silu<C>(p));
  else if (activation == Mish)
    visit(math::Mish<C>(p));
  else
    return false;
  return true;
}

// Calls visit with the functor that a names, its parameters converted to the compute type C.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
template <class C, class Visit>
NNART_HD void with_activation(Activation activation, ActivationParameters p, Visit visit) {
  switch (activation) {
    case Activation::Relu:
      return visit(math::Relu<C>(p));
    case Activation::LeakyRelu:
      return visit(math::LeakyRelu<C>(p));
    case Activation::Threshold:
      return visit(math::Threshold<C>(p));
    case Activation::Hardtanh:
      return visit(math::Hardtanh<C>(p));
    case Activation::Hardsigmoid:
      return visit(math::Hardsigmoid<C>(p));
    case Activation::Hardswish:
      return visit(math::Hardswish<C>(p));
    case Activation::Hardshrink:
      return visit(math::Hardshrink<C>(p));
    case Activation::Softshrink:
      return visit(math::Softshrink<C>(p));
    case Activation::Elu:
      return visit(math::Elu<C>(p));
    case Activation::Sigmoid:
      return visit(math::Sigmoid<C>(p));
    case Activation::LogSigmoid:
      return visit(math::LogSigmoid<C>(p));
    case Activation::Softplus:
      return visit(math::Softplus<C>(p));
    case Activation::Softsign:
      return visit(math::Softsign<C>(p));
    case Activation::Tanh:
      return visit(math::Tanh<C>(p));
    case Activation::Tanhshrink:
      return visit(math::Tanhshrink<C>(p));
    case Activation::Gelu:
      return visit(math::Gelu<C>(p));
    case Activation::GeluTanh:
      return visit(math::GeluTanh<C>(p));
    case Activation::Silu:
      return visit(math::Silu<C>(p));
    case Activation::Mish:
      return visit(math::Mish<C>(p));
    case Activation::Identity:
      return visit(math::Identity<C>(p));
  }
}

}  // namespace nnart
