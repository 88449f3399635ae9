// The optimizers' update rules: one element's arithmetic. T is float or double, or a SIMD vector of them; C is its
// scalar.
//
// A rule is built once a tensor and step, in double, from the group's hyperparameters, the number t of this step (from
// 1) and the tensor's own scalars; it then updates the parameter and its state in registers. What all optimizers share
// is done before a rule sees an element: the gradient's scale and sign, clipping, L2 penalty and decoupled decay.
#pragma once

#include "math/portable.h"

namespace nnart::math {

// One-element state of a tensor (NAdam's product, ASGD's rates) and how its tensor rounds it.
struct OptimizerScalars {
  double value[2];
  bool single;
  double epsilon;  // of the parameter's dtype
  bool factored;   // the variance is had from its factors, which are averaged before
  NNART_HD double rounded(double x) const { return single ? double(float(x)) : x; }
};

// 1, 0 or -1; 0 for NaN, as torch.sign.
template <class T>
NNART_HD T sign(T x) {
  return select(x > T(0), T(1), select(x < T(0), T(-1), T(0)));
}

// The larger one; NaN if either is.
template <class T>
NNART_HD T larger(T a, T b) {
  return select(b != b, b, at_least(a, b));
}

// As torch.lerp: exact at both ends, NaN where both are infinite.
template <class T, class C>
NNART_HD T lerp(T from, T to, C weight) {
  if (weight < C(0.5)) return from + T(weight) * (to - from);
  return to - (to - from) * T(1 - weight);
}

enum class SgdKind { plain, momentum, nesterov };

// b = momentum b + (1 - dampening) g, and b = g in the first step;  p = p - lr (nesterov ? g + momentum b : b)
// (Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning")
template <class C, SgdKind kind>
struct Sgd {
  struct Hyper {
    double lr, momentum, dampening;
  };
  static constexpr int states = kind == SgdKind::plain ? 0 : 1, scalars = 0;
  C lr, momentum, undamped;

  NNART_HD Sgd(const Hyper& h, double t, OptimizerScalars&)
      : lr(C(h.lr)), momentum(C(h.momentum)), undamped(C(t == 1 ? 1 : 1 - h.dampening)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, [[maybe_unused]] T* state) const {
    if constexpr (kind != SgdKind::plain) {
      state[0] = state[0] * T(momentum) + g * T(undamped);
      g = kind == SgdKind::nesterov ? g + T(momentum) * state[0] : state[0];
    }
    param = param - T(lr) * g;
  }
};

// m = m + (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2: what Adam and its descendants keep.
template <class C>
struct Moments {
  C beta1_rest, beta2, beta2_rest;
  NNART_HD Moments(double b1, double b2) : beta1_rest(C(1 - b1)), beta2(C(b2)), beta2_rest(C(1 - b2)) {}
  template <class T>
  NNART_HD void operator()(T g, T& m, T& v) const {
    m = lerp(m, g, beta1_rest);
    v = v * T(beta2) + T(beta2_rest) * (g * g);
  }
};

NNART_HD double bias_correction(double beta, double t) { return 1 - ::pow(beta, t); }

// p = p - lr / (1 - beta1^t) m / (sqrt(w / (1 - beta2^t)) + eps), where w is v or, with AMSGrad, the largest v so far
// (Kingma and Ba 2015, arXiv:1412.6980; decoupled decay: Loshchilov and Hutter 2019, arXiv:1711.05101; AMSGrad: Reddi
// et al. 2018). NaN: w >= NaN is false, so w becomes NaN.
template <class C, bool amsgrad>
struct Adam {
  struct Hyper {
    double lr, beta1, beta2, eps;
  };
  static constexpr int states = amsgrad ? 3 : 2, scalars = 0;
  Moments<C> moments;
  C eps, step_size, root_correction;

  NNART_HD Adam(const Hyper& h, double t, OptimizerScalars&)
      : moments(h.beta1, h.beta2),
        eps(C(h.eps)),
        step_size(C(h.lr / bias_correction(h.beta1, t))),
        root_correction(C(1 / ::sqrt(bias_correction(h.beta2, t)))) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    moments(g, state[0], state[1]);
    if constexpr (amsgrad) state[2] = select(state[2] >= state[1], state[2], state[1]);
    T denominator = sqrt(state[amsgrad ? 2 : 1]) * T(root_correction) + T(eps);
    param = param - T(step_size) * (state[0] / denominator);
  }
};

// s = s + g^2;  p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)  (Duchi et al. 2011)
template <class C>
struct Adagrad {
  struct Hyper {
    double lr, lr_decay, eps;
  };
  static constexpr int states = 1, scalars = 0;
  C lr, eps;

