// Softmax and what is built on it, an element at a time. A row is the elements that sum to one; its statistics are
// `largest`, the maximum, and the sum of e^(x - largest), which neither overflows nor vanishes. T is a scalar or a SIMD
// vector. A NaN in a row, a +inf, or nothing but -inf makes all of the row NaN.
#pragma once

#include "math/portable.h"

namespace nnart::math {

// e^(x - largest) / sum
template <class T>
struct Softmax {
  T largest, inverse_sum;
  NNART_HD T operator()(T x) const { return exp_not_above_one(x - largest) * inverse_sum; }
};

// log(e^(x - largest) / sum)
template <class T>
struct LogSoftmax {
  T largest, log_sum;
  NNART_HD T operator()(T x) const { return x - largest - log_sum; }
};

// From y = softmax(x): y (grad_y - the row's sum of y grad_y).
template <class T>
struct SoftmaxBackward {
  T sum;
  NNART_HD static T term(T grad_y, T y) { return grad_y * y; }
  NNART_HD T operator()(T grad_y, T y) const { return (grad_y - sum) * y; }
};

// From y = log_softmax(x): grad_y - e^y (the row's sum of grad_y).
template <class T>
struct LogSoftmaxBackward {
  T sum;
  NNART_HD static T term(T grad_y, T) { return grad_y; }
  NNART_HD T operator()(T grad_y, T y) const { return grad_y - exp(y) * sum; }
};

// The derivative of a row's cross-entropy -sum_c q_c log softmax(x)_c, the q of all classes adding up to total:
// grad (total softmax(x) - q).
template <class T>
struct CrossEntropyBackward {
  T largest, log_sum, grad, grad_total;  // grad_total = grad total
  NNART_HD T operator()(T x, T q) const { return exp_not_above_one(x - largest - log_sum) * grad_total - q * grad; }
};

}  // namespace nnart::math
