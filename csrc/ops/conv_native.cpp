#include "ops/conv_native.h"

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
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

}  // namespace

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
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
  // All three results are owned here, the two that were not wanted are undefined tensors.
  Tensor grad_x = to<Tensor>(stack[0]), grad_weight = to<Tensor>(stack[1]), grad_bias = to<Tensor>(stack[2]);
  return grad_weight;
}

}  // namespace nnart