  NNART_HD Adagrad(const Hyper& h, double t, OptimizerScalars&)
      : lr(C(h.lr / (1 + (t - 1) * h.lr_decay))), eps(C(h.eps)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    state[0] = state[0] + g * g;
    param = param - T(lr) * (g / (sqrt(state[0]) + T(eps)));
  }
};

// v = alpha v + (1 - alpha) g^2, centered: less the square of the gradient's own average;  d = g / (sqrt(v) + eps);
// momentum: b = momentum b + d, d = b;  p = p - lr d
// (Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850). State: v, then b, then the average.
template <class C, bool centered, bool has_momentum>
struct RmsProp {
  struct Hyper {
    double lr, alpha, eps, momentum;
  };
  static constexpr int states = 1 + has_momentum + centered, scalars = 0;
  C lr, alpha, alpha_rest, eps, factor;

  NNART_HD RmsProp(const Hyper& h, double, OptimizerScalars&)
      : lr(C(h.lr)), alpha(C(h.alpha)), alpha_rest(C(1 - h.alpha)), eps(C(h.eps)), factor(C(h.momentum)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    state[0] = state[0] * T(alpha) + T(alpha_rest) * (g * g);
    T variance = state[0];
    if constexpr (centered) {
      T& average = state[1 + has_momentum];
      average = lerp(average, g, alpha_rest);
      variance = variance - average * average;
    }
    T direction = g / (sqrt(variance) + T(eps));
    if constexpr (has_momentum) direction = state[1] = state[1] * T(factor) + direction;
    param = param - T(lr) * direction;
  }
};

// v = rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) g;  u = rho u + (1 - rho) d^2;  p = p - lr d
// (Zeiler 2012, arXiv:1212.5701)
template <class C>
struct Adadelta {
  struct Hyper {
    double lr, rho, eps;
  };
  static constexpr int states = 2, scalars = 0;
  C lr, rho, rho_rest, eps;

  NNART_HD Adadelta(const Hyper& h, double, OptimizerScalars&)
      : lr(C(h.lr)), rho(C(h.rho)), rho_rest(C(1 - h.rho)), eps(C(h.eps)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    state[0] = state[0] * T(rho) + T(rho_rest) * (g * g);
    T direction = sqrt(state[1] + T(eps)) / sqrt(state[0] + T(eps)) * g;
    state[1] = state[1] * T(rho) + T(rho_rest) * (direction * direction);
    param = param - T(lr) * direction;
  }
};

// m = beta1 m + (1 - beta1) g;  u = max(beta2 u, |g| + eps);  p = p - lr / (1 - beta1^t) m / u
// (Kingma and Ba 2015, section 7.1)
template <class C>
struct Adamax {
  struct Hyper {
    double lr, beta1, beta2, eps;
  };
  static constexpr int states = 2, scalars = 0;
  C beta1_rest, beta2, eps, step_size;

  NNART_HD Adamax(const Hyper& h, double t, OptimizerScalars&)
      : beta1_rest(C(1 - h.beta1)),
        beta2(C(h.beta2)),
        eps(C(h.eps)),
        step_size(C(h.lr / bias_correction(h.beta1, t))) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    state[0] = lerp(state[0], g, beta1_rest);
    state[1] = larger(state[1] * T(beta2), abs(g) + T(eps));
    param = param - T(step_size) * (state[0] / state[1]);
  }
};

// mu_t = beta1 (1 - 0.96^(t decay) / 2), M = mu_1 ... mu_t;
// p = p - lr ((1 - mu_t) / (1 - M) g + mu_(t+1) / (1 - M mu_(t+1)) m) / (sqrt(v / (1 - beta2^t)) + eps)
// (Dozat 2016, "Incorporating Nesterov momentum into Adam")
template <class C>
struct NAdam {
  struct Hyper {
    double lr, beta1, beta2, eps, momentum_decay;
  };
  static constexpr int states = 2, scalars = 1;
  Moments<C> moments;
  C eps, root_correction, grad_size, average_size;

  NNART_HD NAdam(const Hyper& h, double t, OptimizerScalars& scalars)
      : moments(h.beta1, h.beta2), eps(C(h.eps)), root_correction(C(1 / ::sqrt(bias_correction(h.beta2, t)))) {
    double mu = h.beta1 * (1 - 0.5 * ::pow(0.96, t * h.momentum_decay));
    double next = h.beta1 * (1 - 0.5 * ::pow(0.96, (t + 1) * h.momentum_decay));
    double product = scalars.value[0] = scalars.rounded(scalars.value[0] * scalars.rounded(mu));
    grad_size = C(h.lr * (1 - mu) / (1 - product));
    average_size = C(h.lr * next / (1 - product * next));
  }

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    moments(g, state[0], state[1]);
    T denominator = sqrt(state[1]) * T(root_correction) + T(eps);
    param = param - (T(grad_size) * g + T(average_size) * state[0]) / denominator;
  }
};

