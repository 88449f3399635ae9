// What follows a convolution, ConvArgs.finish: clamps are applied in registers, the rest to pieces of the output that
// were just written.
#pragma once

#include <cmath>

#include "cpu/elementary.h"
#include "cpu/kernels.h"

namespace nnart::cpu {
namespace {

// Whether it only limits y to an interval, as ReLU, ReLU6 and Hardtanh do.
NNART_HD bool is_clamp(const ActivationArgs& finish) {
  return !beside(finish) && (finish.activation == Activation::Relu || finish.activation == Activation::Hardtanh);
}

template <class T>
struct Interval {
  Vec<T> low, high;
  Interval() = default;
  NNART_HD Vec<T> of(Vec<T> y) const { return at_most(at_least(y, low), high); }
  NNART_HD explicit Interval(const ActivationArgs& clamp)
      : low(clamp.activation == Activation::Relu ? 0.0 : clamp.parameters.a),
        high(clamp.activation == Activation::Relu ? HUGE_VAL : clamp.parameters.b) {}
};

// Applies it to the elements [first, first + n) of y.
template <class S>
void finish_piece(const ActivationArgs& how, int64_t first, int64_t n) {
  ActivationArgs piece = how;
  piece.n = n;
  piece.x = piece.y = static_cast<S*>(how.y) + first;
  if (how.residual) piece.residual = static_cast<const S*>(how.residual) + first;
  if (how.grad_y) {
    piece.grad_y = piece.y;
    piece.x = static_cast<const S*>(how.x) + first;
  }
  Kernels<Isa::NNART_ISA>::launch(piece);
}

}  // namespace
}  // namespace nnart::cpu
