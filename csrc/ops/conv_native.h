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

// The three passes where each image of x is one window, without a bias. Every operand is read in the order of the
// elements of an image of x, which is channels-last or not; a weight in the other order is copied.
Tensor matmul_conv(const Tensor& x, const Tensor& weight, bool channels_last);
Tensor matmul_conv_transpose(const Tensor& y, const Tensor& weight, bool channels_last);
Tensor matmul_conv_wgrad(const Tensor& grad_y, const Tensor& x, bool channels_last);

// Of weight only sizes and strides are read.
Tensor native_conv_wgrad(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const NativeGeometry&);

}  // namespace nnart