// p = p - lr r / (1 - beta1^t) m sqrt(1 - beta2^t) / (sqrt(v) + eps), r being the rectification of v's variance; while
// that is not tractable (rho_t <= 5): p = p - lr / (1 - beta1^t) m  (Liu et al. 2020, arXiv:1908.03265)
template <class C>
struct RAdam {
  struct Hyper {
    double lr, beta1, beta2, eps;
  };
  static constexpr int states = 2, scalars = 0;
  Moments<C> moments;
  C eps, step_size;
  bool tractable;

  NNART_HD RAdam(const Hyper& h, double t, OptimizerScalars&) : moments(h.beta1, h.beta2), eps(C(h.eps)) {
    double correction = bias_correction(h.beta2, t);
    double limit = 2 / (1 - h.beta2) - 1;
    double rho = limit - 2 * t * ::pow(h.beta2, t) / correction;
    double size = h.lr / bias_correction(h.beta1, t);
    tractable = rho > 5;
    if (tractable) {
      double rectified = (rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho);
      size *= ::sqrt(rectified) * ::sqrt(correction);
    }
    step_size = C(size);
  }

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    moments(g, state[0], state[1]);
    T direction = tractable ? state[0] / (sqrt(state[1]) + T(eps)) : state[0];
    param = param - T(step_size) * direction;
  }
};

// p = p (1 - lambd eta) - eta g;  a = a + mu (p - a), and a = p while mu is 1;
// then eta = lr / (1 + lambd lr t)^alpha, mu = 1 / max(1, t - t0)  (Polyak and Juditsky 1992). Scalars: eta, mu.
template <class C>
struct Asgd {
  struct Hyper {
    double lr, lambd, alpha, t0;
  };
  static constexpr int states = 1, scalars = 2;
  C kept, eta, mu;
  bool averages;

  NNART_HD Asgd(const Hyper& h, double t, OptimizerScalars& scalars)
      : kept(C(1 - h.lambd * scalars.value[0])),
        eta(C(scalars.value[0])),
        mu(C(scalars.value[1])),
        averages(scalars.value[1] != 1) {
    scalars.value[0] = scalars.rounded(h.lr / ::pow(1 + h.lambd * h.lr * t, h.alpha));
    scalars.value[1] = scalars.rounded(t - h.t0 > 1 ? 1 / (t - h.t0) : 1);
  }

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    param = param * T(kept) - T(eta) * g;
    state[0] = averages ? state[0] + T(mu) * (param - state[0]) : param;
  }
};

// s = s (eta+ where g and the last g agree in sign, eta- where they disagree), within its bounds; g = 0 where they
// disagree;  p = p - sign(g) s  (Riedmiller and Braun 1993). State: the last g, then s.
template <class C>
struct Rprop {
  struct Hyper {
    double lr, eta_minus, eta_plus, least, most;
  };
  static constexpr int states = 2, scalars = 0;
  C eta_minus, eta_plus, least, most;

  NNART_HD Rprop(const Hyper& h, double, OptimizerScalars&)
      : eta_minus(C(h.eta_minus)), eta_plus(C(h.eta_plus)), least(C(h.least)), most(C(h.most)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    T agreement = g * state[0];
    T factor = select(agreement > T(0), T(eta_plus), select(agreement < T(0), T(eta_minus), T(1)));
    state[1] = at_most(at_least(state[1] * factor, T(least)), T(most));
    state[0] = select(agreement < T(0), T(0), g);
    param = param - sign(state[0]) * state[1];
  }
};

// p = p - lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g  (Chen et al. 2023, arXiv:2302.06675)
template <class C>
struct Lion {
  struct Hyper {
    double lr, beta1, beta2;
  };
  static constexpr int states = 1, scalars = 0;
  C lr, beta1, beta1_rest, beta2, beta2_rest;

  NNART_HD Lion(const Hyper& h, double, OptimizerScalars&)
      : lr(C(h.lr)), beta1(C(h.beta1)), beta1_rest(C(1 - h.beta1)), beta2(C(h.beta2)), beta2_rest(C(1 - h.beta2)) {}

  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    param = param - T(lr) * sign(state[0] * T(beta1) + g * T(beta1_rest));
    state[0] = state[0] * T(beta2) + g * T(beta2_rest);
  }
};

// The layer-wise rules take two passes over a tensor: measure gives what, beside the parameter, the norm is taken of,
// and what it does to the state is forgotten; then scale turns the norms into the tensor's own learning rate, and the
// call does all there is to do.

