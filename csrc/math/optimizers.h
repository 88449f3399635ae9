// The optimizers' update rules: one element's arithmetic. T is float or double, or a SIMD vector of them; C is its
// scalar.
//
// A rule updates its arguments in registers: param, the gradient, then the state in the order of its schema. What is
// the same for all elements (signs, complements, bias corrections) is prepared once, in double.
#pragma once

#include "math/portable.h"

namespace nnart {

struct SgdParameters {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
};

// With the bias corrections of step t, which differ between tensors that have seen different numbers of steps.
struct AdamWParameters {
  double kept;  // 1 - lr weight_decay
  double beta1, beta2, eps;
  double step_size;        // lr / (1 - beta1^t)
  double root_correction;  // 1 / sqrt(1 - beta2^t)
  bool maximize;
};

namespace math {

// Which terms of SGD's rule there are: a term with the factor 0 is left out, because 0 * inf is NaN.
struct SgdTerms {
  bool decay, momentum, nesterov;
};

// g = +-grad + weight_decay p;  b = momentum b + (1 - dampening) g;  p = p - lr (nesterov ? g + momentum b : b)
// (Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning")
template <class C, SgdTerms terms>
struct Sgd {
  C lr, momentum, undamped, weight_decay, sign;

  NNART_HD explicit Sgd(const SgdParameters& p)
      : lr(C(p.lr)),
        momentum(C(p.momentum)),
        undamped(C(1 - p.dampening)),
        weight_decay(C(p.weight_decay)),
        sign(C(p.maximize ? -1 : 1)) {}

  template <class T>
  NNART_HD void operator()(T& param, T grad) const {
    param = param - T(lr) * direction(param, grad);
  }
  template <class T>
  NNART_HD void operator()(T& param, T grad, T& buffer) const {
    T g = direction(param, grad);
    buffer = buffer * T(momentum) + g * T(undamped);
    if constexpr (terms.nesterov)
      param = param - T(lr) * (g + T(momentum) * buffer);
    else
      param = param - T(lr) * buffer;
  }

 private:
  template <class T>
  NNART_HD T direction(T param, T grad) const {
    T g = grad * T(sign);
    if constexpr (terms.decay) g = g + T(weight_decay) * param;
    return g;
  }
};

// p = p (1 - lr weight_decay);  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
// p = p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps), where w is v or, with AMSGrad, the largest v so far
// (Loshchilov and Hutter 2019, arXiv:1711.05101; AMSGrad: Reddi et al. 2018). NaN: v >= NaN is false, so w is NaN.
template <class C>
struct AdamW {
  C kept, beta1, beta1_rest, beta2, beta2_rest, eps, sign, step_size, root_correction;

  NNART_HD explicit AdamW(const AdamWParameters& p)
      : kept(C(p.kept)),
        beta1(C(p.beta1)),
        beta1_rest(C(1 - p.beta1)),
        beta2(C(p.beta2)),
        beta2_rest(C(1 - p.beta2)),
        eps(C(p.eps)),
        sign(C(p.maximize ? -1 : 1)),
        step_size(C(p.step_size)),
        root_correction(C(p.root_correction)) {}

  template <class T>
  NNART_HD void operator()(T& param, T grad, T& exp_avg, T& exp_avg_sq) const {
    moments(grad, exp_avg, exp_avg_sq);
    move(param, exp_avg, exp_avg_sq);
  }
  template <class T>
  NNART_HD void operator()(T& param, T grad, T& exp_avg, T& exp_avg_sq, T& max_exp_avg_sq) const {
    moments(grad, exp_avg, exp_avg_sq);
    max_exp_avg_sq = select(max_exp_avg_sq >= exp_avg_sq, max_exp_avg_sq, exp_avg_sq);
    move(param, exp_avg, max_exp_avg_sq);
  }

 private:
  template <class T>
  NNART_HD void moments(T grad, T& exp_avg, T& exp_avg_sq) const {
    T g = grad * T(sign);
    exp_avg = exp_avg * T(beta1) + g * T(beta1_rest);
    exp_avg_sq = exp_avg_sq * T(beta2) + T(beta2_rest) * (g * g);
  }
  template <class T>
  NNART_HD void move(T& param, T exp_avg, T second_moment) const {
    T denominator = sqrt(second_moment) * T(root_correction) + T(eps);
    param = param * T(kept) - T(step_size) * (exp_avg / denominator);
  }
};

}  // namespace math
}  // namespace nnart
