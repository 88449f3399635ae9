// torch's own convolution through the dispatcher, for the problems where it is at the limit of the machine. Called
// below autograd; padding is one number an axis and tensors are batched.
#pragma once

#include <optional>
#include <vector>

#include "ops/checks.h"

namespace nnart {

struct NativeGeometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
};

Tensor native_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const NativeGeometry&);

// x and weight may be uninitialized where only their sizes and strides are read: x for grad_x, weight for grad_weight.
enum class NativeGradient { X, Weight };
Tensor native_conv_backward(NativeGradient wanted, const Tensor& grad_y, const Tensor& x, const Tensor& weight,
                            const NativeGeometry&);

}  // namespace nnart