// u = m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p;  p = p - lr |p| / |u| u, and the ratio is 1
// where a norm is 0  (You et al. 2020, arXiv:1904.00962)
template <class C>
struct Lamb {
  struct Hyper {
    double lr, beta1, beta2, eps, weight_decay;
  };
  static constexpr int states = 2, scalars = 0;
  Moments<C> moments;
  C eps, weight_decay, correction, root_correction, lr;

  NNART_HD Lamb(const Hyper& h, double t, OptimizerScalars&)
      : moments(h.beta1, h.beta2),
        eps(C(h.eps)),
        weight_decay(C(h.weight_decay)),
        correction(C(1 / bias_correction(h.beta1, t))),
        root_correction(C(1 / ::sqrt(bias_correction(h.beta2, t)))),
        lr(C(h.lr)) {}

  template <class T>
  NNART_HD T measure(T param, T g, T* state) const {
    moments(g, state[0], state[1]);
    return T(correction) * state[0] / (sqrt(state[1]) * T(root_correction) + T(eps)) + T(weight_decay) * param;
  }
  NNART_HD void scale(double param_norm, double update_norm, double) {
    if (param_norm > 0 && update_norm > 0) lr = C(lr * (param_norm / update_norm));
  }
  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    param = param - T(lr) * measure(param, g, state);
  }
};

// r = trust |p| / (|g| + weight_decay |p| + eps), and 1 where a norm is 0;  b = momentum b + lr r (g + weight_decay p);
// p = p - (nesterov ? lr r (g + weight_decay p) + momentum b : b)  (You et al. 2017, arXiv:1708.03888)
template <class C, bool nesterov>
struct Lars {
  struct Hyper {
    double lr, momentum, dampening, weight_decay, trust_coefficient, eps;
  };
  static constexpr int states = 1, scalars = 0;
  double lr, trust_coefficient, norm_decay, norm_eps;
  C momentum, undamped, weight_decay, rate;

  NNART_HD Lars(const Hyper& h, double t, OptimizerScalars&)
      : lr(h.lr),
        trust_coefficient(h.trust_coefficient),
        norm_decay(h.weight_decay),
        norm_eps(h.eps),
        momentum(C(h.momentum)),
        undamped(C(t == 1 ? 1 : 1 - h.dampening)),
        weight_decay(C(h.weight_decay)),
        rate(C(h.lr)) {}

  template <class T>
  NNART_HD T measure(T, T g, T*) const {
    return g;
  }
  NNART_HD void scale(double param_norm, double grad_norm, double) {
    if (param_norm > 0 && grad_norm > 0)
      rate = C(lr * trust_coefficient * param_norm / (grad_norm + norm_decay * param_norm + norm_eps));
  }
  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    T update = T(rate) * (g + T(weight_decay) * param);
    state[0] = state[0] * T(momentum) + update * T(undamped);
    param = param - (nesterov ? update + T(momentum) * state[0] : state[0]);
  }
};

// rest = t^beta2_decay;  v = v + rest (g^2 - v);  u = g / sqrt(max(v, eps1^2));
// p = p - min(lr, 1 / sqrt(t)) max(eps2, RMS(p)) / max(1, RMS(u) / clip) u
// Of a matrix rows and columns have a v each, which are averaged before: what the rule is given as v is their product
// over the rows' mean, and its rest is 0. eps1 is the dtype's own if it is NaN.  (Shazeer and Stern 2018,
// arXiv:1804.04235)
template <class C>
struct Adafactor {
  struct Hyper {
    double lr, beta2_decay, eps1, eps2, clip;
  };
  static constexpr int states = 1, scalars = 0;
  double rate, least_param, clip, eps1;
  C rest, size;
  bool factored;

  NNART_HD Adafactor(const Hyper& h, double t, OptimizerScalars& s)
      : rate(h.lr < 1 / ::sqrt(t) ? h.lr : 1 / ::sqrt(t)),
        least_param(h.eps2),
        clip(h.clip),
        eps1(h.eps1 == h.eps1 ? h.eps1 : s.epsilon),
        rest(C(::pow(t, h.beta2_decay))),
        size(0),
        factored(s.factored) {}

  template <class T>
  NNART_HD T measure(T, T g, T* state) const {
    if (!factored) state[0] = lerp(state[0], g * g, rest);
    return g / sqrt(at_least(state[0], T(eps1 * eps1)));
  }
  NNART_HD void scale(double param_norm, double update_norm, double n) {
    double param = param_norm / ::sqrt(n), update = update_norm / ::sqrt(n) / clip;
    size = C(rate * (param > least_param ? param : least_param) / (update > 1 ? update : 1));
  }
  template <class T>
  NNART_HD void operator()(T& param, T g, T* state) const {
    param = param - T(size) * measure(param, g, state);
  }
};

}  // namespace nnart::math
