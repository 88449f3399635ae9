#include "ops/conv_native.h"

#include <algorithm>
#include <array>

namespace nnart {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

std::vector<int64_t> zeros_like(const std::vector<int64_t>& values) { return std::vector<int64_t>(values.size()); }

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const NativeGeometry& g,
                   bool transposed, const std::vector<int64_t>& output_padding) {
  std::array<StableIValue, 9> stack{from(x),          from(weight),         from(bias),
                                    from(g.stride),   from(g.padding),      from(g.dilation),
                                    from(transposed), from(output_padding), from(g.groups)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

// The channels of t last, or where they were.
Tensor in_order(Tensor t, bool channels_last) {
  for (int64_t d = 1; channels_last && d + 1 < t.dim(); ++d) t = torch::stable::transpose(t, d, d + 1);
  return t;
}

// A row for each image.
Tensor rows_of(const Tensor& t, bool channels_last) {
  return torch::stable::flatten(in_order(t, channels_last), 1, -1);
}

// The way back: sizes are (rows, channels, ...).
Tensor images_of(const Tensor& rows, std::vector<int64_t> sizes, bool channels_last) {
  if (channels_last) std::rotate(sizes.begin() + 1, sizes.begin() + 2, sizes.end());
  Tensor images = torch::stable::reshape(rows, sizes);
  for (int64_t d = images.dim() - 1; channels_last && d > 1; --d) images = torch::stable::transpose(images, d - 1, d);
  return images;
}

std::vector<int64_t> sizes_with(const Tensor& t, int64_t first) {
  std::vector<int64_t> sizes(t.sizes().begin(), t.sizes().end());
  sizes[0] = first;
  return sizes;
}

}  // namespace

Tensor matmul_conv(const Tensor& x, const Tensor& weight, bool channels_last) {
  Tensor by = torch::stable::transpose(rows_of(weight, channels_last), 0, 1);
  Tensor y = torch::stable::matmul(rows_of(x, channels_last), by);
  std::vector<int64_t> sizes(size_t(x.dim()), 1);
  sizes[0] = x.size(0);
  sizes[1] = weight.size(0);
  return images_of(y, sizes, channels_last);
}

Tensor matmul_conv_transpose(const Tensor& y, const Tensor& weight, bool channels_last) {
  Tensor x = torch::stable::matmul(rows_of(y, channels_last), rows_of(weight, channels_last));
  return images_of(x, sizes_with(weight, y.size(0)), channels_last);
}

Tensor matmul_conv_wgrad(const Tensor& grad_y, const Tensor& x, bool channels_last) {
  Tensor rows = torch::stable::transpose(rows_of(grad_y, channels_last), 0, 1);
  Tensor weight = torch::stable::matmul(rows, rows_of(x, channels_last));
  return images_of(weight, sizes_with(x, grad_y.size(1)), channels_last);
}

Tensor native_conv(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const NativeGeometry& g) {
  return convolution(x, weight, bias, g, false, zeros_like(g.padding));
}

Tensor native_conv_transpose(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                             const NativeGeometry& g, const std::vector<int64_t>& output_padding) {
  return convolution(x, weight, bias, g, true, output_padding);
}

Tensor native_conv_wgrad(const Tensor& grad_y, const Tensor& x, const Tensor& weight, const NativeGeometry& g) {
  const bool mask[] = {false, true, false};
  std::array<StableIValue, 11> stack{
      from(grad_y),
      from(x),
      from(weight),
      from(std::optional<std::vector<int64_t>>()),
      from(g.stride),
      from(g.padding),
      from(g.dilation),
      from(false),
      from(zeros_like(g.padding)),
      from(g.groups),
      from(torch::headeronly::HeaderOnlyArrayRef<bool>(mask, 3)),
  };
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  // All three results are owned here, the two that were not wanted are undefined tensors.
  Tensor grad_x = to<Tensor>(stack[0]), grad_weight = to<Tensor>(stack[1]), grad_bias = to<Tensor>(stack[2]);
  return grad_weight;
}

}  // namespace nnart
