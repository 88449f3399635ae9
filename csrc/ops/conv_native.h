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

Tensor native_conv_transpose(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const NativeGeometry&, const std::vector<int64_t>& output_padding);

// Of weight only sizes and strides are read.
Tensor native_conv_wgrad(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const NativeGeometry&);

}  // namespace nnart
